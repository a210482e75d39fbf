"""THE definition of the features: which columns there are, what they know, and the tensors they become.

A table (items, profile, context) is encoded into at most three tensors a row: `ids` (slots of vocabulary indices),
`numbers` (standardised values, each with a missing flag) and `vectors`. Training, evaluation and serving all go through
the functions beside this file, so a feature cannot mean two things.
"""

import hashlib
import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from recsys.errors import ConfigError, check_ranges
from recsys.expressions import ACTION_TYPES, Expression, compile_expression, suggestion

SCHEMA = 1
MISSING = 0
"""index of an absent category value, also of padding"""
UNKNOWN = 1
"""index of a value that training never saw"""
RESERVED = 2
TIME_NUMBERS = ("hour_sin", "hour_cos", "weekday_sin", "weekday_cos")
"""derived from Query.now (UTC) and appended to the context's numbers"""

ROUNDING = 1e-9
"""of numbers, below which their spread is none"""
IDENTITY = "item"
"""the column of the items that says who an item is, not what it is like"""
TABLES = ("items", "profile", "context")

Columns = Mapping[str, np.ndarray]
EncodedKind = Literal["category", "categories", "number", "vector"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column with all that was fitted on the training period."""

    name: str
    kind: EncodedKind
    vocabulary: tuple[str, ...] = ()
    """known values of a category, most frequent first, then by crc32; a value has index RESERVED + its place"""
    slots: int = 1
    """ids a row: 1 for a category, the longest kept list for categories, the length of a vector"""
    mean: float = 0.0
    scale: float = 1.0
    """a number x is encoded as (x - mean) / scale, a missing one as 0 with its flag set"""

    @property
    def num_ids(self) -> int:
        return RESERVED + len(self.vocabulary)

    @cached_property
    def index(self) -> dict[str, int]:
        """known value -> its id"""
        return {value: RESERVED + place for place, value in enumerate(self.vocabulary)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The columns of one table, in the order in which they stand in its tensors."""

    name: str
    columns: tuple[Column, ...]
    extra_numbers: tuple[str, ...] = ()

    def of_kind(self, *kinds: EncodedKind) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.kind in kinds)

    @property
    def widths(self) -> dict[str, int]:
        """Columns of each tensor; a tensor of width 0 does not exist."""
        widths = {
            "ids": sum(column.slots for column in self.of_kind("category", "categories")),
            "numbers": 2 * len(self.of_kind("number")) + len(self.extra_numbers),
            "vectors": sum(column.slots for column in self.of_kind("vector")),
        }
        return {name: width for name, width in widths.items() if width}

    @property
    def missing_numbers(self) -> tuple[float, ...]:
        """The numbers of a row of which nothing is known: every flag is set, what is derived from the time is 0."""
        return (0.0, 1.0) * len(self.of_kind("number")) + (0.0,) * len(self.extra_numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Name, element type and shape (without the batch; -1 is variable) of a tensor between stages."""

    name: str
    dtype: Literal["int64", "float32", "bytes"]
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Everything that turns records into arrays; its fingerprint binds a model to it."""

    items: Table
    profile: Table
    context: Table
    history_length: int
    """newest events of a user that the models see"""
    actions: Mapping[str, str]
    """name -> number or word; names alone are those of numbers"""
    objectives: Mapping[str, str]
    """name -> expression over the actions"""
    target: str
    """the objective that makes an event a retrieval positive"""
    clock: bool = True
    """timestamps are seconds; else they only order the events, and no feature reads more of them"""
    schema: int = field(default=SCHEMA)

    def __post_init__(self) -> None:
        if not isinstance(self.actions, Mapping):
            object.__setattr__(self, "actions", dict.fromkeys(self.actions, "number"))

    @property
    def num_objectives(self) -> int:
        return len(self.objectives)

    @cached_property
    def _expressions(self) -> tuple[Expression, ...]:
        return tuple(
            compile_expression(text, self.action_types, where=f"objectives.{name}", result_type="label")
            for name, text in self.objectives.items()
        )

    @property
    def action_types(self) -> dict[str, str]:
        """Name of an action -> its type in expressions."""
        return {name: ACTION_TYPES[kind] for name, kind in self.actions.items()}

    def labels(self, actions: Columns, num_rows: int) -> np.ndarray:
        """Objectives of events: [R, T] float32 in [0, inf), NaN where an action is missing."""
        nothing = {"number": np.full(num_rows, np.nan), "word": np.full(num_rows, None, dtype=object)}
        columns = {name: actions.get(name, nothing[kind]) for name, kind in self.actions.items()}
        values = [np.broadcast_to(expression.labels(columns), (num_rows,)) for expression in self._expressions]
        return np.stack(values, axis=1).astype(np.float32)

    def request_tensors(self) -> tuple[Tensor, ...]:
        """What a query becomes, before any candidate is known."""
        length = self.history_length
        history = _table_tensors("history", self.items, (length,))
        events = (
            Tensor(name="history_labels", dtype="float32", shape=(length, self.num_objectives)),
            Tensor(name="history_gaps", dtype="float32", shape=(length,)),
        )
        return history + events + _table_tensors("profile", self.profile) + _table_tensors("context", self.context)

    def candidate_tensors(self) -> tuple[Tensor, ...]:
        """What the ranker reads of each candidate, beside its retrieval scores."""
        return _table_tensors("candidate", self.items, (-1,))

    def item_tensors(self) -> tuple[Tensor, ...]:
        """What the item tower reads of an item."""
        return _table_tensors("item", self.items)

    def to_documents(self) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """The spec without its vocabularies, and these as {"table.column": values}."""
        document, vocabularies = asdict(self), {}
        if set(self.actions.values()) <= {"number"}:
            document["actions"] = list(self.actions)  # as before there were words: the fingerprint stays
        for table in TABLES:
            for column in document[table]["columns"]:
                vocabularies[f"{table}.{column['name']}"] = list(column.pop("vocabulary"))
        return document, vocabularies

    @staticmethod
    def from_documents(document: Mapping[str, Any], vocabularies: Mapping[str, list[str]]) -> "FeatureSpec":
        tables = {name: _table_from(name, document[name], vocabularies) for name in TABLES}
        return FeatureSpec(**{**document, **tables})

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of the sha256 of the canonical document."""
        text = json.dumps(self.to_documents(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _table_tensors(name: str, table: Table, leading: tuple[int, ...] = ()) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name=f"{name}_{part}", dtype="int64" if part == "ids" else "float32", shape=(*leading, width))
        for part, width in table.widths.items()
    )


def _table_from(name: str, document: Mapping[str, Any], vocabularies: Mapping[str, list[str]]) -> Table:
    columns = tuple(
        Column(**one, vocabulary=tuple(vocabularies[f"{name}.{one['name']}"])) for one in document["columns"]
    )
    return Table(name=name, columns=columns, extra_numbers=tuple(document["extra_numbers"]))


class Features:
    """How to fit a spec: the knobs, and `fit` that reads the training period only."""

    def __init__(self, *, history_length: int, max_values: int, min_count: int, leave_out: Sequence[str]) -> None:
        """
        history_length: newest events of a user that the models see, 1 to 1,000
        max_values: values kept of a `categories` list, 1 to 64
        min_count: a category value seen less often is UNKNOWN
        leave_out: columns of any table that are no features
        """
        check_ranges(
            "features",
            history_length=(history_length, 1, 1_000),
            max_values=(max_values, 1, 64),
            min_count=(min_count, 1, 1_000_000),
        )
        if isinstance(leave_out, str) or not all(isinstance(name, str) for name in leave_out):
            raise ConfigError(f"features.leave_out is {leave_out!r}; write a list of columns, e.g. [position]")
        self.history_length = history_length
        self.max_values = max_values
        self.min_count = min_count
        self.leave_out = frozenset(leave_out)

    def check(self, columns: Collection[str]) -> None:
        """ConfigError for a column to be left out that is not there or that cannot be."""
        for name in sorted(self.leave_out):
            if name == IDENTITY:
                raise ConfigError("features.leave_out names item, by which items are known; leave other columns out")
            if name not in columns:
                raise ConfigError(f"features.leave_out names the unknown column {name!r}; {suggestion(name, columns)}")

    def fit_table(
        self, name: str, kinds: Mapping[str, str], columns: Columns, extra_numbers: tuple[str, ...] = ()
    ) -> Table:
        """Vocabularies and scales of one table from its training rows: {column: [R]}; vectors are [R, D]."""
        fitted = [
            self._fit_column(column, kind, columns[column])
            for column, kind in kinds.items()
            if column not in self.leave_out and kind != "text"
        ]
        return Table(name=name, columns=tuple(fitted), extra_numbers=extra_numbers)

    def _fit_column(self, name: str, kind: str, values: np.ndarray) -> Column:
        if kind == "category":
            return Column(name=name, kind="category", vocabulary=self._vocabulary(values))
        if kind == "categories":
            lists = [tuple(one) for one in values if one is not None]
            longest = max((len(one) for one in lists), default=1)
            flat = np.array([value for one in lists for value in one], dtype=object)
            slots = max(1, min(self.max_values, longest))
            return Column(name=name, kind="categories", vocabulary=self._vocabulary(flat), slots=slots)
        if kind == "vector":
            return Column(name=name, kind="vector", slots=int(values.shape[1]))
        return _fit_number(name, values)

    def _vocabulary(self, values: np.ndarray) -> tuple[str, ...]:
        present = [value for value in values.tolist() if value is not None]
        if not present:
            return ()
        names, counts = np.unique(np.array(present, dtype=str), return_counts=True)
        kept = counts >= self.min_count
        names, counts = names[kept], counts[kept]
        checksums = np.array([zlib.crc32(name.encode()) for name in names.tolist()], dtype=np.int64)
        return tuple(names[np.lexsort((names, checksums, -counts))].tolist())


def _fit_number(name: str, values: np.ndarray) -> Column:
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return Column(name=name, kind="number")
    spread = float(known.std())
    constant = spread <= ROUNDING * float(np.abs(known).max())
    return Column(name=name, kind="number", mean=float(known.mean()), scale=1.0 if constant else spread)
