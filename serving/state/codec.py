"""UserState <-> bytes. The same state always has the same bytes; a user of 50 ratings has about 1.5 KB of them.

One JSON document with a list a field of the events, so that no name is repeated:

    {"actions": {"rating": [5, 3]}, "format": 1, "item": ["50", "181"], "sequence": 17, "shown": ["181"], "spec": "3f…",
     "timestamp": [893286638, 893286640], "times": [2], "updated": 893286641}

A list in which nothing is known is left out. The user is the key of the bytes and does not stand in them.

`spec` is the fingerprint of the feature spec by which the state was folded. Under another spec the events are as true as
before, because they are raw: the state is read as that spec would leave it, so what reaches no objective any more is
dropped, the newest `history_length` stay, and the next write says so on the disk. What an older spec did not remember comes
back when the states are made anew from the log (`python -m serving rebuild`).
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from recsys.contracts import Event
from recsys.errors import ServingError
from recsys.features.spec import FeatureSpec
from recsys.features.state import fold_all
from serving.state.contract import UserState

FORMAT = 1
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
        }
    )


def decode(user: str, data: bytes, spec: FeatureSpec) -> UserState:
    """The state of the user, as this spec leaves it. ServingError for bytes that are no state or of another format."""
    pseudonym = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    document = document_of(data, what := f"the state of a user (sha256 {pseudonym}…)")
    try:
        history = _events(user, document)
        return UserState(
            history=history if document["spec"] == spec.fingerprint else fold_all(history, (), spec),
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
        document = json.loads(data)
        found = document["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise ServingError(f"{what} is damaged ({error!r}); {REPLAY}") from None
    if found != FORMAT:
        raise ServingError(f"{what} has format {found!r}, this version reads {FORMAT}; {REPLAY}")
    return document


def _short(number: float) -> float:
    """A whole number without its ".0", so that equal numbers look equal."""
    return int(number) if float(number).is_integer() and abs(number) < LARGEST_WHOLE else float(number)


def _known(value: Any) -> Any:
    """None for what is unknown, an empty context among it."""
    return None if value == {} else _short(value) if isinstance(value, float) else value


def _actions(events: Sequence[Event]) -> dict[str, list[float | None]]:
    """{action: [H]}, None where it was not sent."""
    names = {name for event in events for name in event.actions}
    return {
        name: [_short(event.actions[name]) if name in event.actions else None for event in events] for name in names
    }


def _events(user: str, document: Mapping[str, Any]) -> tuple[Event, ...]:
    columns = {name: document[name] for name in SPARSE if name in document}
    actions = document.get("actions", {})
    return tuple(
        Event(
            user=user,
            item=item,
            timestamp=float(timestamp),
            actions={name: float(values[place]) for name, values in actions.items() if values[place] is not None},
            **{name: column[place] for name, column in columns.items() if column[place] is not None},
        )
        for place, (item, timestamp) in enumerate(
            zip(document.get("item", ()), document.get("timestamp", ()), strict=True)
        )
    )
