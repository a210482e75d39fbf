"""The routes of the gateway. A route is one declaration: application, OpenAPI document and reference follow from it.

An installed package adds its own by entry points of the group `recsys.routes`, functions as those in ROUTES.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from recsys.contracts import Event, Slate
from recsys.data.ids import Id
from recsys.errors import ConfigError
from recsys.schema import Integer, Object, Published, Schema, schema_of
from serving.gateway.api_keys import Scope
from serving.gateway.request_middleware import Handler
from serving.gateway.request_parser import RequestParser

if TYPE_CHECKING:
    from serving.gateway.container import Container

ENTRY_POINTS = "recsys.routes"
PROBES = ("/healthz", "/readyz", "/openapi.json")
"""paths without a key"""


@dataclass(frozen=True, kw_only=True)
class Route:
    """A method on a path, with all that callers and operators see of it."""

    method: str
    path: str
    """{item} matches everything behind it, slashes too; the handler finds it in request.path_params"""
    scope: Scope
    """of the API key"""
    summary: str
    handler: "Callable[[Container], Handler]"
    answer: Schema
    statuses: Sequence[int] = ()
    """of refusals, beside 500, 503 and those of the key"""
    body: Object | None = None
    example: Any = None
    parameters: Sequence[Schema] = ()
    creates: bool = False
    """the same answer has status 201 for a new object"""
    slates: bool = False
    """whether requests wait in the queue of the slates, whose limit follows what is made in time"""

    @property
    def name(self) -> str:
        """Name in logs and metrics."""
        return f"{self.method} {self.path}"


def routes(parser: RequestParser) -> tuple[Route, ...]:
    """Return our routes and those of installed packages; ConfigError for a method on a path that is taken."""
    found: dict[str, Route] = {}
    for declare in (*ROUTES, *(entry.load() for entry in entry_points(group=ENTRY_POINTS))):
        route = declare(parser)
        if route.path in PROBES or found.setdefault(_matched(route), route) is not route:
            raise ConfigError(f"two routes are {route.name}; give the one of the installed package another path")
    return tuple(found.values())


def _matched(route: Route) -> str:
    """Return the method and what the path matches, whatever its parts are called."""
    return f"{route.method} {re.sub(r'{[^}]*}', '{}', route.path)}"


def object_of(properties: Schema, required: Sequence[str] | None = None) -> Schema:
    """Return the schema of an object; all properties are required unless named."""
    names = list(properties if required is None else required)
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


REQUEST_ID: Schema = {
    "name": "x-request-id",
    "in": "header",
    "description": "The caller's own id; it seeds exploration. The same request sent again gives the same slate only as long "
    "as the user's state, the counters of what was shown, rules, items and bundle are the same; the impression record "
    "keeps the query that gives its slate again",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,128}$"},
}
IF_MATCH: Schema = {
    "name": "if-match",
    "in": "header",
    "description": "`*` changes only an item that the catalogue has; without one, 412",
    "schema": {"type": "string", "enum": ["*"]},
}


def _budget(parser: RequestParser) -> Schema:
    description = "Milliseconds for the slate, where less than the service allows"
    return {"name": "x-budget-ms", "in": "header", "description": description, "schema": parser.budget.schema()}


def _in_path(parser: RequestParser, name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": Id(most=parser.limits.id_characters).schema()}


def _slate(more: Sequence[str]) -> Schema:
    slate = schema_of(Slate).schema()
    properties = {
        name: one for name, one in slate["properties"].items() if name in slate["required"] and name != "user"
    }
    return object_of({**properties, **{name: {"type": "string"} for name in more}})


ANSWERS: dict[str, Schema] = {"Slate": _slate(("user", "rung")), "Neighbours": _slate(("item",))}
"""schemas that the document names"""
ACCEPTED = object_of(
    {
        "accepted": {"type": "integer"},
        "ids": {"type": "array", "items": {"type": "string"}},
        "unknown_items": {"type": "integer", "description": "events of items that the catalogue lacks; they are kept"},
        "request_id": {"type": "string"},
    }
)


def _put(named: str) -> Schema:
    outcome = {
        "type": "string",
        "enum": ["created", "changed", "accepted"],
        "description": "accepted: it is kept, and the store that knows whether it is new did not answer",
    }
    return object_of({named: {"type": "string"}, "outcome": outcome, "request_id": {"type": "string"}})


def recommend(parser: RequestParser) -> Route:
    return Route(
        method="POST",
        path="/v1/recommend",
        scope="recommend",
        summary="A slate for a user, with the reasons for every place",
        handler=lambda container: container.recommend,
        slates=True,
        answer={"$ref": "#/components/schemas/Slate"},
        statuses=(400, 413),
        body=parser.recommend_body,
        example={"user": "405", "k": 5},
        parameters=(REQUEST_ID, _budget(parser)),
    )


def events(parser: RequestParser) -> Route:
    done = {name: {"number": 1, "word": "view"}[kind] for name, kind in list(parser.actions.items())[:1]}
    return Route(
        method="POST",
        path="/v1/events",
        scope="events",
        summary="Feedback; answered when all of it is durable. Sent again within ten minutes, an event with its id or time "
        "counts once",
        handler=lambda container: container.handlers.events,
        answer=ACCEPTED,
        statuses=(400, 413),
        body=parser.events_body,
        example={"events": [{"user": "405", "item": "50", "timestamp": 893286638, "actions": done}]},
        parameters=(REQUEST_ID,),
    )


def onboarding(parser: RequestParser) -> Route:
    return Route(
        method="POST",
        path="/v1/onboarding",
        scope="events",
        summary="What a new user likes: items, or values of their columns. The first slate is personal",
        handler=lambda container: container.handlers.onboard,
        answer=ACCEPTED,
        statuses=(400, 413),
        body=parser.onboarding_body,
        example={"user": "new", "items": ["50"]},
        parameters=(REQUEST_ID,),
    )


def similar(parser: RequestParser) -> Route:
    k = Published(Integer(low=1, high=parser.limits.k), {"default": 10}).schema()
    return Route(
        method="GET",
        path="/v1/items/{item}/similar",
        scope="recommend",
        summary="What is like an item, by the rules that serve now",
        handler=lambda container: container.handlers.similar,
        answer={"$ref": "#/components/schemas/Neighbours"},
        statuses=(400, 404),
        parameters=(_in_path(parser, "item"), {"name": "k", "in": "query", "schema": k}, REQUEST_ID),
    )


def put_item(parser: RequestParser) -> Route:
    return Route(
        method="PUT",
        path="/v1/items/{item}",
        scope="admin",
        summary="New values of an item, at once in rules and filters; a new item is retrievable a little later",
        handler=lambda container: container.handlers.put_item,
        answer=_put("item"),
        statuses=(400, 404, 412, 413),
        body=parser.item_body,
        example={"columns": dict.fromkeys(list(parser.items)[:1])},
        parameters=(_in_path(parser, "item"), IF_MATCH, REQUEST_ID),
        creates=True,
    )


def put_user(parser: RequestParser) -> Route:
    """An example needs no value: null forgets a column."""
    return Route(
        method="PUT",
        path="/v1/users/{user}",
        scope="events",
        summary="New columns of a user's profile, for requests that bring none; null forgets one",
        handler=lambda container: container.handlers.put_user,
        answer=_put("user"),
        statuses=(400, 404, 413),
        body=parser.user_body,
        example={"profile": dict.fromkeys(list(parser.profile)[:1])},
        parameters=(_in_path(parser, "user"), REQUEST_ID),
        creates=True,
    )


def get_user(parser: RequestParser) -> Route:
    """Scope admin: a history is what a stolen key of a shop front must not read."""
    return Route(
        method="GET",
        path="/v1/users/{user}",
        scope="admin",
        summary="Everything that the state of a user holds: profile, hidden values, history, seen items, impressions by item",
        handler=lambda container: container.user_handlers.export,
        answer=_known(),
        statuses=(400, 404),
        parameters=(_in_path(parser, "user"), REQUEST_ID),
    )


def delete_user(parser: RequestParser) -> Route:
    """Scope admin: what is gone does not come back, and an events key stands in every shop front."""
    outcome = {"type": "string", "enum": ["forgotten"], "description": "files of the log follow within a minute"}
    return Route(
        method="DELETE",
        path="/v1/users/{user}",
        scope="admin",
        summary="Forget a user: nothing of before is used or accepted from the answer on. Whoever comes back starts anew",
        handler=lambda container: container.user_handlers.forget,
        answer=object_of({"user": {"type": "string"}, "outcome": outcome, "request_id": {"type": "string"}}),
        statuses=(400,),
        parameters=(_in_path(parser, "user"), REQUEST_ID),
    )


def _known() -> Schema:
    events = {name: one for name, one in schema_of(Event).schema()["properties"].items() if name != "user"}
    seen = object_of({"item": {"type": "string"}, "last": {"type": "integer", "description": "unix seconds"}})
    return object_of(
        {
            "user": {"type": "string"},
            "profile": {"type": "object"},
            "hidden": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "string"}}},
            "history": {"type": "array", "items": {"type": "object", "properties": events}},
            "memory": {
                "type": "object",
                "additionalProperties": {"type": "array", "items": {"type": "number"}},
                "description": "item -> number of events older than the history, and time of the last one",
            },
            "seen": {"type": "array", "items": seen},
            "impressions": {"type": "object", "additionalProperties": {"type": "number"}},
            "updated": {
                "type": ["number", "null"],
                "description": "time of the last event or impression, unix seconds",
            },
            "request_id": {"type": "string"},
        }
    )


ROUTES: tuple[Callable[[RequestParser], Route], ...] = (
    recommend,
    events,
    onboarding,
    similar,
    put_item,
    get_user,
    put_user,
    delete_user,
)
