"""The OpenAPI 3.1 document: every route, limit, status and error, with examples that work on the bundle at hand."""

from collections.abc import Sequence

from recsys.schema import Schema
from serving.gateway.routes import ANSWERS, Route, object_of

SENTENCES = {
    400: "The request cannot be understood; the sentence names the field",
    401: "No valid API key or token came",
    403: "The API key or token lacks the scope",
    404: "No such item, or nothing under this path",
    412: "The request may change only what is there, and there is no such item",
    413: "The body is too large",
    429: "The API key, the subject of the token, or the address without a valid key sends too much",
    500: "A defect of the service",
    503: "The service, or what this request needs of it, is away or too busy",
}
RETRIED = (429, 503)
ERROR = {"$ref": "#/components/schemas/Error"}


def document(routes: Sequence[Route], keyed: bool) -> Schema:
    """Build the document. keyed: whether an API key is required."""
    paths: Schema = {
        "/healthz": {"get": _probe("Whether the process is alive", (200, 429))},
        "/readyz": {"get": _probe("Whether traffic may come", (200, 429, 503))},
    }
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, keyed)
    return {
        "openapi": "3.1.0",
        "info": {"title": "recsys", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": {"Error": _error(), **ANSWERS},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, keyed: bool) -> Schema:
    declared = sorted({*route.statuses, 500, 503, *((401, 403, 429) if keyed else ())})
    responses = {"200": _response("The answer", route.answer), **{str(one): _refused(one) for one in declared}}
    if route.creates:
        responses["201"] = _response("It is new", route.answer)
    operation: Schema = {"summary": route.summary, "parameters": list(route.parameters), "responses": responses}
    if keyed:
        operation["security"] = [{"key": []}]
    if route.body is not None:
        body = {"schema": route.body.schema(), "example": route.example}
        operation["requestBody"] = {"required": True, "content": {"application/json": body}}
    return operation


def _probe(summary: str, statuses: Sequence[int]) -> Schema:
    warnings = {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": "part -> sentence, of parts that go on with an older version",
    }
    state = object_of({"status": {"type": "string"}, "warnings": warnings}, ["status"])
    response = _response("The state", state)
    return {"summary": summary, "responses": {str(one): response if one == 200 else _refused(one) for one in statuses}}


def _refused(status: int) -> Schema:
    refused = _response(SENTENCES.get(status, "The request is refused; the sentence says why"), ERROR)
    if status in RETRIED:
        refused["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}
    return refused


def _response(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _error() -> Schema:
    properties = {"error": {"type": "string", "description": "one sentence"}, "request_id": {"type": "string"}}
    return {"type": "object", "properties": properties, "required": list(properties)}
