"""The OpenAPI 3.1 document: every route, limit, status and error, with examples that work on the bundle at hand."""

from collections.abc import Mapping, Sequence
from typing import Any

from serving.gateway.documents import MAX_BUDGET_MS, Documents

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


def document(documents: Documents, keyed: bool) -> Schema:
    """keyed: whether an API key must be sent."""
    paths: Schema = {
        "/v1/recommend": {"post": _recommend(documents, keyed)},
        "/v1/events": {"post": _events(documents, keyed)},
        "/v1/onboarding": {"post": _onboarding(documents, keyed)},
        "/v1/items/{item}/similar": {"get": _similar(documents, keyed)},
        "/v1/items/{item}": {"put": _item(documents, keyed)},
        "/v1/users/{user}": {"put": _user(documents, keyed)},
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


def _recommend(documents: Documents, keyed: bool) -> Schema:
    limits = documents.limits
    body = _object(
        {
            "user": _id(documents),
            "k": {"type": "integer", "minimum": 1, "maximum": limits.k, "default": 10},
            "surface": {**_id(documents), "default": "default"},
            "context": _columns(documents, documents.context),
            "profile": _columns(documents, documents.profile),
            "exclude": {"type": "array", "maxItems": limits.exclude, "items": _id(documents)},
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


def _events(documents: Documents, keyed: bool) -> Schema:
    optional_id = {**_id(documents), "type": ["string", "null"]}
    word = {"type": "string", "minLength": 1, "maxLength": documents.limits.text_characters}
    kinds: dict[str, Schema] = {"number": {"type": "number"}, "word": word}
    actions = {name: kinds[kind] for name, kind in documents.actions.items()}
    event = _object(
        {
            "id": optional_id,
            "user": _id(documents),
            "item": _id(documents),
            "timestamp": {
                "type": ["number", "null"],
                "minimum": 0,
                "description": "unix seconds, UTC, at most a day ahead; without it, when the event came in",
            },
            "actions": _object(actions, ()),
            "context": _columns(documents, documents.context),
            "request_id": optional_id,
            "position": {"type": ["integer", "null"], "minimum": 0, "maximum": 10_000},
            "propensity": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
            "bundle": optional_id,
            "rules": optional_id,
            "hide": {**_hidden(documents), "description": "what the user does not want to see, from the answer on"},
            "unhide": {**_hidden(documents), "description": "what may be shown again"},
        },
        ("user",),
    )
    event["anyOf"] = [{"required": [name]} for name in ("item", "hide", "unhide")]
    listed = {"type": "array", "minItems": 1, "maxItems": documents.limits.events, "items": event}
    done = {name: {"number": 1, "word": "view"}[kind] for name, kind in list(documents.actions.items())[:1]}
    return _operation(
        "Feedback; answered when all of it is durable. Sent again within ten minutes, an event with its id or time counts once",
        keyed,
        _kept(),
        (400, 413),
        body=_object({"events": listed}, ("events",)),
        example={"events": [{"user": "405", "item": "50", "timestamp": 893286638, "actions": done}]},
        parameters=(REQUEST_ID,),
    )


def _onboarding(documents: Documents, keyed: bool) -> Schema:
    liked = {"type": "array", "maxItems": documents.limits.liked, "items": _id(documents)}
    values = _object(dict.fromkeys(documents.liked, liked), ())
    return _operation(
        "What a new user likes: items, or values of their columns. The first slate is personal",
        keyed,
        _kept(),
        (400, 413),
        body=_object({"user": _id(documents), "items": liked, "values": values}, ("user",)),
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


def _similar(documents: Documents, keyed: bool) -> Schema:
    k = {"type": "integer", "minimum": 1, "maximum": documents.limits.k, "default": 10}
    return _operation(
        "What is like an item, by the rules that serve now",
        keyed,
        {"$ref": "#/components/schemas/Neighbours"},
        (400, 404),
        parameters=(_in_path(documents), {"name": "k", "in": "query", "schema": k}, REQUEST_ID),
    )


def _item(documents: Documents, keyed: bool) -> Schema:
    create = {"type": "boolean", "default": True, "description": "false: an item that the catalogue lacks is a 404"}
    changes = {
        "columns": _columns(documents, documents.items),
        "withdrawn": {"type": ["boolean", "null"]},
        "create": create,
    }
    return _operation(
        "New values of an item, at once in rules and filters; a new item is retrievable a little later",
        keyed,
        _put("item"),
        (400, 404, 412, 413),
        body=_object(changes, ()),
        example={"columns": dict.fromkeys(list(documents.items)[:1])},
        parameters=(_in_path(documents), IF_MATCH, REQUEST_ID),
        created=True,
    )


def _user(documents: Documents, keyed: bool) -> Schema:
    """An example needs no value: null forgets a column."""
    return _operation(
        "New columns of a user's profile, for requests that bring none; null forgets one",
        keyed,
        _put("user"),
        (400, 404, 413),
        body=_object({"profile": _columns(documents, documents.profile)}, ("profile",)),
        example={"profile": dict.fromkeys(list(documents.profile)[:1])},
        parameters=(_in_path(documents, "user"), REQUEST_ID),
        created=True,
    )


def _put(named: str) -> Schema:
    outcome = {"type": "string", "enum": ["created", "changed", "accepted"]}
    outcome["description"] = "accepted: it is kept, and the store that knows whether it is new did not answer"
    answer = {named: {"type": "string"}, "outcome": outcome, "request_id": {"type": "string"}}
    return _object(answer, tuple(answer))


def _hidden(documents: Documents) -> Schema:
    """Values by column, one or a list of them."""
    lists = {}
    for name in documents.hideable:
        value = _id(documents) if name == "item" else {**_text(documents), "minLength": 1}
        listed = {"type": "array", "minItems": 1, "maxItems": documents.limits.values, "items": value}
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
    """created: the same answer comes as 201 where something is new"""
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
    said = _response("The state", _object({"status": {"type": "string"}}, ("status",)))
    return {"summary": summary, "responses": {str(one): said if one == 200 else _refused(one) for one in statuses}}


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
    told = {"error": {"type": "string", "description": "one sentence"}, "request_id": {"type": "string"}}
    return {"type": "object", "properties": told, "required": list(told)}


def _slate(more: Sequence[str]) -> Schema:
    numbers = {name: {"type": "number"} for name in ("utility", "propensity")}
    place = {
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
        "items": {"type": "array", "items": _object({**place, **reasons}, tuple(place))},
        "degraded": {"type": "array", "items": {"type": "string"}},
    }
    return _object({**texts, **lists}, (*texts, *lists))


def _in_path(documents: Documents, name: str = "item") -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": _id(documents)}


def _id(documents: Documents) -> Schema:
    return {"type": "string", "minLength": 1, "maxLength": documents.limits.id_characters}


def _columns(documents: Documents, kinds: Mapping[str, str]) -> Schema:
    return _object({name: _value(documents, kind) for name, kind in kinds.items()}, ())


def _text(documents: Documents) -> Schema:
    return {"type": "string", "maxLength": documents.limits.text_characters}


def _value(documents: Documents, kind: str) -> Schema:
    text = _text(documents)
    if kind == "category":
        return {**text, "type": ["string", "null"]}
    if kind in ("categories", "vector"):
        entry = text if kind == "categories" else {"type": "number"}
        return {"type": ["array", "null"], "maxItems": documents.limits.values, "items": entry}
    return {"type": ["number", "null"]}


def _object(properties: Schema, required: Sequence[str]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
