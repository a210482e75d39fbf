"""The HTTP reference: the gateway's own OpenAPI document as a page, for the columns of the MovieLens 100K demo."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from serving.gateway.openapi import document
from serving.gateway.request_parser import RequestLimits, RequestParser
from serving.gateway.routes import routes

Schema = Mapping[str, Any]

HEAD = """# HTTP

Generated from the gateway's OpenAPI document, with the columns of the MovieLens 100K demo; the machine-readable form is
[openapi.json](openapi.json). A running gateway publishes its own, with the columns, actions and limits of its bundle, at
`/openapi.json`.

Send an API key, or a token of the identity provider, as `Authorization: Bearer <key>`; it needs the scope of the route
([the gateway](../how-to/gateway.md#routes), [keys](../how-to/keys.md)). An unknown field is refused and the error names it.
Every error is a JSON object with `error`, one sentence, and `request_id`.
"""
CONTENT = "application/json"


def example_documents() -> RequestParser:
    """The columns that `make demo` serves."""
    return RequestParser(
        context={},
        profile={"age": "number", "gender": "category", "occupation": "category"},
        items={"title": "category", "genres": "categories", "year": "number", "stock": "number"},
        liked=("title", "genres"),
        hideable=("item", "title", "genres"),
        actions={"rating": "number"},
        limits=RequestLimits(),
        now=lambda: 0.0,
        ranked=True,
    )


def example_document() -> dict[str, Any]:
    return document(routes(example_documents()), keyed=True)


def document_text() -> str:
    return json.dumps(example_document(), indent=1)


def page() -> str:
    whole = example_document()
    parts = [HEAD]
    for path, methods in whole["paths"].items():
        for method, operation in methods.items():
            parts += [f"## {method.upper()} {path}", "", f"{operation['summary']}.", "", *_operation(operation)]
    parts += ["## Schemas", ""]
    for name, schema in whole["components"]["schemas"].items():
        parts += [f"### {name}", "", *_fields(schema), ""]
    return "\n".join(parts)


def _operation(operation: Schema) -> Iterator[str]:
    if parameters := operation.get("parameters"):
        rows = [(f"`{one['name']}`", one["in"], _type(one["schema"]), one.get("description", "")) for one in parameters]
        yield from (*_table(("parameter", "in", "type", "meaning"), rows), "")
    if "requestBody" in operation:
        content = operation["requestBody"]["content"][CONTENT]
        yield from ("Body:", "", *_fields(content["schema"]), "")
        yield from ("Example:", "", "```json", json.dumps(content["example"]), "```", "")
    rows = [(f"`{status}`", *_answer(one)) for status, one in sorted(operation["responses"].items())]
    yield from (*_table(("status", "meaning", "body"), rows), "")


def _answer(response: Schema) -> tuple[str, str]:
    (content,) = response["content"].values()
    retry = "; `Retry-After` says when to try again" if "headers" in response else ""
    schema = content["schema"]
    return response["description"] + retry, _type(schema) + _names(schema)


def _names(schema: Schema) -> str:
    names = ", ".join(f"`{name}`" for name in schema.get("properties", {}))
    return f": {names}" if names else ""


def _fields(schema: Schema) -> list[str]:
    rows = list(_rows(schema, ""))
    return _table(("field", "type", "required", "meaning"), rows) if rows else ["No fields."]


def _rows(schema: Schema, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, one in schema.get("properties", {}).items():
        required = "yes" if name in schema.get("required", ()) else ""
        yield f"`{prefix}{name}`", _type(one), required, one.get("description", "")
        yield from _rows(one, f"{prefix}{name}.")
        yield from _rows(one.get("items", {}), f"{prefix}{name}[].")


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema and "type" not in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    kinds: str | Sequence[str] = schema.get("type", "any")
    kind = kinds if isinstance(kinds, str) else " or ".join(kinds)
    if "array" in kind and "items" in schema:
        kind = f"{kind} of {_type(schema['items'])}"
    return ", ".join([kind, *_bounds(schema)])


def _bounds(schema: Schema) -> Iterator[str]:
    words = {
        "minimum": "at least {}",
        "maximum": "at most {}",
        "minLength": "{} characters or more",
        "maxLength": "{} characters or fewer",
        "minItems": "{} entries or more",
        "maxItems": "{} entries or fewer",
        "pattern": "`{}`",
        "default": "default `{}`",
    }
    for key, text in words.items():
        if key in schema and not (key == "minLength" and schema[key] == 1):
            yield text.format(schema[key])
    if "enum" in schema:
        yield "one of " + ", ".join(f"`{one}`" for one in schema["enum"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *escaped)]


if __name__ == "__main__":
    print(page())
