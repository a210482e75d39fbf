"""The contract of a route's declaration, ours and the example of the page "How to add a route"."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis

from recsys.errors import ConfigError, QueryError
from serving.gateway import routes as declared
from serving.gateway.api_keys import ApiKey, ApiKeys, hash_token
from serving.gateway.container import Dependencies
from serving.gateway.openapi import document
from serving.gateway.request_parser import RequestLimits, RequestParser
from serving.gateway.routes import ROUTES, Route, routes

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "add-a-route.md"
PARSER = RequestParser(
    context={"device": "category"},
    profile={"age": "number", "taste": "vector"},
    items={"genres": "categories", "stock": "number"},
    liked=("genres",),
    hideable=("item", "genres"),
    actions={"rating": "number", "kind": "word"},
    limits=RequestLimits(),
    now=lambda: 1e9,
    ranked=True,
)
OURS = [declare(PARSER) for declare in ROUTES]
WITH_BODY = [route for route in OURS if route.body is not None]


class _Point:
    """An entry point of another package."""

    def __init__(self, loaded: Any) -> None:
        self.loaded = loaded

    def load(self) -> Any:
        return self.loaded


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The route of the page, as an installed package would bring it."""
    (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(text, str(PAGE), "exec"), names)
    monkeypatch.setattr(declared, "entry_points", lambda group: [_Point(names["item_row"])])
    return names["item_row"]


@pytest.mark.parametrize("route", WITH_BODY, ids=lambda route: route.name)
def test_an_example_is_a_body_of_its_own_route(route: Route) -> None:
    assert route.body is not None
    assert route.body.parse("", route.example)
    with pytest.raises(QueryError, match=r"the body has the unknown field 'else'; known are"):
        route.body.parse("", {**route.example, "else": 1})


def test_the_document_has_every_route(example: Any) -> None:
    found = document(routes(PARSER), keyed=True)
    operations = {one.ok().label for one in schemathesis.openapi.from_dict(found).get_all_operations()}
    assert {route.name for route in [*OURS, example(PARSER)]} <= operations
    for route in [*OURS, example(PARSER)]:
        operation = found["paths"][route.path][route.method.lower()]
        assert operation["summary"] == route.summary
        assert {"200", "401", "403", "429", "500", "503"} <= set(operation["responses"])


def test_a_vector_is_published_as_it_is_read() -> None:
    taste = PARSER.recommend_body.schema()["properties"]["profile"]["properties"]["taste"]
    longest = [0.5] * taste["maxItems"]
    body = {"user": "u", "profile": {"taste": longest}}
    assert PARSER.recommend(json.dumps(body).encode()).profile["taste"] == longest
    with pytest.raises(QueryError, match=r"profile\.taste has 4097 entries; send 0 to 4096"):
        PARSER.recommend(json.dumps({**body, "profile": {"taste": [*longest, 0.5]}}).encode())


def test_two_routes_of_one_path_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        declared, "entry_points", lambda group: [_Point(lambda parser: replace(OURS[0], summary="mine"))]
    )
    with pytest.raises(ConfigError, match=r"two routes are POST /v1/recommend; give the one of the installed package"):
        routes(PARSER)


def test_the_route_of_an_installed_package_has_what_every_route_has(
    example: Any, parts: Dependencies, during: Any, items: list[str]
) -> None:
    async def story(door: Any) -> list[httpx.Response]:
        headers = {"authorization": "Bearer token", "x-request-id": "mine"}
        return [
            await door.client.get(f"/v1/items/{items[3]}/row", headers=headers),
            await door.client.get("/v1/items/nobody/row", headers=headers),
            await door.client.post(f"/v1/items/{items[3]}/row", headers=headers),
            await door.client.get(f"/v1/items/{items[3]}/row"),
        ]

    key = ApiKey(name="k", sha256=hash_token("token"), rate=100.0, burst=100, scopes=("recommend",))
    found, absent, wrong_method, keyless = during(replace(parts, keys=ApiKeys([key], clock=lambda: 0.0)), story)
    assert found.json() == {"item": items[3], "row": 3}
    assert absent.status_code == 404
    assert absent.json()["error"].startswith("the catalogue has no such item")
    assert wrong_method.status_code == 405
    assert keyless.status_code == 401


@pytest.mark.parametrize("route", OURS, ids=lambda route: route.name)
def test_a_key_without_the_scope_is_refused(route: Route, parts: Dependencies, during: Any) -> None:
    others = tuple({"recommend", "events", "admin"} - {route.scope})
    key = ApiKey(name="k", sha256=hash_token("token"), rate=100.0, burst=100, scopes=others)

    async def story(door: Any) -> int:
        path = re.sub(r"\{\w+\}", "some", route.path)
        answer = await door.client.request(route.method, path, headers={"authorization": "Bearer token"}, content=b"{}")
        status: int = answer.status_code
        return status

    assert during(replace(parts, keys=ApiKeys([key], clock=lambda: 0.0)), story) == 403


def test_a_status_of_its_own_has_a_sentence() -> None:
    own = replace(OURS[0], path="/v1/mine", statuses=(409,))
    responses = document([own], keyed=False)["paths"]["/v1/mine"]["post"]["responses"]
    assert responses["409"]["description"] == "The request is refused; the sentence says why"


@pytest.mark.parametrize("path", ["/healthz", "/v1/items/{id}"])
def test_a_path_that_matches_the_same_is_taken(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    mine = replace(OURS[0], method="PUT", path=path)
    monkeypatch.setattr(declared, "entry_points", lambda group: [_Point(lambda parser: mine)])
    with pytest.raises(ConfigError, match="two routes are PUT"):
        routes(PARSER)
