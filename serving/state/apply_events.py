"""Application of log records to a user state: pure, and independent of batch boundaries."""

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from recsys.features.memory import fold_with_memory, remember, united
from recsys.features.spec import FeatureSpec
from recsys.features.state import fold_out
from serving.events.record import Record, StoredRecord
from serving.state.protocols import UserState

MAX_SHOWN = 1_000
"""items with impression counts a user, the latest ones"""
MAX_HIDDEN = 1_000
"""hidden values a column"""
MAX_RECENT, SHORT_ID_LENGTH = 8, 12
"""number of record ids that a state keeps, and characters of each"""


def new_records(state: UserState, batch: Sequence[StoredRecord]) -> tuple[StoredRecord, ...]:
    """Records after the sequence of the state, in log order, each once."""
    fresh, last = [], state.sequence
    for stored in batch:
        if stored.sequence > last:
            fresh.append(stored)
            last = stored.sequence
    return tuple(fresh)


def apply_stored_records(state: UserState, fresh: Sequence[StoredRecord], spec: FeatureSpec) -> UserState:
    """State after the `new_records` of its user; the history is updated by `recsys.features.memory.fold_with_memory`."""
    if not fresh:
        return state
    records = [stored.record for stored in fresh]
    return replace(
        apply_records(state, records, spec),
        shown=_count_shown(state.shown, [record for record in records if record.kind == "impression"]),
        sequence=fresh[-1].sequence,
        updated=records[-1].timestamp,
    )


def apply_records(state: UserState, records: Sequence[Record], spec: FeatureSpec) -> UserState:
    """State after records of its user, impressions ignored, sequence unchanged; idempotent."""
    ids = [short_id(record) for record in records if record.kind != "impression"]
    if not ids:
        return state
    events = [record.event() for record in records if record.kind == "feedback"]
    history, memory = state.history, state.memory
    if events:
        history, memory = fold_with_memory(history, memory, events, spec)
    profile_updates = [record.body for record in records if record.kind == "profile"]
    return replace(
        state,
        history=history,
        memory=memory,
        seen=state.seen.after(events, spec) if events else state.seen,
        hidden=_apply_hiding(state.hidden, records),
        profile=dict(ChainMap(*reversed([dict(update) for update in profile_updates]), dict(state.profile)))
        if profile_updates
        else state.profile,
        recent=tuple(dict.fromkeys(reversed([*state.recent, *ids])))[:MAX_RECENT][::-1],
    )


def merge_seed(state: UserState, seed: UserState, spec: FeatureSpec) -> UserState:
    """State with the training data of its user beneath it; idempotent and independent of the order of seed and events."""
    history, left = fold_out(seed.history, state.history, spec)
    return replace(
        state,
        history=history,
        memory=remember(united(seed.memory, state.memory), left),
        seen=state.seen.merged(seed.seen),
        seeded=seed.seeded,
    )


def short_id(record: Record) -> str:
    """Prefix of the id, long enough to distinguish the last records of one user."""
    return record.id[:SHORT_ID_LENGTH]


def _apply_hiding(hidden: Mapping[str, tuple[str, ...]], records: Sequence[Record]) -> Mapping[str, tuple[str, ...]]:
    """Apply hide and unhide records in log order; a value hidden again moves to the end, the oldest go above MAX_HIDDEN."""
    kept = {name: dict.fromkeys(values) for name, values in hidden.items()}
    for record in records:
        if record.kind not in ("hide", "unhide"):
            continue
        for name, value in _named_values(record):
            values = kept.setdefault(name, {})
            values.pop(value, None)
            if record.kind == "hide":
                values[value] = None
                if len(values) > MAX_HIDDEN:
                    del values[next(iter(values))]
    return {name: tuple(values) for name, values in kept.items() if values}


def _named_values(record: Record) -> Iterator[tuple[str, str]]:
    for name, values in record.body.items():
        if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
            raise TypeError(f"{values!r} is no list of values")
        yield from ((name, value) for value in values)


def _count_shown(shown: Mapping[str, float], impressions: Sequence[Record]) -> dict[str, float]:
    """Count item by item, because an evicted item that is shown again restarts at 1."""
    counts = dict(shown)
    for item in (item for impression in impressions for item in impression.shown_items()):
        counts[item] = counts.pop(item, 0.0) + 1.0
        if len(counts) > MAX_SHOWN:
            del counts[next(iter(counts))]
    return counts
