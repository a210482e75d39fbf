"""Probing goes on whatever a model answers and whatever a check raises: readiness is never that of an earlier moment."""

import asyncio
from typing import Any

import pytest

from recsys.errors import ServingError
from serving.gateway.readiness import Readiness

GOOD = b'{"bundle": "ours"}'
REASONS = {
    b'{"bundle": "theirs"}': "serves the release theirs and this gateway ours; restart the one that is behind",
    b"[]": "refused a synthetic query",
    b"{": "refused a synthetic query",
    KeyError("a defect"): "answers with something that is no slate",
    ServingError("away"): "refused a synthetic query",
    TimeoutError(): "did not answer within",
}


class Changing:
    """A model server and a disk that answer, or fail, as they are told."""

    def __init__(self) -> None:
        self.answer: bytes | Exception = GOOD
        self.full: str | Exception | None = None
        self.probes = 0

    async def infer(self, model: str, query: bytes, *, time_s: float, metadata: Any) -> bytes:
        self.probes += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def close(self) -> None: ...

    def disk(self) -> str | None:
        if isinstance(self.full, Exception):
            raise self.full
        return self.full


async def reasons_after(readiness: Readiness, world: Changing) -> dict[str, str]:
    """Reasons once two further probes have begun."""
    begun = world.probes
    async with asyncio.timeout(60):
        while world.probes < begun + 2:
            await asyncio.sleep(0.001)
    return dict(readiness.reasons)


async def story(broken: dict[str, Any]) -> tuple[dict[str, str], bool, dict[str, str], bool]:
    world = Changing()
    readiness = Readiness(
        world, ["m"], release="ours", checks={"disk": world.disk}, instant={}, interval_s=0.001, timeout_s=5.0
    )
    await readiness.warm(5.0)
    assert readiness.reasons == {}
    readiness.start()
    for name, value in broken.items():
        setattr(world, name, value)
    found, mixed = await reasons_after(readiness, world), readiness.mixed
    world.answer, world.full = GOOD, None
    after = await reasons_after(readiness, world), readiness.mixed
    readiness.stop()
    return found, mixed, *after


@pytest.mark.parametrize("answer", REASONS, ids=str)
def test_a_model_that_is_not_of_this_release_or_fails_is_named_until_it_answers(answer: bytes | Exception) -> None:
    found, mixed, after, mixed_after = asyncio.run(story({"answer": answer}))
    assert REASONS[answer] in found["m"]
    assert mixed == (answer == b'{"bundle": "theirs"}')
    assert (after, mixed_after) == ({}, False)


@pytest.mark.parametrize(
    ("full", "reason"), [("it is full", "it is full"), (KeyError("a defect"), "cannot be checked")]
)
def test_a_check_that_fails_is_named_until_it_passes(full: str | Exception, reason: str) -> None:
    found, _, after, _ = asyncio.run(story({"full": full}))
    assert reason in found["disk"]
    assert after == {}
