"""All items that a user has seen, beyond the history: for each the time of its last event and of each objective.

Times are whole seconds: repeat filters count in days.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np

from recsys.contracts import Event
from recsys.features.spec import FeatureSpec
from recsys.features.state import action_columns
from recsys.user_seed import MAX_SECOND, MAX_SEEN, NEVER

Entry = tuple[str, int, Mapping[str, int]]
"""item, second of its last event, objective -> second when it was last reached"""


def _no_times() -> np.ndarray:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SeenItems:
    """M items sorted by last event, then id: equal sets compare equal regardless of arrival order."""

    items: tuple[str, ...] = ()
    """[M]"""
    last: np.ndarray = field(default_factory=_no_times)
    """[M] int64, unix seconds"""
    reached: Mapping[str, np.ndarray] = field(default_factory=dict)
    """objective -> [M] int64, NEVER for an item that did not reach it; objectives without any item are absent"""

    def __len__(self) -> int:
        return len(self.items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeenItems) and self._comparable() == other._comparable()

    def after(self, events: Sequence[Event], spec: FeatureSpec) -> "SeenItems":
        """Set after more events, including those that reach no objective."""
        return self._merged_with(_entries(events, spec))

    def merged(self, other: "SeenItems") -> "SeenItems":
        """Union of both sets, each item with its newest times."""
        return self._merged_with(other._entries()) if len(self) else other

    def times(self, objectives: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Seconds of the last event [M] float64 and of each objective [M, T] float64, NaN if not reached."""
        never = np.full(len(self), NEVER)
        columns = [self.reached.get(name, never) for name in objectives]
        reached = np.stack(columns, axis=1) if columns else np.empty((len(self), 0), dtype=np.int64)
        return self.last.astype(np.float64), np.where(reached == NEVER, np.nan, reached)

    def _merged_with(self, entries: Iterable[Entry]) -> "SeenItems":
        last = dict(zip(self.items, self.last.tolist(), strict=True))
        reached = {name: self._reached(name) for name in self.reached}
        oldest = _Oldest(last)
        for item, second, objectives in entries:
            last[item] = max(second, last.get(item, second))
            for name, at in objectives.items():
                times = reached.setdefault(name, {})
                times[item] = max(at, times.get(item, at))
            oldest.update(item)
            if len(last) > MAX_SEEN:
                evicted = oldest.pop()
                for times in (last, *reached.values()):
                    times.pop(evicted, None)
        return _sorted(last, reached)

    def _reached(self, name: str) -> dict[str, int]:
        times = self.reached[name]
        rows = np.flatnonzero(times != NEVER)
        return {self.items[row]: at for row, at in zip(rows.tolist(), times[rows].tolist(), strict=True)}

    def _entries(self) -> Iterator[Entry]:
        times = {name: column.tolist() for name, column in self.reached.items()}
        for row, (item, second) in enumerate(zip(self.items, self.last.tolist(), strict=True)):
            yield item, second, {name: column[row] for name, column in times.items() if column[row] != NEVER}

    def _comparable(self) -> tuple[object, ...]:
        return self.items, self.last.tolist(), {name: column.tolist() for name, column in self.reached.items()}


class _Oldest:
    """Finds the item with the oldest last event; the heap is built only for a full set, because few are."""

    def __init__(self, last: Mapping[str, int]) -> None:
        self._last = last
        self._heap: list[tuple[int, str]] = []

    def update(self, item: str) -> None:
        if self._heap:
            heapq.heappush(self._heap, (self._last[item], item))

    def pop(self) -> str:
        if not self._heap:
            self._heap = [(second, item) for item, second in self._last.items()]
            heapq.heapify(self._heap)
        while True:
            second, item = heapq.heappop(self._heap)
            if self._last.get(item) == second:
                return item


def second_of(timestamp: float) -> int:
    """Whole second of a timestamp, clipped to integers that JSON represents exactly."""
    return math.floor(min(max(timestamp, -MAX_SECOND), MAX_SECOND))


def _entries(events: Sequence[Event], spec: FeatureSpec) -> Iterator[Entry]:
    labels = spec.labels(action_columns(events, spec), len(events)) > 0
    names = tuple(spec.objectives)
    for event, reached in zip(events, labels.tolist(), strict=True):
        second = second_of(event.timestamp)
        yield event.item, second, {name: second for name, is_reached in zip(names, reached, strict=True) if is_reached}


def _sorted(last: Mapping[str, int], reached: Mapping[str, Mapping[str, int]]) -> SeenItems:
    items = tuple(sorted(last, key=lambda item: (last[item], item)))
    columns = {
        name: np.array(list(map(times.get, items, repeat(NEVER))), dtype=np.int64)
        for name, times in reached.items()
        if times
    }
    return SeenItems(items=items, last=np.array([last[item] for item in items], dtype=np.int64), reached=columns)
