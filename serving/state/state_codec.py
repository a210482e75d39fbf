"""UserState <-> bytes, canonical: equal states give equal bytes; 50 ratings take about 1.5 KB.

One JSON document with one list an event field (columnar), so that no name is repeated:

    {"actions": {"rating": [5, 3]}, "format": 2, "item": ["50", "181"], "sequence": 17, "shown": ["181"], "spec": "3f…",
     "seen": {"items": ["50", "181"], "last": [893286638, 2], "reached": {"like": [0, -1]}},
     "memory": {"7": [3, 893286000]}, "timestamp": [893286638, 893286640], "times": [2], "updated": 893286641}

A list of only unknown values is left out. The user is the key and not part of the document. Times of seen items are
differences: last events to the preceding one, objectives back to the last event, -1 for one not reached. A state of
format 1, which has no seen items, starts with those of its history.

`spec` is the fingerprint of the feature spec under which the state was written. Events are raw, so under another spec the
state is read as that spec would leave it: events that reach no objective are dropped from the history, its newest
`history_length` stay, all seen items stay, and the next write stores the result. Events that an older spec dropped come
back with a rebuild from the log (`python -m serving rebuild`).
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from recsys.contracts import Event
from recsys.errors import ServingError
from recsys.features.memory import remember
from recsys.features.spec import FeatureSpec
from recsys.features.state import fold_out
from recsys.schema import schema_of
from recsys.user_seed import NEVER
from serving.state.protocols import UserState
from serving.state.seen import SeenItems

FORMAT, OLDER_FORMATS = 2, (1,)
REPLAY = "run `python -m serving rebuild` with the folder that is served"
OPTIONAL_FIELDS = tuple(name for name in schema_of(Event).sparse if name != "actions")
"""event fields that may be unknown"""
MAX_EXACT_INTEGER = 2.0**53


def encode(state: UserState, spec: FeatureSpec) -> bytes:
    """Encode a state under this spec."""
    events = state.history
    columns: dict[str, Collection[Any]] = {
        "item": [event.item for event in events],
        "timestamp": [_compact_number(event.timestamp) for event in events],
        "actions": _actions(events),
        **{name: [_none_if_unknown(getattr(event, name)) for event in events] for name in OPTIONAL_FIELDS},
        "shown": list(state.shown),
        "times": [_compact_number(times) for times in state.shown.values()],
    }
    return canonical(
        {
            "format": FORMAT,
            "spec": spec.fingerprint,
            "sequence": state.sequence,
            "updated": _compact_number(state.updated),
            **{name: column for name, column in columns.items() if any(value is not None for value in column)},
            **{name: value for name, value in _other_fields(state).items() if value},
        }
    )


def _other_fields(state: UserState) -> dict[str, Any]:
    """Fields of a state other than its events."""
    return {
        "seen": _seen_document(state.seen),
        "memory": {item: list(map(_compact_number, entry)) for item, entry in state.memory.items()},
        "hidden": {name: list(values) for name, values in state.hidden.items()},
        "profile": {name: _none_if_unknown(value) for name, value in state.profile.items()},
        "seeded": {name: _none_if_unknown(value) for name, value in state.seeded.items()},
        "recent": list(state.recent),
    }


def decode(user: str, data: bytes, spec: FeatureSpec) -> UserState:
    """Decode the state of the user under this spec. ServingError for damaged bytes or an unknown format."""
    pseudonym = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    document = document_of(data, what := f"the state of a user (sha256 {pseudonym}…)")
    try:
        history = _events(user, document)
        seen = SeenItems().after(history, spec) if document["format"] in OLDER_FORMATS else _seen(document.get("seen"))
        memory = {item: (float(count), float(last)) for item, (count, last) in document.get("memory", {}).items()}
        left: Sequence[Event] = ()
        if document["spec"] != spec.fingerprint:
            history, left = fold_out(history, (), spec)
        return UserState(
            history=history,
            memory=remember(memory, left),
            seen=seen,
            hidden={name: tuple(values) for name, values in document.get("hidden", {}).items()},
            profile=dict(document.get("profile", {})),
            seeded=dict(document.get("seeded", {})),
            recent=tuple(document.get("recent", ())),
            shown=dict(zip(document.get("shown", ()), map(float, document.get("times", ())), strict=True)),
            sequence=document["sequence"],
            updated=float(document["updated"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ServingError(f"{what} is damaged ({error!r}); {REPLAY}") from None


def canonical(document: Mapping[str, Any]) -> bytes:
    """JSON with sorted keys and without spaces."""
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def document_of(data: bytes, what: str) -> dict[str, Any]:
    """Parse bytes of `canonical`; ServingError names `what` if they are damaged or of an unknown format."""
    try:
        document = _parsed(data)
        found = document["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise ServingError(f"{what} is damaged ({error!r}); {REPLAY}") from None
    if found not in (FORMAT, *OLDER_FORMATS):
        raise ServingError(f"{what} has format {found!r}, this version reads {FORMAT}; {REPLAY}")
    return document


def _parsed(data: bytes) -> Any:
    """orjson is several times faster; only the standard library reads lone surrogates."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)


def _seen_document(seen: SeenItems) -> dict[str, Any]:
    if not len(seen):
        return {}
    reached = {name: np.where(at == NEVER, -1, seen.last - at).tolist() for name, at in seen.reached.items()}
    last = np.diff(seen.last, prepend=0).tolist()
    return {"items": list(seen.items), "last": last, **({"reached": reached} if reached else {})}


def _seen(document: Mapping[str, Any] | None) -> SeenItems:
    if document is None:
        return SeenItems()
    last = np.cumsum(np.array(document["last"], dtype=np.int64))
    back = {name: np.array(column, dtype=np.int64) for name, column in document.get("reached", {}).items()}
    if any(len(column) != len(document["items"]) for column in (last, *back.values())):
        raise ValueError("the seen items and their times differ in number")
    reached = {name: np.where(column < 0, NEVER, last - column) for name, column in back.items()}
    return SeenItems(items=tuple(document["items"]), last=last, reached=reached)


def _compact_number(number: float) -> float:
    """Drop the ".0" of whole numbers, so that equal numbers encode equally."""
    return int(number) if float(number).is_integer() and abs(number) < MAX_EXACT_INTEGER else float(number)


def _none_if_unknown(value: Any) -> Any:
    """None for an unknown value or empty context, else the compact value."""
    return None if value == {} else _compact_number(value) if isinstance(value, float) else value


def _actions(events: Sequence[Event]) -> dict[str, list[float | str | None]]:
    """{action: [H]}, None for an action not sent."""
    names = {name for event in events for name in event.actions}
    return {name: [_none_if_unknown(event.actions.get(name)) for event in events] for name in names}


def _action(value: float | str) -> float | str:
    return value if isinstance(value, str) else float(value)


def _events(user: str, document: Mapping[str, Any]) -> tuple[Event, ...]:
    columns = {name: document[name] for name in OPTIONAL_FIELDS if name in document}
    actions = document.get("actions", {})
    return tuple(
        Event(
            user=user,
            item=item,
            timestamp=float(timestamp),
            actions={name: _action(values[index]) for name, values in actions.items() if values[index] is not None},
            **{name: column[index] for name, column in columns.items() if column[index] is not None},
        )
        for index, (item, timestamp) in enumerate(
            zip(document.get("item", ()), document.get("timestamp", ()), strict=True)
        )
    )
