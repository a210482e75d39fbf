"""The step from one state of a user to the next: pure, and the same whatever the borders of the batches."""

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from recsys.features.spec import FeatureSpec
from recsys.features.state import fold_all
from serving.events.record import Record, Stored
from serving.state.contract import UserState

MAX_SHOWN = 1_000
"""items whose showings are counted of a user: those that were shown last"""
MAX_HIDDEN = 1_000
"""values of a column, or items, that a user may hide"""
MAX_RECENT, SHORT = 8, 12
"""records whose ids a state keeps, and characters of each"""


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
    return replace(
        with_records(state, records, spec),
        shown=_counted(state.shown, [record for record in records if record.kind == "impression"]),
        sequence=fresh[-1].sequence,
        updated=records[-1].timestamp,
    )


def with_records(state: UserState, records: Sequence[Record], spec: FeatureSpec) -> UserState:
    """The state with what records of its user say, impressions aside; to say it twice changes nothing."""
    ids = [short_id(record) for record in records if record.kind != "impression"]
    if not ids:
        return state
    events = [record.event() for record in records if record.kind == "feedback"]
    puts = [record.body for record in records if record.kind == "profile"]
    return replace(
        state,
        history=fold_all(state.history, events, spec) if events else state.history,
        seen=state.seen.after(events, spec) if events else state.seen,
        hidden=_hidden(state.hidden, records),
        profile=dict(ChainMap(*reversed([dict(put) for put in puts]), dict(state.profile))) if puts else state.profile,
        recent=tuple(dict.fromkeys(reversed([*state.recent, *ids])))[:MAX_RECENT][::-1],
    )


def seeded(state: UserState, seed: UserState, spec: FeatureSpec) -> UserState:
    """The state with what the training data knows of its user beneath it; whichever came first, and again, is the same."""
    return replace(
        state,
        history=fold_all(seed.history, state.history, spec),
        seen=state.seen.joined(seed.seen),
        seeded=seed.seeded,
    )


def short_id(record: Record) -> str:
    """Enough of the id to tell the last records of one user apart."""
    return record.id[:SHORT]


def _hidden(hidden: Mapping[str, tuple[str, ...]], records: Sequence[Record]) -> Mapping[str, tuple[str, ...]]:
    """In the order of the log: what is hidden again moves to the end, what is too much is forgotten, the oldest first."""
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


def _counted(shown: Mapping[str, float], impressions: Sequence[Record]) -> dict[str, float]:
    """Item by item, because an item that fell out and is shown again starts anew."""
    counts = dict(shown)
    for item in (item for impression in impressions for item in impression.shown()):
        counts[item] = counts.pop(item, 0.0) + 1.0
        if len(counts) > MAX_SHOWN:
            del counts[next(iter(counts))]
    return counts
