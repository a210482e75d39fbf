"""Whatever is made from the OpenAPI document, and against it, gets an answer that the document declares."""

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from recsys.pipeline import recommend
from serving.gateway.container import Dependencies

NUM_EXAMPLES = 40
"""of a route and a mode"""
BODILESS = ("content-length", "transfer-encoding", "host", "connection")


@pytest.fixture
def healthy(parts: Dependencies, trained: Any, models: Any) -> Dependencies:
    """Models that answer anything with one good slate, so that nothing but the request can be at fault."""
    (query,) = trained.replay.queries([trained.dataset.num_events - 1], k=5)
    (slate,) = recommend([query], trained.stages)

    async def answer(text: bytes) -> bytes:
        return slate.to_json().encode()

    return replace(parts, models=models(answers={"recommend": answer, "recommend_light": answer}))


async def sent(case: Any, client: httpx.AsyncClient) -> httpx.Response:
    """What the case would send, in this event loop."""
    asked = case.as_transport_kwargs(base_url="http://gateway")
    headers = {name: value for name, value in (asked.get("headers") or {}).items() if name.lower() not in BODILESS}
    body = {"json": asked["json"]} if asked.get("json") is not None else {"content": asked.get("data") or b""}
    return await client.request(asked["method"], asked["url"], params=asked.get("params"), headers=headers, **body)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fitting", "misfitting"])
def test_only_declared_answers(healthy: Dependencies, opened: Any, mode: GenerationMode) -> None:
    statuses: set[int] = set()

    async def story() -> None:
        async with opened(healthy) as door:
            schema = schemathesis.openapi.from_dict((await door.client.get("/openapi.json")).json())
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, fuzz, schema, door.client, loop)

    def fuzz(schema: Any, client: httpx.AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        for found in schema.get_all_operations():
            with contextlib.suppress(Unsatisfiable):  # nothing that a request to this route could break
                fuzz_one(found.ok(), client, loop)

    def fuzz_one(operation: Any, client: httpx.AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        declared = set(operation.definition.raw["responses"])

        @settings(max_examples=NUM_EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy(generation_mode=mode))
        def one_case(case: Any) -> None:
            answer = asyncio.run_coroutine_threadsafe(sent(case, client), loop).result()
            statuses.add(answer.status_code)
            assert str(answer.status_code) in declared, answer.text
            assert "Traceback" not in answer.text
            if answer.status_code >= 300:
                assert {"error", "request_id"} <= set(answer.json())

        one_case()

    asyncio.run(story())
    assert (200 if mode is GenerationMode.POSITIVE else 400) in statuses
