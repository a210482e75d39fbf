"""The step from one state of a user to the next: pure, and the same whatever the borders of the batches."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from recsys.features.spec import FeatureSpec
from recsys.features.state import fold_all
from serving.events.record import Record, Stored
from serving.state.contract import UserState

MAX_SHOWN = 1_000
"""items whose showings are counted of a user: those that were shown last"""


def unseen(state: UserState, batch: Sequence[Stored]) -> tuple[Stored, ...]:
    """The records that the state does not know yet, in the order of the log, each once."""
    fresh, last = [], state.sequence
    for stored in batch:
        if stored.sequence > last:
            fresh.append(stored)
            last = stored.sequence
    return tuple(fresh)


def folded(state: UserState, fresh: Sequence[Stored], spec: FeatureSpec) -> UserState:
    """The state after records of its user that are `unseen`; the history is what `recsys.features.state.fold` leaves."""
    if not fresh:
        return state
    records = [stored.record for stored in fresh]
    events = [record.event() for record in records if record.kind == "feedback"]
    return replace(
        state,
        history=fold_all(state.history, events, spec) if events else state.history,
        shown=_counted(state.shown, [record for record in records if record.kind == "impression"]),
        sequence=fresh[-1].sequence,
        updated=records[-1].timestamp,
    )


def _counted(shown: Mapping[str, float], impressions: Sequence[Record]) -> dict[str, float]:
    """Item by item, because an item that fell out and is shown again starts anew."""
    counts = dict(shown)
    for item in (item for impression in impressions for item in impression.shown()):
        counts[item] = counts.pop(item, 0.0) + 1.0
        if len(counts) > MAX_SHOWN:
            del counts[next(iter(counts))]
    return counts
