"""Description of a data set: column kinds, objectives and the target."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np

from recsys.errors import ConfigError, DataError
from recsys.expressions import ACTION_TYPES, GROUPS, Columns, Expression, compile_expression

Kind = Literal["category", "categories", "number", "text", "vector", "timestamp"]
KINDS: tuple[str, ...] = get_args(Kind)
Order = Literal["time", "file", "user", "none"]
ORDERS: dict[Order, str] = {
    "time": "",
    "file": "the number of the row stands in its place",
    "user": "the place in the user's own list stands in its place, users cannot be compared",
    "none": "the events of a user are a set",
}
"""order of the events -> note on the substitute for time"""

USER, ITEM, TIMESTAMP = "user", "item", "timestamp"
SPLIT = "split"
"""column of the interactions with the part of a published split"""
PARTS = {
    "train": ("train", "training", "fit"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
"""part of a published split -> accepted words, case-insensitive"""
TEXT = "text"
"""name of the joint feature of all columns of kind text (recsys/content/words.py)"""


@dataclass(frozen=True, kw_only=True)
class Description:
    """Columns of the three tables; raises DataError when they contradict each other.

    Kinds: `category` one string, `categories` a set of strings, `number` a float, `text` human-readable words,
    `vector` floats of one fixed length, `timestamp` unix seconds UTC.
    """

    actions: Mapping[str, str]
    """columns of the interactions that describe the user's action, unknown before the event -> number or word; a list of
    names means numbers"""
    context: dict[str, Kind]
    """columns of the interactions that are known at request time"""
    items: dict[str, Kind]
    users: dict[str, Kind]
    objectives: dict[str, str]
    """name -> expression over the actions; the order is the order of the objective axis T everywhere"""
    target: str
    """the objective whose positive label makes an event a positive of retrieval"""
    title: str | None
    """column of the items with a display name"""
    order: Order
    """`time`: timestamps are seconds. Otherwise they only order: `file`, the row number; `user`, the row number within
    the same user; `none`, no order, all are 0"""
    means: dict[str, str] = field(default_factory=dict)
    """name -> expression over the objectives, available to value formulas"""
    split: bool = False
    """the data set has a published split: column SPLIT of the interactions holds one of PARTS"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "actions", kinds_of_actions(self.actions))
        for key in ("context", "items", "users"):
            _check_kinds(key, getattr(self, key))
        _check_reserved(self)
        _check_objectives(self)
        readable = [column for column, kind in self.items.items() if kind in ("text", "category")]
        if self.title is not None and self.title not in readable:
            raise DataError(
                f"title names {self.title!r}, which is no text or category column of the items"
                f"{did_you_mean(self.title, readable)}; name one of them or leave title out"
            )
        if self.order not in ORDERS:
            raise DataError(f"order is {self.order!r}; write one of {', '.join(ORDERS)}")

    @property
    def clock(self) -> bool:
        """Return whether timestamps are seconds."""
        return self.order == "time"

    @property
    def timeline(self) -> bool:
        """Return whether events of different users can be ordered."""
        return self.order in ("time", "file")

    def expressions(self) -> dict[str, Expression]:
        """Return the compiled objectives in order."""
        types = {name: ACTION_TYPES[kind] for name, kind in self.actions.items()}
        return {name: _compiled(f"objectives.{name}", text, types, "label") for name, text in self.objectives.items()}

    def labels(self, actions: Columns, num_rows: int, groups: np.ndarray | None = None) -> np.ndarray:
        """Return the objectives of events, [R, T] float32, NaN where the label is missing.

        groups: [R] int, groups over which objectives count events; None makes each event its own group.
        """
        columns = actions if groups is None else {**actions, GROUPS: groups}
        values = [np.broadcast_to(one.labels(columns), (num_rows,)) for one in self.expressions().values()]
        return np.stack(values, axis=1)

    def to_document(self) -> dict[str, Any]:
        """Return a plain dictionary for YAML or JSON; `from_document` is its inverse."""
        return asdict(self)

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> "Description":
        """Read a document; DataError for an unknown or a missing key."""
        known = [one.name for one in fields(Description)]
        refuse_unknown("the description", document, known)
        needed = [key for key in known if key not in ("means", "split")]
        if missing := [key for key in needed if key not in document]:
            raise DataError(f"the description has no {missing[0]!r}; it needs {', '.join(needed)}")
        return Description(**document)


def part_of_split(word: str) -> str | None:
    """Return the part of a split that a word denotes, None for another word."""
    plain = word.strip().lower()
    return next((part for part, words in PARTS.items() if plain in words), None)


def kinds_of_actions(actions: Iterable[str]) -> dict[str, str]:
    """Return name -> kind of the actions; DataError for an unknown kind."""
    kinds = {str(name): kind for name, kind in actions.items()} if isinstance(actions, Mapping) else None
    for name, kind in (kinds or {}).items():
        if kind not in ACTION_TYPES:
            near = did_you_mean(kind, ACTION_TYPES)
            raise DataError(f"interactions.actions: {name!r} is of kind {kind!r}{near}; write number or word")
    return dict.fromkeys(actions, "number") if kinds is None else kinds


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ' (did you mean X?)' for the nearest known name, or an empty text."""
    near = difflib.get_close_matches(str(name), [str(one) for one in known], n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def refuse_unknown(where: str, document: Iterable[str], known: Iterable[str]) -> None:
    """Raise DataError for the first unknown key of `document`."""
    known = list(known)
    for key in document:
        if key not in known:
            raise DataError(
                f"{where} has the unknown key {key!r}{did_you_mean(key, known)}; known are {', '.join(known)}"
            )


def _check_kinds(where: str, columns: Mapping[str, str]) -> None:
    for column, kind in columns.items():
        if kind not in KINDS:
            raise DataError(
                f"{where}: column {column!r} has the unknown kind {kind!r}{did_you_mean(kind, KINDS)}; "
                f"write one of {', '.join(KINDS)}"
            )


def _reserved(description: Description) -> tuple[str, ...]:
    """Return the column names that no action and no context may have."""
    return (USER, ITEM, TIMESTAMP, SPLIT) if description.split else (USER, ITEM, TIMESTAMP)


def _check_reserved(description: Description) -> None:
    taken = {
        "interactions": ((*description.actions, *description.context), _reserved(description)),
        "items": (tuple(description.items), (ITEM,)),
        "users": (tuple(description.users), (USER,)),
    }
    if description.items.get(TEXT, "text") != "text" and "text" in description.items.values():
        raise DataError(f"items: {TEXT!r} is what all columns of kind text become together; rename that column")
    for table, (columns, reserved) in taken.items():
        for index, column in enumerate(columns):
            if column in reserved:
                raise DataError(f"{table}: a column may not be called {column!r}, that name is reserved; rename it")
            if column in columns[:index]:
                raise DataError(f"{table}: column {column!r} is both action and context; keep it in one of them")


def _check_objectives(description: Description) -> None:
    if not description.objectives:
        raise DataError('objectives is empty; name at least one, for instance {watch: "1"}')
    for name in description.objectives:
        if not str(name).isidentifier():
            raise DataError(f"the objective {name!r} is no plain name; use letters, digits and _")
    if not isinstance(description.target, str) or description.target not in description.objectives:
        raise DataError(
            f"target is {description.target!r}{did_you_mean(description.target, description.objectives)}; "
            f"name one of the objectives {', '.join(description.objectives)}"
        )
    description.expressions()
    for name, text in description.means.items():
        if not str(name).isidentifier() or name in description.objectives:
            raise DataError(f"the mean {name!r} is no plain name of its own; use letters, digits and _")
        _compiled(f"means.{name}", text, dict.fromkeys(description.objectives, "number"), "number")


def _compiled(where: str, text: str, types: Mapping[str, str], kind: str) -> Expression:
    if not isinstance(text, str):
        raise DataError(f'{where} is {text!r}; write an expression in quotes, for instance "{text}"')
    try:
        return compile_expression(text, types, where=where, result_type=kind)
    except ConfigError as error:
        raise DataError(str(error)) from None
