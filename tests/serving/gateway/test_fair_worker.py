"""Work that takes milliseconds leaves the event loop, and keys take turns at it."""

import asyncio
import json
import threading
from dataclasses import replace
from typing import Any

from recsys.errors import QueryError
from recsys.policy.compose import CompiledPolicy
from serving.gateway.container import Dependencies
from serving.gateway.fair_worker import INLINE_BYTES, FairWorker
from serving.gateway.fallback_slates import SimilarItems
from serving.gateway.request_parser import RequestParser
from serving.state.onboarding import Onboarding


def test_only_large_bodies_leave_the_event_loop() -> None:
    async def story() -> list[int]:
        worker = FairWorker(waiting=1)
        sizes = (INLINE_BYTES, INLINE_BYTES + 1)
        return [await worker.parse(lambda body: threading.get_ident(), bytes(size), key="a") for size in sizes]

    inline, large = asyncio.run(story())
    assert inline == threading.get_ident() != large


def test_an_error_of_the_thread_is_one_of_the_request() -> None:
    def parse(body: bytes) -> None:
        raise QueryError("the body is not one JSON object")

    async def story() -> str:
        try:
            await FairWorker(waiting=1).parse(parse, bytes(INLINE_BYTES + 1), key="a")
        except QueryError as error:
            return str(error)
        return ""

    assert asyncio.run(story()) == "the body is not one JSON object"


def test_one_key_with_much_work_lets_another_go_next() -> None:
    async def story() -> list[str]:
        worker, order, gate = FairWorker(waiting=100), list[str](), threading.Event()
        flood = [asyncio.ensure_future(worker.run(gate.wait, key="flood"))]
        flood += [asyncio.ensure_future(worker.run(lambda: order.append("flood"), key="flood")) for _ in range(20)]
        await asyncio.sleep(0)
        other = asyncio.ensure_future(worker.run(lambda: order.append("other"), key="other"))
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(other, *flood)
        return order

    assert asyncio.run(story()).index("other") == 1


def test_no_slate_of_the_gateway_is_made_on_the_event_loop(
    parts: Dependencies, during: Any, good_slate: Any, items: list[str], monkeypatch: Any
) -> None:
    """Rules of a large catalogue take long, and so do the popular items of a liked value."""
    threads: list[int] = []
    parts, slate, well = good_slate(parts)

    def watch(of: type, name: str) -> None:
        original = getattr(of, name)

        def watched(self: Any, *arguments: Any, **options: Any) -> Any:
            threads.append(threading.get_ident())
            return original(self, *arguments, **options)

        monkeypatch.setattr(of, name, watched)

    async def story(door: Any) -> list[Any]:
        watch(CompiledPolicy, "compose")
        watch(Onboarding, "seeds")
        await door.recommend(slate["user"], k=5)
        well["now"] = False
        answers = [await door.recommend(user, k=5) for user in (slate["user"], "stranger")]
        answers.append(await door.client.get(f"/v1/items/{items[3]}/similar"))
        answers.append(await door.client.post("/v1/onboarding", json={"user": "new", "items": [items[0]]}))
        return [answer.json().get("rung", answer.status_code) for answer in answers]

    assert during(parts, story) == ["last_good", "popular", 200, 200]
    assert len(threads) == 4
    assert threading.get_ident() not in threads


def test_no_request_parses_a_large_body_or_searches_the_catalogue_on_the_event_loop(
    parts: Dependencies, during: Any, items: list[str], monkeypatch: Any
) -> None:
    threads: list[tuple[str, int]] = []

    def watch(of: type, name: str) -> None:
        original = getattr(of, name)

        def watched(self: Any, *arguments: Any, **options: Any) -> Any:
            threads.append((name, threading.get_ident()))
            return original(self, *arguments, **options)

        monkeypatch.setattr(of, name, watched)

    async def story(door: Any) -> list[int]:
        large = "x" * INLINE_BYTES
        requests = {
            "POST": {"/v1/recommend": {"user": large}, "/v1/events": {"events": [{"user": large}]}},
            "PUT": {"/v1/items/1": {"columns": {"x": large}}, "/v1/users/1": {"profile": {"x": large}}},
        }
        requests["POST"]["/v1/onboarding"] = {"user": large}
        answers = [
            await door.client.request(method, path, content=json.dumps(body))
            for method, bodies in requests.items()
            for path, body in bodies.items()
        ]
        for of, name in ((SimilarItems, "of_item"),):
            watch(of, name)
        answers.append(await door.client.get(f"/v1/items/{items[3]}/similar"))
        return [answer.status_code for answer in answers]

    for name in ("recommend", "events", "item", "user_profile", "onboarding"):
        watch(RequestParser, name)
    assert during(replace(parts), story) == [400] * 5 + [200]
    assert [name for name, _ in threads] == [
        "recommend",
        "events",
        "onboarding",
        "item",
        "user_profile",
        "of_item",
    ]
    assert threading.get_ident() not in {thread for _, thread in threads}
