"""A real Triton stops answering without a word and comes back: answers go on, and become good again by themselves."""

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.gateway.container import Dependencies
from serving.gateway.settings import Settings
from serving.triton.async_models import TritonModels
from serving.triton.server import TritonServer

PATIENCE_S = 60
HURRIED = Settings(
    budget_ms=6_000,
    light_ms=1_000,
    fallback_ms=4_000,
    state_ms=1_000,
    breaker_window=2,
    breaker_failures=2,
    breaker_pause_s=10,
    breaker_longest_s=10,
    probe_s=60,
)
"""a second for each model, and time enough for the rest on a machine that others use as well"""
CONFIG = """
name: "NAME"
backend: "python"
max_batch_size: 32
input [{ name: "QUERY" data_type: TYPE_STRING dims: [1] }]
output [{ name: "SLATE" data_type: TYPE_STRING dims: [1] }]
"""
MODEL = """
import json

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        rows = triton.get_input_tensor_by_name(request, "QUERY").as_numpy()[:, 0]
        slates = [json.dumps(self.slate(json.loads(row))) for row in rows]
        return triton.InferenceResponse([triton.Tensor("SLATE", np.array(slates, dtype=object)[:, None])])

    def slate(self, query):
        names = {name: query[name] for name in ("user", "request_id")}
        return {**names, "items": [], "degraded": [], "bundle": "RELEASE", "rules": "r"}
"""


@pytest.fixture
def fragile(parts: Dependencies, tmp_path: Path) -> Iterator[TritonServer]:
    """A server of its own, with models that say only who asked."""
    for name in ("recommend", "recommend_light"):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(CONFIG.replace("NAME", name))
        (tmp_path / name / "1" / "model.py").write_text(MODEL.replace("RELEASE", parts.bundle.fingerprint))
    with TritonServer(tmp_path) as server:
        yield server


def test_a_stopped_triton_costs_the_models_and_not_the_answers(
    parts: Dependencies, opened: Any, fragile: TritonServer
) -> None:
    pid = fragile.pid
    assert pid is not None

    async def story() -> list[dict[str, Any]]:
        async with opened(replace(parts, models=TritonModels(fragile.grpc_url), settings=HURRIED)) as door:
            before = (await door.recommend("ann")).json()
            os.kill(pid, signal.SIGSTOP)
            try:
                during = [(await door.recommend("ann")).json() for _ in range(3)]
            finally:
                os.kill(pid, signal.SIGCONT)
            async with asyncio.timeout(PATIENCE_S):
                while (after := (await door.recommend("ann")).json())["rung"] != "recommend":
                    await asyncio.sleep(0.1)
            return [before, *during, after]

    before, first, second, third, after = asyncio.run(story())
    assert (before["rung"], before["degraded"], after["rung"], after["degraded"]) == ("recommend", [], "recommend", [])
    assert {one["rung"] for one in (first, second, third)} == {"popular"}
    assert {"recommend:timeout", "recommend_light:timeout"} <= set(first["degraded"])
    assert {"recommend:open", "recommend_light:open"} <= set(third["degraded"])
    assert all(len(one["items"]) == 10 for one in (first, second, third))
