"""The objects that pass between the stages. Frozen, numpy and the standard library only.

Shapes: B queries of a batch, C candidates of a query (padded), S candidate sources, T objectives.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.errors import QueryError

MAX_K = 1_000
PAD = -1
FUTURE_S = 86_400.0
"""clocks may be ahead by this; what is later would stay the newest event of its user for good"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One interaction of a user with an item, as logged.

    `actions` maps action columns to numbers or words ({"rating": 4.0, "kind": "view"}); objectives are expressions over
    them, so that a caller needs no knowledge of the model. The last five fields are known only for what we served ourselves.
    """

    user: str
    item: str
    timestamp: float
    """unix seconds, UTC"""
    actions: Mapping[str, float | str] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    request_id: str | None = None
    position: int | None = None
    """0 is the first position of the slate"""
    propensity: float | None = None
    """probability that the logging policy showed this item here"""
    bundle: str | None = None
    rules: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One request: user, time, context and history."""

    user: str
    now: float
    """unix seconds, UTC"""
    k: int = 10
    context: Mapping[str, Any] = field(default_factory=dict)
    profile: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Event, ...] = ()
    """raw events, newest last"""
    surface: str = "default"
    exclude: tuple[str, ...] = ()
    """items that may not be shown, beside those that the history bars"""
    hidden: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """"item", or a category column of the catalogue -> values that the user does not want to see, not even pinned"""
    request_id: str = ""
    """seeds exploration, so that a slate can be replayed"""
    impressions: Mapping[str, float] = field(default_factory=dict)
    """item -> how often this user was shown it: frequency rules read it"""
    exposure: Mapping[str, float] = field(default_factory=dict)
    """"column=value" -> share of what everybody was shown, or counters of the caller's by any name: exposure rules and
    conditions read it
    """

    def to_json(self) -> str:
        """QueryError for a value that JSON does not know."""
        try:
            return json.dumps(self, default=_fields, separators=(",", ":"))
        except TypeError as error:
            raise QueryError(
                f"the query of user {self.user!r} cannot be sent: {error}; use plain Python values"
            ) from None

    @staticmethod
    def from_json(text: str | bytes) -> "Query":
        """Parse one JSON document; QueryError says which field is wrong."""
        try:
            document = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise QueryError(
                f"the query is not one JSON document: {error}; send an object with user, now and k"
            ) from None
        return query_from_dict(document)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Candidates of the retrieve stage, one row a query, best first, padded with PAD at the end."""

    items: np.ndarray
    """[B, C] int64, row of the item in the catalogue"""
    scores: np.ndarray
    """[B, C] float32, merged retrieval score, larger is better, -inf for padding"""
    source_scores: np.ndarray
    """[B, C, S] float32, score by each source, NaN where the source did not offer the item"""
    degraded: tuple[tuple[str, ...], ...]
    """per query, what was missing or skipped"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlateItem:
    """One position of the slate, with the reasons for its item."""

    item: str
    utility: float
    sources: tuple[str, ...]
    """candidate sources that offered the item, strongest first"""
    probabilities: Mapping[str, float]
    """calibrated probability of each objective; empty when the ranker was skipped"""
    rules: Mapping[str, str] = field(default_factory=dict)
    """name of each rule that touched the item -> what it did"""
    rank: int = -1
    """rank by utility alone, from 0; -1 for a pinned item"""
    propensity: float = 1.0
    """probability of this item at this position given those above it"""
    explored: bool = False
    """whether exploration put it here; another one scored better"""
    adds: Mapping[str, float] = field(default_factory=dict)
    """on request: group of the ranker's features -> utility with all minus utility without it, before rules"""
    because_of: str | None = None
    """on request: item of the history whose absence would cost most; None where no event supports this item"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slate:
    """The answer to one query."""

    user: str
    request_id: str
    items: tuple[SlateItem, ...]
    degraded: tuple[str, ...]
    """what was missing or skipped; empty when nothing was"""
    bundle: str
    """fingerprint of the bundle that answered"""
    rules: str
    """hash of the rule set that was applied"""
    exposure: Mapping[str, float] = field(default_factory=dict)
    """shares of what was shown to everybody that may have decided beside Query.exposure: with them in it, a last stage that
    follows no shares makes this slate again
    """

    def to_json(self) -> str:
        return json.dumps(self, default=_fields, separators=(",", ":"))

    @staticmethod
    def from_json(text: str | bytes) -> "Slate":
        document = json.loads(text)
        items = tuple(SlateItem(**{**item, "sources": tuple(item["sources"])}) for item in document["items"])
        return Slate(**{**document, "items": items, "degraded": tuple(document["degraded"])})


def _fields(noun: Any) -> dict[str, Any]:
    """Return the fields of an object for JSON; TypeError for another type."""
    if not isinstance(noun, Event | Query | SlateItem | Slate):
        raise TypeError(f"{_short(noun)} is a {type(noun).__name__}, which JSON does not know")
    fields = {name: getattr(noun, name) for name in noun.__slots__}
    if isinstance(noun, Query) and not noun.hidden:
        del fields["hidden"]
    if isinstance(noun, SlateItem) and not noun.adds:
        del fields["adds"], fields["because_of"]
    if isinstance(noun, Slate) and not noun.exposure:
        del fields["exposure"]
    return fields


def query_from_dict(document: Any) -> Query:
    """Validate a decoded JSON object and make a Query of it."""
    fields = _object("query", document)
    _refuse_unknown("query", fields, Query)
    history = fields.get("history", [])
    exposure = _numbers("query", "exposure", fields.get("exposure", {}))
    if not isinstance(history, list | tuple):
        raise QueryError(f"query.history is a {type(history).__name__}; send a list of events, newest last")
    return Query(
        user=_text("query", "user", fields.get("user")),
        now=_number("query", "now", fields.get("now")),
        k=_count("query", "k", fields.get("k", 10)),
        context=_object("query", fields.get("context", {}), "context"),
        profile=_object("query", fields.get("profile", {}), "profile"),
        history=tuple(_event(event, f"query.history[{index}]", fields["user"]) for index, event in enumerate(history)),
        surface=_text("query", "surface", fields.get("surface", "default")),
        exclude=_texts("query", "exclude", fields.get("exclude", [])),
        hidden={
            column: _texts("query", f"hidden.{column}", values)
            for column, values in _object("query", fields.get("hidden", {}), "hidden").items()
        },
        request_id=_text("query", "request_id", fields.get("request_id", "")),
        # callers of 0.1 sent both in one field, which is read for one release
        impressions=_numbers("query", "impressions", fields["impressions"]) if "impressions" in fields else exposure,
        exposure=exposure,
    )


def _event(document: Any, name: str, user: str) -> Event:
    fields = _object(name, document)
    _refuse_unknown(name, fields, Event)
    return Event(
        **{
            **fields,
            "user": _text(name, "user", fields.get("user", user)),
            "item": _text(name, "item", fields.get("item")),
            "timestamp": _number(name, "timestamp", fields.get("timestamp")),
            "actions": _actions(name, fields.get("actions", {})),
            "context": _object(name, fields.get("context", {}), "context"),
        }
    )


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _refuse_unknown(name: str, fields: Mapping[str, Any], noun: type) -> None:
    known = noun.__dataclass_fields__  # type: ignore[attr-defined]
    if not fields.keys() <= known.keys():
        unknown = sorted(fields.keys() - known.keys())[0]
        raise QueryError(f"{name} has the unknown field {unknown!r}; known are {', '.join(known)}")


def _object(name: str, value: Any, part: str = "") -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise QueryError(f"{name}{part and '.' + part} is {_short(value)}; send a JSON object")
    return value


def _text(name: str, part: str, value: Any) -> str:
    if not isinstance(value, str):
        raise QueryError(f"{name}.{part} is {_short(value)}; send a string")
    return value


def _texts(name: str, part: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise QueryError(f"{name}.{part} is {_short(value)}; send a list of strings")
    if set(map(type, value)) <= {str}:  # thousands of seen items may be excluded
        return tuple(value)
    return tuple(_text(name, f"{part}[{index}]", one) for index, one in enumerate(value))


def _number(name: str, part: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise QueryError(f"{name}.{part} is {_short(value)}; send a finite number")
    return float(value)


def _numbers(name: str, part: str, value: Any) -> Mapping[str, float]:
    figures = _object(name, value, part)
    if all(type(one) is float and abs(one) <= sys.float_info.max for one in figures.values()):
        return dict(figures)
    return {key: _number(name, f"{part}.{key}", one) for key, one in figures.items()}


def _actions(name: str, value: Any) -> Mapping[str, float | str]:
    actions = _object(name, value, "actions")
    if any(isinstance(one, str) for one in actions.values()):
        return {
            key: one if isinstance(one, str) else _number(name, f"actions.{key}", one) for key, one in actions.items()
        }
    return _numbers(name, "actions", actions)


def _count(name: str, part: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_K:
        raise QueryError(f"{name}.{part} is {_short(value)}; send a whole number from 1 to {MAX_K}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
