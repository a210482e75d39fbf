"""Repeats: when an item that a user interacted with may be recommended to the same user again.

Shapes: M items of a user (or pairs of a user and an item), R events, T objectives, B queries.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.contracts import Event, Query
from recsys.errors import ConfigError
from recsys.expressions import suggestion

NEVER, ALWAYS = "never", "always"
DAY_S = 86_400.0
MAX_DAYS = 36_500.0
KEYS = ("default", "objectives")

Labels = Callable[[Sequence[Event]], np.ndarray]
"""events -> [R, T], above 0 where an event reaches an objective"""


class Repeat:
    """Repeat rules: an item stays barred after an event for ever (`never`), for some days, or not at all (`always`).

    The bar of a named objective counts from the last event that reached it. `default` counts from the newest event on the
    item, unless that event reaches a named objective: then the bars of the objectives hold alone.
    """

    def __init__(self, *, default: str | float, objectives: Mapping[str, str | float]) -> None:
        """Check the bars; ConfigError for one that is neither never, always nor a number of days.

        default: of events that reach no named objective
        objectives: by name, for the events that reach them
        """
        if not isinstance(objectives, Mapping):
            raise ConfigError(f"policy.repeat.objectives is {objectives!r}; write a mapping of objectives to days")
        self.default = _bar("default", default)
        self.objectives = {str(name): _bar(f"objectives.{name}", bar) for name, bar in objectives.items()}

    @staticmethod
    def never() -> "Repeat":
        return Repeat(default=NEVER, objectives={})

    def to_document(self) -> dict[str, Any]:
        return {"default": self.default, "objectives": dict(self.objectives)}

    def compile(self, objectives: Sequence[str], *, clock: bool) -> "CompiledRepeat":
        """Bind to the objectives [T] of a data set; ConfigError for an unknown one, or for days without a clock."""
        for name in self.objectives:
            if name not in objectives:
                raise ConfigError(
                    f"policy.repeat.objectives names the unknown objective {name!r}; {suggestion(name, objectives)}"
                )
        for bar in (self.default, *self.objectives.values()):
            if not clock and not isinstance(bar, str):
                raise ConfigError(
                    f"policy.repeat has a bar of {bar:g} days, but the events have no time; write never or always"
                )
        named = [math.nan if name not in self.objectives else _seconds(self.objectives[name]) for name in objectives]
        return CompiledRepeat(default_s=_seconds(self.default), objectives_s=np.array(named, dtype=np.float64))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompiledRepeat:
    """Bars in seconds for one list of objectives."""

    default_s: float
    """seconds: 0 for always, infinite for never"""
    objectives_s: np.ndarray
    """[T] float64 seconds, NaN where the default holds"""

    @property
    def possible(self) -> bool:
        """Return whether any item may ever be shown again."""
        return bool(np.isfinite(self.objectives_s).any()) or math.isfinite(self.default_s)

    @property
    def named(self) -> bool:
        """Return whether a bar depends on the objectives of an event."""
        return not bool(np.isnan(self.objectives_s).all())

    def barred(self, last: np.ndarray, reached: np.ndarray, now: float | np.ndarray) -> np.ndarray:
        """Return [M] bool, items that may not be shown at `now`.

        last: [M] unix seconds of the newest event on each item. reached: [M, T] unix seconds of the newest event that reached
        each objective, NaN where none did. now: one moment or [M]. Where there is no clock all times are alike.
        """
        now = np.broadcast_to(np.asarray(now, dtype=np.float64), np.shape(last))
        named = np.where(np.isnan(self.objectives_s), np.nan, reached)
        newest = np.fmax.reduce(named, axis=1, initial=-np.inf)
        by_default = ~(newest >= last) & _holds(self.default_s, now - last)
        by_objective = ~np.isnan(named) & _holds(np.nan_to_num(self.objectives_s), now[:, None] - named)
        return by_default | by_objective.any(axis=1)

    def barred_keys(self, keys: np.ndarray, times: np.ndarray, labels: np.ndarray, now: np.ndarray) -> np.ndarray:
        """Return the distinct keys, ascending, whose events bar the item.

        keys: [R] int64, one a pair of a user and an item. times: [R]. labels: [R, T], above 0 where an event reaches an
        objective. now: [R] request time of the user of the event.
        """
        if not self.possible:
            return np.unique(keys)
        pairs, first, pair = np.unique(keys, return_index=True, return_inverse=True)
        last = np.full(len(pairs), -np.inf)
        np.maximum.at(last, pair, times)
        reached = np.full((len(pairs), labels.shape[1]), np.nan)
        np.fmax.at(reached, pair, np.where(labels > 0, times[:, None], np.nan))
        return pairs[self.barred(last, reached, now[first])]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeenFilter:
    """Filter of items by the query's own history, shared by retrieval, rules and every fallback."""

    repeat: CompiledRepeat
    labels: Labels
    """called only where a bar depends on objectives"""

    @staticmethod
    def never() -> "SeenFilter":
        """Return the filter that removes every item of the history."""
        bars = CompiledRepeat(default_s=math.inf, objectives_s=np.empty(0))
        return SeenFilter(repeat=bars, labels=lambda events: np.empty((len(events), 0)))

    def rows(self, queries: Sequence[Query], row_of: Mapping[str, int]) -> list[list[int]]:
        """Return [B] ascending catalogue rows that may not be shown: barred by the history, or excluded by the query."""
        if self.repeat.possible:
            barred = self._by_history(queries, row_of)
        else:
            barred = [_known_rows((event.item for event in query.history), row_of) for query in queries]
        return [sorted(own | _known_rows(query.exclude, row_of)) for own, query in zip(barred, queries, strict=True)]

    def _by_history(self, queries: Sequence[Query], row_of: Mapping[str, int]) -> list[set[int]]:
        width = max(len(row_of), 1)
        known = [
            (number, row, event)
            for number, query in enumerate(queries)
            for event in query.history
            if (row := row_of.get(event.item)) is not None
        ]
        events = [event for _, _, event in known]
        keys = np.array([number * width + row for number, row, _ in known], dtype=np.int64)
        times = np.array([event.timestamp for event in events], dtype=np.float64)
        labels = self.labels(events) if self.repeat.named else np.zeros((len(events), len(self.repeat.objectives_s)))
        now = np.array([queries[number].now for number, _, _ in known], dtype=np.float64)
        barred: list[set[int]] = [set() for _ in queries]
        for key in self.repeat.barred_keys(keys, times, labels, now).tolist():
            barred[key // width].add(key % width)
        return barred


def repeat_from_document(document: Any) -> Repeat:
    """Read a document; ConfigError names a key that is absent or unknown."""
    if not isinstance(document, Mapping):
        raise ConfigError(f"policy.repeat is {document!r}; write a mapping with {' and '.join(KEYS)}")
    if unknown := [str(key) for key in document if key not in KEYS]:
        raise ConfigError(f"policy.repeat has the unknown key {unknown[0]!r}; {suggestion(unknown[0], KEYS)}")
    if absent := [key for key in KEYS if key not in document]:
        raise ConfigError(f"policy.repeat lacks the key {absent[0]!r}; give {' and '.join(KEYS)}")
    return Repeat(**document)


def _known_rows(items: Iterable[str], row_of: Mapping[str, int]) -> set[int]:
    return {row_of[item] for item in items if item in row_of}


def _holds(bar_s: float | np.ndarray, age_s: np.ndarray) -> np.ndarray:
    """Return whether bars hold at ages, in seconds: a bar of `never` always does, and a bar's end is not part of it."""
    return np.isinf(bar_s) | ((age_s < bar_s) & (bar_s > 0))


def _bar(key: str, value: Any) -> str | float:
    if value in (NEVER, ALWAYS):
        return str(value)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_DAYS
    if not usable:
        raise ConfigError(
            f"policy.repeat.{key} is {value!r}; write never, always or a number of days up to {MAX_DAYS:g}"
        )
    return float(value)


def _seconds(bar: str | float) -> float:
    return {NEVER: math.inf, ALWAYS: 0.0}[bar] if isinstance(bar, str) else bar * DAY_S
