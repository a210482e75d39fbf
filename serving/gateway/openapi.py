"""The OpenAPI 3.1 document: every route, limit, status and error, with examples that work on the bundle at hand."""

from collections.abc import Mapping, Sequence
from typing import Any

from serving.gateway.request_parser import MAX_BUDGET_MS, RequestParser

Schema = dict[str, Any]

SENTENCES = {
    400: "The request cannot be understood; the sentence names the field",
    401: "No known API key came",
    403: "The API key lacks the scope",
    404: "No such item, or nothing under this path",
    412: "The request may change only what is there, and there is no such item",
    413: "The body is too large",
    429: "The API key sends too much",
    500: "A defect of the service",
    503: "The service, or what this request needs of it, is away or too busy",
}
RETRIED = (429, 503)
ERROR = {"$ref": "#/components/schemas/Error"}
REQUEST_ID = {
    "name": "x-request-id",
    "in": "header",
    "description": "The caller's own id; it seeds exploration, so the same id gives the same slate",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,128}$"},
}
BUDGET = {
    "name": "x-budget-ms",
    "in": "header",
    "description": "Milliseconds for the slate, where less than the service allows",
    "schema": {"type": "string", "pattern": "^[1-9][0-9]{0,3}$"},
}


IF_MATCH = {
    "name": "if-match",
    "in": "header",
    "description": "`*` changes only an item that the catalogue has; without one, 412",
    "schema": {"type": "string", "enum": ["*"]},
}


def document(parser: RequestParser, keyed: bool) -> Schema:
    """Build the document. keyed: whether an API key is required."""
    paths: Schema = {
        "/v1/recommend": {"post": _recommend(parser, keyed)},
        "/v1/events": {"post": _events(parser, keyed)},
        "/v1/onboarding": {"post": _onboarding(parser, keyed)},
        "/v1/items/{item}/similar": {"get": _similar(parser, keyed)},
        "/v1/items/{item}": {"put": _item(parser, keyed)},
        "/v1/users/{user}": {"put": _user(parser, keyed)},
        "/healthz": {"get": _probe("Whether the process is alive", (200,))},
        "/readyz": {"get": _probe("Whether traffic may come; if not, what is not ready and why", (200, 503))},
        "/metrics": {"get": _metrics()},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "recsys", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {"Error": _error(), "Slate": _slate(("user", "rung")), "Neighbours": _slate(("item",))},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _recommend(parser: RequestParser, keyed: bool) -> Schema:
    limits = parser.limits
    body = _object(
        {
            "user": _id(parser),
            "k": {"type": "integer", "minimum": 1, "maximum": limits.k, "default": 10},
            "surface": {**_id(parser), "default": "default"},
            "context": _columns(parser, parser.context),
            "profile": _columns(parser, parser.profile),
            "exclude": {"type": "array", "maxItems": limits.exclude, "items": _id(parser)},
            "budget_ms": {
                "type": ["number", "null"],
                "minimum": limits.least_budget_ms,
                "maximum": MAX_BUDGET_MS,
                "description": "for the slate, where less than the service allows",
            },
            "explain": {
                "type": "boolean",
                "default": False,
                "description": "fill `adds` and `because_of` of every item; takes longer",
            },
        },
        ("user",),
    )
    return _operation(
        "A slate for a user, with the reasons for every place",
        keyed,
        {"$ref": "#/components/schemas/Slate"},
        (400, 413),
        body=body,
        example={"user": "405", "k": 5},
        parameters=(REQUEST_ID, BUDGET),
    )


def _events(parser: RequestParser, keyed: bool) -> Schema:
    optional_id = {**_id(parser), "type": ["string", "null"]}
    word = {"type": "string", "minLength": 1, "maxLength": parser.limits.text_characters}
    kinds: dict[str, Schema] = {"number": {"type": "number"}, "word": word}
    actions = {name: kinds[kind] for name, kind in parser.actions.items()}
    event = _object(
        {
            "id": optional_id,
            "user": _id(parser),
            "item": _id(parser),
            "timestamp": {
                "type": ["number", "null"],
                "minimum": 0,
                "description": "unix seconds, UTC, at most a day ahead; without it, when the event came in",
            },
            "actions": _object(actions, ()),
            "context": _columns(parser, parser.context),
            "request_id": optional_id,
            "position": {"type": ["integer", "null"], "minimum": 0, "maximum": 10_000},
            "propensity": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
            "bundle": optional_id,
            "rules": optional_id,
            "hide": {**_hidden(parser), "description": "what the user does not want to see, from the answer on"},
            "unhide": {**_hidden(parser), "description": "what may be shown again"},
        },
        ("user",),
    )
    event["anyOf"] = [{"required": [name]} for name in ("item", "hide", "unhide")]
    listed = {"type": "array", "minItems": 1, "maxItems": parser.limits.events, "items": event}
    done = {name: {"number": 1, "word": "view"}[kind] for name, kind in list(parser.actions.items())[:1]}
    return _operation(
        "Feedback; answered when all of it is durable. Sent again within ten minutes, an event with its id or time counts once",
        keyed,
        _kept(),
        (400, 413),
        body=_object({"events": listed}, ("events",)),
        example={"events": [{"user": "405", "item": "50", "timestamp": 893286638, "actions": done}]},
        parameters=(REQUEST_ID,),
    )


def _onboarding(parser: RequestParser, keyed: bool) -> Schema:
    liked = {"type": "array", "maxItems": parser.limits.liked, "items": _id(parser)}
    values = _object(dict.fromkeys(parser.liked, liked), ())
    return _operation(
        "What a new user likes: items, or values of their columns. The first slate is personal",
        keyed,
        _kept(),
        (400, 413),
        body=_object({"user": _id(parser), "items": liked, "values": values}, ("user",)),
        example={"user": "new", "items": ["50"]},
        parameters=(REQUEST_ID,),
    )


def _kept() -> Schema:
    texts = {"type": "array", "items": {"type": "string"}}
    answer = {
        "accepted": {"type": "integer"},
        "ids": texts,
        "unknown_items": {"type": "integer", "description": "events of items that the catalogue lacks; they are kept"},
        "request_id": {"type": "string"},
    }
    return _object(answer, tuple(answer))


def _similar(parser: RequestParser, keyed: bool) -> Schema:
    k = {"type": "integer", "minimum": 1, "maximum": parser.limits.k, "default": 10}
    return _operation(
        "What is like an item, by the rules that serve now",
        keyed,
        {"$ref": "#/components/schemas/Neighbours"},
        (400, 404),
        parameters=(_in_path(parser), {"name": "k", "in": "query", "schema": k}, REQUEST_ID),
    )


def _item(parser: RequestParser, keyed: bool) -> Schema:
    create = {"type": "boolean", "default": True, "description": "false: an item that the catalogue lacks is a 404"}
    changes = {
        "columns": _columns(parser, parser.items),
        "withdrawn": {"type": ["boolean", "null"]},
        "create": create,
    }
    return _operation(
        "New values of an item, at once in rules and filters; a new item is retrievable a little later",
        keyed,
        _put("item"),
        (400, 404, 412, 413),
        body=_object(changes, ()),
        example={"columns": dict.fromkeys(list(parser.items)[:1])},
        parameters=(_in_path(parser), IF_MATCH, REQUEST_ID),
        created=True,
    )


def _user(parser: RequestParser, keyed: bool) -> Schema:
    """An example needs no value: null forgets a column."""
    return _operation(
        "New columns of a user's profile, for requests that bring none; null forgets one",
        keyed,
        _put("user"),
        (400, 404, 413),
        body=_object({"profile": _columns(parser, parser.profile)}, ("profile",)),
        example={"profile": dict.fromkeys(list(parser.profile)[:1])},
        parameters=(_in_path(parser, "user"), REQUEST_ID),
        created=True,
    )


def _put(named: str) -> Schema:
    outcome = {"type": "string", "enum": ["created", "changed", "accepted"]}
    outcome["description"] = "accepted: it is kept, and the store that knows whether it is new did not answer"
    answer = {named: {"type": "string"}, "outcome": outcome, "request_id": {"type": "string"}}
    return _object(answer, tuple(answer))


def _hidden(parser: RequestParser) -> Schema:
    """Values by column, one or a list of them."""
    lists = {}
    for name in parser.hideable:
        value = _id(parser) if name == "item" else {**_text(parser), "minLength": 1}
        listed = {"type": "array", "minItems": 1, "maxItems": parser.limits.values, "items": value}
        lists[name] = {"anyOf": [value, listed]}
    return {**_object(lists, ()), "minProperties": 1}


def _operation(
    summary: str,
    keyed: bool,
    answer: Schema,
    statuses: Sequence[int],
    *,
    body: Schema | None = None,
    example: Any = None,
    parameters: Sequence[Schema] = (),
    created: bool = False,
) -> Schema:
    """created: the same response has status 201 for a new object"""
    declared = sorted({*statuses, 500, 503, *((401, 403, 429) if keyed else ())})
    responses = {"200": _response("The answer", answer), **{str(one): _refused(one) for one in declared}}
    if created:
        responses["201"] = _response("It is new", answer)
    operation: Schema = {"summary": summary, "parameters": list(parameters), "responses": responses}
    if keyed:
        operation["security"] = [{"key": []}]
    if body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body, "example": example}},
        }
    return operation


def _probe(summary: str, statuses: Sequence[int]) -> Schema:
    response = _response("The state", _object({"status": {"type": "string"}}, ("status",)))
    return {"summary": summary, "responses": {str(one): response if one == 200 else _refused(one) for one in statuses}}


def _metrics() -> Schema:
    page = {"description": "Prometheus text", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {"summary": "Metrics", "responses": {"200": page}}


def _refused(status: int) -> Schema:
    refused = _response(SENTENCES[status], ERROR)
    if status in RETRIED:
        refused["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}
    return refused


def _response(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _error() -> Schema:
    properties = {"error": {"type": "string", "description": "one sentence"}, "request_id": {"type": "string"}}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _slate(more: Sequence[str]) -> Schema:
    numbers = {name: {"type": "number"} for name in ("utility", "propensity")}
    item = {
        "item": {"type": "string"},
        **numbers,
        "sources": {"type": "array", "items": {"type": "string"}},
        "probabilities": {"type": "object", "additionalProperties": {"type": "number"}},
        "rules": {"type": "object", "additionalProperties": {"type": "string"}},
        "rank": {"type": "integer"},
        "explored": {"type": "boolean"},
    }
    reasons = {
        "adds": {
            "type": "object",
            "additionalProperties": {"type": "number"},
            "description": "where `explain` was asked for: what each part of the input adds to the utility, before rules",
        },
        "because_of": {"type": ["string", "null"], "description": "the item of the user's history that adds most"},
    }
    texts = {name: {"type": "string"} for name in ("request_id", "bundle", "rules", *more)}
    lists = {
        "items": {"type": "array", "items": _object({**item, **reasons}, tuple(item))},
        "degraded": {"type": "array", "items": {"type": "string"}},
    }
    return _object({**texts, **lists}, (*texts, *lists))


def _in_path(parser: RequestParser, name: str = "item") -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": _id(parser)}


def _id(parser: RequestParser) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": parser.limits.id_characters}


def _columns(parser: RequestParser, kinds: Mapping[str, str]) -> Schema:
    return _object({name: _value(parser, kind) for name, kind in kinds.items()}, ())


def _text(parser: RequestParser) -> Schema:
    return {"type": "string", "maxLength": parser.limits.text_characters}


def _value(parser: RequestParser, kind: str) -> Schema:
    text = _text(parser)
    if kind == "category":
        return {**text, "type": ["string", "null"]}
    if kind in ("categories", "vector"):
        entry = text if kind == "categories" else {"type": "number"}
        return {"type": ["array", "null"], "maxItems": parser.limits.values, "items": entry}
    return {"type": ["number", "null"]}


def _object(properties: Schema, required: Sequence[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
