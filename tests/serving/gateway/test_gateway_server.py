"""The gateway as a process of its own: warm before it is ready, drained before it goes."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from recsys.errors import ConfigError, ServingError
from serving.gateway.connection_limits import ConnectionLimits
from serving.gateway.http_server import Listening, serve_gateway
from serving.processes import until

PROCESS = """
import asyncio, dataclasses, io, sys, time
from pathlib import Path
sys.path[:0] = [{here!r}]
from conftest import MemoryExposures, MemoryItems, MemoryStates, PATIENT
from recsys.bundle import Bundle
from recsys.data.forgotten import ForgottenList
from recsys.policy.exposure.exposure_file import ShareFile
from recsys.stages import load_retrieve, load_rules
from serving.gateway.app import build
from serving.gateway.container import Dependencies
from serving.gateway.pseudonyms import UserPseudonyms
from serving.gateway.http_server import Listening, serve_gateway
from serving.triton.async_models import TritonModels

class SlowFile:
    "A log that is durable half a second later."
    async def append(self, records):
        await asyncio.sleep(0.5)
        with open({log!r}, "ab") as file:
            file.writelines(record.to_json() + b"\\n" for record in records)

bundle = Bundle.open(Path({bundle!r}))
gateway = build(Dependencies(
    bundle=bundle, retrieve=load_retrieve(bundle), rules=load_rules(bundle), models=TritonModels({grpc!r}),
    states=MemoryStates(), writer=SlowFile(),
    items=MemoryItems(), pseudonyms=UserPseudonyms(key=b"0" * 32, store_raw=False),
    forgotten=ForgottenList(Path({exposure!r}).parent / "forgotten", b"0" * 32), erase_spool=None,
    exposures=MemoryExposures(), share_file=ShareFile(Path({exposure!r})), keys=None, settings=PATIENT, log=sys.stderr,
    clock=time.monotonic, now=lambda: {now!r},
))
serve_gateway(
    gateway, Listening(port=0), lame_duck_s={lame_duck!r}, drain_s=20.0, log=sys.stderr,
    ready=lambda url, metrics: print(url, flush=True),
)
print("drained", flush=True)
"""


@pytest.fixture
def process(
    request: pytest.FixtureRequest, trained: Any, server: Any, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and where it listens; the parameter is the time as a lame duck."""
    source = PROCESS.format(
        here=str(Path(__file__).parent),
        log=str(tmp_path / "events.jsonl"),
        bundle=str(trained.bundle.path),
        exposure=str(tmp_path / "exposure"),
        grpc=server.grpc_url,
        now=float(trained.replay.timestamps.max()),
        lame_duck=getattr(request, "param", 0.0),
    )
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(
            [sys.executable, "-c", source],
            cwd=Path(__file__).parents[3],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert running.stdout is not None
    try:
        yield running, running.stdout.readline().strip()
    finally:
        running.kill()
        running.communicate()


def answer_of(url: str, document: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(document).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_it_is_warm_when_ready_and_loses_nothing_when_it_is_asked_to_go(
    process: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    running, url = process
    assert url.startswith("http://127.0.0.1:"), (tmp_path / "log").read_text()
    with urllib.request.urlopen(f"{url}/readyz", timeout=60) as ready:
        assert json.load(ready) == {"status": "ready"}
    slates = [answer_of(f"{url}/v1/recommend", {"user": f"user {number}", "k": 3}) for number in range(5)]
    assert {slate["rung"] for slate in slates} == {"recommend"}
    running.send_signal(signal.SIGTERM)
    out, _ = running.communicate(timeout=60)
    assert out.split() == ["drained"]
    written = [json.loads(line)["body"]["slate"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [slate["request_id"] for slate in written] == [slate["request_id"] for slate in slates]
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    answered = [line for line in lines if line.get("route") == "POST /v1/recommend"]
    assert [line["status"] for line in answered] == [200] * 5
    assert "user " not in "".join(map(json.dumps, answered))


@pytest.mark.parametrize("process", [3_600.0], indirect=True)
def test_a_lame_duck_answers_until_it_may_go_and_says_that_it_is_leaving(
    process: tuple[subprocess.Popen[str], str],
) -> None:
    running, url = process
    with httpx.Client(base_url=url, timeout=60.0) as client:
        assert client.get("/readyz").status_code == 200
        running.send_signal(signal.SIGTERM)
        assert until(lambda: client.get("/readyz").status_code == 503, 60.0)
        answer = client.post("/v1/recommend", json={"user": "u", "k": 3})
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert set(client.get("/readyz").json()) == {"error", "request_id"}
    assert running.poll() is None
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    assert out.split() == ["drained"]


def test_an_idle_connection_outlives_that_of_a_balancer() -> None:
    """Which lets go after a minute; who lets go first never loses a request that is on its way."""
    assert ConnectionLimits().keep_alive_s > 60


def test_a_port_that_is_taken_is_said_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServingError, match=f"cannot have 127.0.0.1:{port}"):
            serve_gateway(
                SimpleNamespace(keyed=True),  # type: ignore[arg-type]
                Listening(port=port),
                lame_duck_s=0.0,
                drain_s=1.0,
                log=sys.stderr,
                ready=print,
            )


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("::", True), ("127.0.0.1", False)])
def test_a_gateway_for_everybody_is_warned_of(host: str, warned: bool) -> None:
    """Where no key is needed and others than this machine may connect; the taken port ends it before it serves."""
    log = io.StringIO()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listening = Listening(host=host, port=0, metrics_port=other.getsockname()[1])
        with pytest.raises(ServingError, match=r"cannot have 127\.0\.0\.1"):
            serve_gateway(SimpleNamespace(keyed=False), listening, lame_duck_s=0.0, drain_s=1.0, log=log, ready=print)  # type: ignore[arg-type]
    assert ("everybody who reaches it may do everything" in log.getvalue()) is warned


def test_a_host_that_is_no_address_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the host 'shop\.example' is no address; give one of this machine"):
        Listening(host="shop.example")
