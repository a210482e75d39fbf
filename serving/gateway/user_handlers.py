"""Handlers of a user's rights: everything known of the user, and its deletion."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from recsys.contracts import Event
from recsys.errors import ServingError
from recsys.schema import schema_of
from serving.gateway.forgetting import Forgetting
from serving.gateway.http_error import HTTPError
from serving.gateway.pseudonyms import Pseudonyms
from serving.gateway.request_middleware import RequestContext
from serving.gateway.request_parser import RequestParser
from serving.gateway.state_reader import StateReader
from serving.state.protocols import UserState


@dataclass(frozen=True, kw_only=True)
class UserHandlers:
    """Handlers with their dependencies."""

    parser: RequestParser
    pseudonyms: Pseudonyms
    states: StateReader
    forgetting: Forgetting

    async def forget(self, context: RequestContext) -> bytes:
        """Forget a user, known or not: records of a user without a state may be in the log."""
        user = self._user(context)
        await self.forgetting.forget([context.caller.stored_or_scoped(user)])
        return orjson.dumps({"user": user, "outcome": "forgotten", "request_id": context.request_id})

    async def export(self, context: RequestContext) -> bytes:
        """Return the state of a user; 404 where nothing is known."""
        user = self._user(context)
        state, flags = await self.states.read(self.pseudonyms.stored(context.caller.stored_or_scoped(user)))
        if flags:
            raise ServingError(f"the state of the user cannot be read ({', '.join(flags)})")
        if state == UserState():
            raise HTTPError(404, "nothing is known of this user; check the id")
        return orjson.dumps({"user": user, **_document(state), "request_id": context.request_id})

    def _user(self, context: RequestContext) -> str:
        user = self.parser.user_id(context.request.path_params["user"])
        context.log_fields["user"] = self.pseudonyms.logged(context.caller.stored_or_scoped(user))
        return user


def _document(state: UserState) -> dict[str, Any]:
    return {
        "profile": state.known_profile,
        "hidden": {name: list(values) for name, values in state.hidden.items()},
        "history": [_event(event) for event in state.history],
        "memory": {item: list(entry) for item, entry in state.memory.items()},
        "seen": list(_seen(state)),
        "impressions": dict(state.shown),
        "updated": state.updated or None,
    }


def _event(event: Event) -> Mapping[str, Any]:
    return {name: value for name, value in schema_of(Event).document(event).items() if name != "user"}


def _seen(state: UserState) -> Iterator[Mapping[str, Any]]:
    """Each item with the time of its last event."""
    for item, last in zip(state.seen.items, state.seen.last.tolist(), strict=True):
        yield {"item": item, "last": last}
