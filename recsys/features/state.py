"""What is remembered of a user: the newest events that mattered, in one canonical order."""

import zlib
from collections.abc import Sequence

import numpy as np

from recsys.contracts import Event
from recsys.features.spec import FeatureSpec

History = tuple[Event, ...]
EMPTY: History = ()


def order_key(event: Event) -> tuple[float, int, str]:
    """Time, then a hash of the item: within one second the order must not tell anything about the raw id."""
    return event.timestamp, zlib.crc32(event.item.encode()), event.item


def fold(history: History, event: Event, spec: FeatureSpec) -> History:
    """The user's history after one more event; events may arrive late or in any order.

    Events that reach no objective (mere impressions) are not remembered. The result is the same for every order of
    arrival, because it is always the newest `spec.history_length` events in canonical order.
    """
    return remembered((*history, event), spec)[-spec.history_length :]


def remembered(events: Sequence[Event], spec: FeatureSpec) -> History:
    """All events that reach an objective, in canonical order."""
    if not events:
        return EMPTY
    reached = (event_labels(events, spec) > 0).any(axis=1)
    kept = (event for event, one in zip(events, reached, strict=True) if one)
    return tuple(sorted(kept, key=lambda event: (*order_key(event), *_actions(event, spec))))


def _actions(event: Event, spec: FeatureSpec) -> tuple[float, ...]:
    """What breaks a full tie, as in the canonical order of a data set: an absent action comes first."""
    return tuple(event.actions.get(name, -np.inf) for name in spec.actions)


def event_labels(events: Sequence[Event], spec: FeatureSpec) -> np.ndarray:
    """Objectives of raw events: [R, T] float32, NaN where an action was not sent."""
    columns = {
        name: np.array([event.actions.get(name, np.nan) for event in events], dtype=np.float64) for name in spec.actions
    }
    return spec.labels(columns, len(events))
