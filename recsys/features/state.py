"""History of a user: the newest events that reach an objective, in one canonical order."""

import zlib
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np

from recsys.contracts import Event
from recsys.features.spec import FeatureSpec

History = tuple[Event, ...]
EMPTY_HISTORY: History = ()


def item_key(item: str) -> tuple[int, str]:
    """Sort key of the events of one second: a hash, so that their order does not depend on the raw ids."""
    return zlib.crc32(item.encode()), item


def action_columns(events: Sequence[Event], spec: FeatureSpec) -> dict[str, np.ndarray]:
    """{action: [R] float64 or object}, NaN or None where the event lacks it or has another kind of value."""
    return {
        name: _numbers(events, name) if kind == "number" else _words(events, name)
        for name, kind in spec.actions.items()
    }


def _numbers(events: Sequence[Event], name: str) -> np.ndarray:
    values = [event.actions.get(name, np.nan) for event in events]
    if any(map(isinstance, values, repeat(str))):
        values = [np.nan if isinstance(value, str) else value for value in values]
    return np.array(values, dtype=np.float64)


def _words(events: Sequence[Event], name: str) -> np.ndarray:
    words = np.empty(len(events), dtype=object)
    words[:] = [value if isinstance(value := event.actions.get(name), str) else None for event in events]
    return words


def _absent_first_keys(values: np.ndarray) -> np.ndarray:
    """[R] sort keys in the order of polars, absent values first."""
    if values.dtype != object:
        return np.where(np.isnan(values), -np.inf, values)
    ranks = {word: index for index, word in enumerate(sorted({*values} - {None}))}
    return np.array([ranks.get(word, -1) for word in values], dtype=np.int64)


def _duplicate_key(event: Event) -> tuple[Any, ...]:
    """Key that is equal for duplicates in the sense of a data set; the context may hold lists."""
    context = repr(sorted(event.context.items())) if event.context else ""
    return event.item, event.timestamp, frozenset(event.actions.items()), context


def fold(history: History, event: Event, spec: FeatureSpec) -> History:
    """Return the history after one more event; events may arrive late or in any order.

    Events that reach no objective (mere impressions) are dropped. The result is the same for every order of arrival,
    because it is always the newest `spec.history_length` events in canonical order.
    """
    return fold_all(history, (event,), spec)


def fold_all(history: History, events: Sequence[Event], spec: FeatureSpec) -> History:
    """Return the history after all of the events, as `fold` would one after the other.

    A duplicate event counts once, as in a data set: the later copy stays, which may have more request fields.
    """
    return fold_out(history, events, spec)[0]


def fold_out(history: History, events: Sequence[Event], spec: FeatureSpec) -> tuple[History, History]:
    """Return the history after all of the events and, in canonical order, the older events that are no part of it."""
    known = tuple({_duplicate_key(one): one for one in (*history, *events)}.values())
    ties = {item: index for index, item in enumerate(sorted({one.item for one in known}, key=item_key))}
    kept, *_ = history_events(known, np.zeros(len(known)), np.array([ties[one.item] for one in known]), spec)
    ordered = tuple(known[index] for index in kept)
    return ordered[-spec.history_length :], ordered[: -spec.history_length]


def history_events(
    events: Sequence[Event], histories: np.ndarray, ties: np.ndarray, spec: FeatureSpec
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The M of R events that reach an objective, one history after the other, each in canonical order.

    histories: [R] number of the history of an event; ties: [R] rank of its item in the order of `item_key`. Canonical order
    is by time, then by `ties`, then by the actions, absent ones first, as in a data set.
    Returns indices into `events` [M], objectives [M, T] float32 (NaN where an action is absent) and timestamps [M].
    """
    actions = action_columns(events, spec)
    timestamps = np.array([event.timestamp for event in events], dtype=np.float64)
    labels = spec.labels(actions, len(events))
    reached = np.flatnonzero((labels > 0).any(axis=1))
    last_first = [_absent_first_keys(values) for values in reversed(actions.values())]
    order = np.lexsort([key[reached] for key in (*last_first, ties, timestamps, histories)])
    kept = reached[order]
    return kept, labels[kept], timestamps[kept]


def event_labels(events: Sequence[Event], spec: FeatureSpec) -> np.ndarray:
    """Objectives of raw events: [R, T] float32, NaN where an action is absent."""
    return spec.labels(action_columns(events, spec), len(events))
