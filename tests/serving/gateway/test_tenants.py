"""Tenants: no key reveals or rewrites the users of another tenant, whatever ids it sends."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recsys.contracts import Event
from recsys.data.ids import normalised_id
from recsys.errors import QueryError
from recsys.stages import read_spec
from serving.gateway.api_keys import ApiKey, ApiKeys, hash_token
from serving.gateway.caller import TENANT, Caller
from serving.gateway.container import Dependencies
from serving.gateway.pseudonyms import UserPseudonyms
from serving.gateway.request_parser import RequestParser
from serving.gateway.routes import routes
from serving.state.protocols import UserState

USER = "u-7391"
TENANTS = ("acme", "bravo")
PIECES = st.sampled_from(
    ["tenant", ":", "acme", "bravo", "a", "tenant:acme:", "\u0301", "e", " ", "\u200b", "/", "%3A"]
)
IDS = (
    (st.lists(PIECES, max_size=8).map("".join) | st.text(max_size=20))
    .map(normalised_id)
    .filter(lambda id: id and normalised_id(id) == id)
)
NAMES = st.sampled_from(["a", "acme", "bravo", "tenant", "a.b"]) | st.from_regex(TENANT, fullmatch=True)
CALLERS = st.builds(Caller, tenant=st.none() | NAMES)
PSEUDONYMS = [UserPseudonyms(key=b"a key of tests in these files", store_raw=raw) for raw in (True, False)]


@pytest.mark.parametrize("pseudonyms", PSEUDONYMS, ids=["raw", "hashed"])
@given(CALLERS, IDS, CALLERS, IDS)
@example(Caller(tenant="acme"), "u", Caller(), "tenant:acme:u")
@example(Caller(tenant="tenant"), "acme:u", Caller(tenant="acme"), "u")
@example(Caller(tenant="a"), "b:u", Caller(tenant="a.b"), "u")
def test_no_two_tenants_share_a_stored_id(
    pseudonyms: UserPseudonyms, one: Caller, id: str, other: Caller, other_id: str
) -> None:
    try:
        stored, other_stored = one.scoped(id), other.scoped(other_id)
    except QueryError:
        return
    same = (one.tenant, id) == (other.tenant, other_id)
    assert (pseudonyms.stored(stored) == pseudonyms.stored(other_stored)) == same
    assert (pseudonyms.logged(stored) == pseudonyms.logged(other_stored)) == same


@given(CALLERS, IDS)
def test_a_training_on_the_log_leaves_stored_ids_as_they_are(caller: Caller, id: str) -> None:
    try:
        stored = caller.scoped(id)
    except QueryError:
        return
    assert normalised_id(stored) == stored


@given(IDS)
def test_a_caller_without_a_tenant_sends_ids_as_before_but_not_those_of_a_tenant(id: str) -> None:
    for tenant in TENANTS:
        with pytest.raises(QueryError, match=f"the id begins with 'tenant:{tenant}:'"):
            Caller().scoped(Caller(tenant=tenant).scoped(id))
    if not id.startswith("tenant:"):
        assert Caller().scoped(id) == id


def keyed(parts: Dependencies) -> Dependencies:
    """Keys "acme" and "bravo" of these tenants, and "none" of no tenant."""
    limits = {"rate": 1e6, "burst": 1_000_000, "scopes": ("recommend", "events")}
    tenants = {**dict.fromkeys(TENANTS), **{name: name for name in TENANTS}, "none": None}
    keys = [ApiKey(name=name, sha256=hash_token(name), tenant=tenant, **limits) for name, tenant in tenants.items()]  # type: ignore[arg-type]
    return replace(parts, keys=ApiKeys(keys, clock=lambda: 0.0))


def header(name: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}", **more}


@pytest.fixture
def queries(parts: Dependencies, good_slate: Any) -> tuple[Dependencies, list[dict[str, Any]]]:
    """Parts with a model that answers by the slate of a user, and the queries that reach it."""
    parts, slate, _ = good_slate(keyed(parts))
    seen: list[dict[str, Any]] = []

    async def answer(text: bytes) -> bytes:
        query = json.loads(text)
        if query["user"]:  # the others warm up and probe
            seen.append(query)
        because = [one["item"] for one in query.get("history", ())][-1:]
        items = [{**one, "because_of": because} for one in slate["items"]]
        return json.dumps({**slate, "items": items, "user": query["user"], "request_id": query["request_id"]}).encode()

    names = ("recommend", "recommend_light", "recommend_explained")
    return replace(parts, models=type(parts.models)(answers=dict.fromkeys(names, answer))), seen


def test_a_tenant_is_recommended_by_its_own_history_and_reads_its_own_ids(
    queries: Any, during: Any, items: list[str]
) -> None:
    parts, seen = queries
    event = Event(user="tenant:acme:" + USER, item=items[3], timestamp=0.0, actions={})
    parts.states.known["tenant:acme:" + USER] = UserState(history=(event,))

    async def story(door: Any) -> list[httpx.Response]:
        ids = {"x-request-id": "same"}
        return [await door.recommend(USER, header(name, **ids), explain=True) for name in (*TENANTS, "none")]

    answers = during(parts, story)
    assert [query["user"] for query in seen] == ["tenant:acme:" + USER, "tenant:bravo:" + USER, USER]
    assert [len(query.get("history", ())) for query in seen] == [1, 0, 0]
    assert len({query["request_id"] for query in seen}) == 3
    for answer, histories in zip(answers, ([items[3]], [], []), strict=True):
        assert (answer.json()["user"], answer.json()["request_id"]) == (USER, "same")
        assert "tenant:" not in answer.text
        assert all(one["because_of"] == histories for one in answer.json()["items"])
    users = {record.user for record in parts.writer.of_kind("impression")}
    assert users == {"tenant:acme:" + USER, "tenant:bravo:" + USER, USER}


def requests_of(user: str, item: str, profile: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """Each route that names a user and that a key of a tenant may call: it cannot have the scope admin."""
    event = {"user": user, "item": item, "hide": {"item": item}, "request_id": "r", "actions": {}}
    return [
        ("POST", "/v1/recommend", {"user": user}),
        ("POST", "/v1/events", {"events": [event]}),
        ("POST", "/v1/onboarding", {"user": user, "items": [item]}),
        ("PUT", f"/v1/users/{user}", {"profile": dict(profile)}),
    ]


def test_the_requests_below_cover_every_route_that_names_a_user(parts: Dependencies) -> None:
    parser = RequestParser.of(parts.bundle, limits=parts.settings.limits, now=parts.now)
    naming = {
        one.name
        for one in routes(parser)
        if one.scope != "admin" and "user" in json.dumps([one.path, one.example or {}])
    }
    assert naming == {
        re.sub("/v1/users/.*", "/v1/users/{user}", f"{method} {path}") for method, path, _ in requests_of("u", "i", {})
    }


@pytest.fixture
def profile(parts: Dependencies) -> dict[str, None]:
    return {column.name: None for column in read_spec(parts.bundle).profile.columns[:1]}


def test_no_route_writes_a_user_of_another_tenant(
    parts: Dependencies, during: Any, items: list[str], profile: dict[str, None]
) -> None:
    parts = keyed(parts)

    async def story(door: Any) -> list[int]:
        statuses = []
        for name in (*TENANTS, "none"):
            for method, path, body in requests_of(USER, items[0], profile):
                answer = await door.client.request(method, path, json=body, headers=header(name))
                assert "tenant:" not in answer.text
                statuses.append(answer.status_code)
        return statuses

    assert set(during(parts, story)) <= {200, 201}
    written = parts.writer.records.values()  # type: ignore[attr-defined]
    stored = {"tenant:acme:" + USER, "tenant:bravo:" + USER, USER}
    for kind in ("impression", "feedback", "hide", *(["profile"] if profile else [])):
        assert {record.user for record in written if record.kind == kind} == stored
    assert {record.body.get("request_id") for record in written if record.kind == "feedback"} == {
        "tenant:acme:r",
        "tenant:bravo:r",
        "r",
        None,  # of the onboarding
    }


def test_a_key_without_a_tenant_cannot_name_the_users_of_one(
    parts: Dependencies, during: Any, items: list[str], profile: dict[str, None]
) -> None:
    async def story(door: Any) -> list[httpx.Response]:
        user, ids = "tenant:acme:" + USER, header("none", **{"x-request-id": "tenant:acme:r"})
        requests = requests_of(user, items[0], profile)
        named = [await door.client.request(*one[:2], json=one[2], headers=header("none")) for one in requests]
        return [*named, await door.recommend("u", ids)]

    parts = keyed(parts)
    for answer in during(parts, story):
        assert answer.status_code == 400
        assert "is kept for the users of a tenant" in answer.json()["error"]
    assert parts.writer.records == {}  # type: ignore[attr-defined]


def test_what_one_tenant_hides_the_other_is_shown(queries: Any, during: Any) -> None:
    parts, seen = queries

    async def story(door: Any) -> None:
        first = (await door.recommend(USER, header("acme"))).json()["items"][0]["item"]
        body = {"events": [{"user": USER, "hide": {"item": first}}]}
        assert (await door.client.post("/v1/events", json=body, headers=header("acme"))).status_code == 200
        for name in TENANTS:
            await door.recommend(USER, header(name))

    during(parts, story)
    assert [bool(query.get("hidden")) for query in seen] == [False, True, False]


def test_the_last_good_slate_of_a_tenant_is_its_own(parts: Dependencies, good_slate: Any, during: Any) -> None:
    parts, _, well = good_slate(keyed(parts))

    async def story(door: Any) -> list[str]:
        await door.recommend(USER, header("acme"), k=5)
        well["now"] = False
        return [(await door.recommend(USER, header(name), k=5)).json()["rung"] for name in TENANTS]

    assert during(parts, story) == ["last_good", "popular"]


def test_the_log_tells_tenants_apart_without_the_user(queries: Any, during: Any) -> None:
    async def story(door: Any) -> list[dict[str, Any]]:
        for name in TENANTS:
            await door.recommend(USER, header(name))
        return [line for line in door.lines if "tenant" in line]

    lines = during(queries[0], story)
    assert [line["tenant"] for line in lines] == list(TENANTS)
    assert lines[0]["user"] != lines[1]["user"]
    assert USER not in json.dumps(lines)
