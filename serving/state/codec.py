"""UserState <-> bytes. The same state always has the same bytes; a user of 50 ratings has about 1.5 KB of them.

One JSON document with a list a field of the events, so that no name is repeated:

    {"actions": {"rating": [5, 3]}, "format": 2, "item": ["50", "181"], "sequence": 17, "shown": ["181"], "spec": "3f…",
     "seen": {"items": ["50", "181"], "last": [893286638, 2], "reached": {"like": [0, -1]}},
     "timestamp": [893286638, 893286640], "times": [2], "updated": 893286641}

A list in which nothing is known is left out. The user is the key of the bytes and does not stand in them. The times of
seen items are differences: of the last event to the one before, of an objective back to the last event, -1 where it was
not reached. A state of format 1, which has no seen items, begins with those of its history.

`spec` is the fingerprint of the feature spec by which the state was folded. Under another spec the events are as true as
before, because they are raw: the state is read as that spec would leave it, so what reaches no objective any more is
dropped from the history, whose newest `history_length` stay, all seen items stay, and the next write says so on the disk.
What an older spec did not remember comes back when the states are made anew from the log (`python -m serving rebuild`).
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from recsys.contracts import Event
from recsys.errors import ServingError
from recsys.features.spec import FeatureSpec
from recsys.features.state import fold_all
from recsys.user_seed import NEVER
from serving.state.contract import UserState
from serving.state.seen import SeenItems

FORMAT, OLDER = 2, (1,)
REPLAY = "run `python -m serving rebuild` with the folder that is served"
SPARSE = ("context", "request_id", "position", "propensity", "bundle", "rules")
"""fields of an event that may be unknown"""
LARGEST_WHOLE = 2.0**53


def encode(state: UserState, spec: FeatureSpec) -> bytes:
    """The bytes of a state that was folded by this spec."""
    events = state.history
    columns: dict[str, Collection[Any]] = {
        "item": [event.item for event in events],
        "timestamp": [_short(event.timestamp) for event in events],
        "actions": _actions(events),
        **{name: [_known(getattr(event, name)) for event in events] for name in SPARSE},
        "shown": list(state.shown),
        "times": [_short(times) for times in state.shown.values()],
    }
    return canonical(
        {
            "format": FORMAT,
            "spec": spec.fingerprint,
            "sequence": state.sequence,
            "updated": _short(state.updated),
            **{name: column for name, column in columns.items() if any(value is not None for value in column)},
            **{name: value for name, value in _beside(state).items() if value},
        }
    )


def _beside(state: UserState) -> dict[str, Any]:
    """Fields of a state beside its events."""
    return {
        "seen": _seen_document(state.seen),
        "hidden": {name: list(values) for name, values in state.hidden.items()},
        "profile": {name: _known(value) for name, value in state.profile.items()},
        "seeded": {name: _known(value) for name, value in state.seeded.items()},
        "recent": list(state.recent),
    }


def decode(user: str, data: bytes, spec: FeatureSpec) -> UserState:
    """The state of the user, as this spec leaves it. ServingError for bytes that are no state or of another format."""
    pseudonym = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    document = document_of(data, what := f"the state of a user (sha256 {pseudonym}…)")
    try:
        history = _events(user, document)
        seen = SeenItems().after(history, spec) if document["format"] in OLDER else _seen(document.get("seen"))
        return UserState(
            history=history if document["spec"] == spec.fingerprint else fold_all(history, (), spec),
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
    """The document of bytes that `canonical` wrote; ServingError says that `what` cannot be read."""
    try:
        document = _parsed(data)
        found = document["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise ServingError(f"{what} is damaged ({error!r}); {REPLAY}") from None
    if found not in (FORMAT, *OLDER):
        raise ServingError(f"{what} has format {found!r}, this version reads {FORMAT}; {REPLAY}")
    return document


def _parsed(data: bytes) -> Any:
    """Several times faster than the standard library, which alone reads halves of surrogate pairs."""
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


def _short(number: float) -> float:
    """A whole number without its ".0", so that equal numbers look equal."""
    return int(number) if float(number).is_integer() and abs(number) < LARGEST_WHOLE else float(number)


def _known(value: Any) -> Any:
    """None for what is unknown, an empty context among it."""
    return None if value == {} else _short(value) if isinstance(value, float) else value


def _actions(events: Sequence[Event]) -> dict[str, list[float | str | None]]:
    """{action: [H]}, None where it was not sent."""
    names = {name for event in events for name in event.actions}
    return {name: [_known(event.actions.get(name)) for event in events] for name in names}


def _action(value: float | str) -> float | str:
    return value if isinstance(value, str) else float(value)


def _events(user: str, document: Mapping[str, Any]) -> tuple[Event, ...]:
    columns = {name: document[name] for name in SPARSE if name in document}
    actions = document.get("actions", {})
    return tuple(
        Event(
            user=user,
            item=item,
            timestamp=float(timestamp),
            actions={name: _action(values[place]) for name, values in actions.items() if values[place] is not None},
            **{name: column[place] for name, column in columns.items() if column[place] is not None},
        )
        for place, (item, timestamp) in enumerate(
            zip(document.get("item", ()), document.get("timestamp", ()), strict=True)
        )
    )
