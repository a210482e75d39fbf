"""The whole stack as `make serve` starts it, in processes of its own, with users who have a history."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.lib.result_file import ROOT
from benchmarks.lib.serving_world import World
from benchmarks.lib.wall_clock import WallClock
from recsys.contracts import Query
from recsys.errors import ServingError
from serving.layout import DeploymentLayout
from serving.ops.shutdown import stop_stack
from serving.processes import choose_ports, until

START_S = 300.0
EVENTS_BATCH = 100
FOLD_S = 120.0


@dataclass(frozen=True, kw_only=True)
class RunningStack:
    """Where to ask, and who runs."""

    address: str
    """host:port"""
    headers: tuple[tuple[str, str], ...]
    place: DeploymentLayout
    supervisor: int
    """process id; all others are its children"""
    clock: WallClock | None
    """that its Python processes read, if not the machine's"""

    @property
    def addresses(self) -> dict[str, str]:
        """Of every service, as they are now."""
        return json.loads(self.place.running.read_text(encoding="utf-8"))["addresses"]

    @property
    def grpc(self) -> str:
        """host:port of Triton."""
        return self.addresses["triton"]

    @property
    def pids(self) -> dict[str, int]:
        """Of every service, as they are now."""
        return json.loads(self.place.running.read_text(encoding="utf-8"))["pids"]


@contextmanager
def running_stack(made: World, live: Path, *options: str, clock: WallClock | None = None) -> Iterator[RunningStack]:
    """Start it, post what its users did before, wait until that was folded in."""
    with started_stack(made.serve, live, *options, clock=clock) as stack:
        tell_histories(stack, made.queries)
        yield stack


@contextmanager
def started_stack(serve: Path, live: Path, *options: str, clock: WallClock | None = None) -> Iterator[RunningStack]:
    """Start what was exported, wait until it is ready; at the end stop it."""
    port = choose_ports({"port": 0})["port"]
    place = DeploymentLayout(serve=serve, live=live)
    command = [sys.executable, "-m", "serving", "up", str(serve), f"--live={live}", f"--port={port}", *options]
    live.mkdir(parents=True, exist_ok=True)
    with (live / "up.log").open("wb") as log:
        environment = None if clock is None else clock.environment
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment)
    try:
        if not until(lambda: process.poll() is not None or _ready(port), START_S) or process.poll() is not None:
            raise ServingError(f"the stack did not start: {(live / 'up.log').read_text()[-500:]}")
        headers = (("Authorization", f"Bearer {place.first_key.read_text().strip()}"),)
        yield RunningStack(
            address=f"127.0.0.1:{port}", headers=headers, place=place, supervisor=process.pid, clock=clock
        )
    finally:
        process.terminate()
        process.wait(60)
        stop_stack(place)  # what outlives a supervisor that was killed


def tell_histories(stack: RunningStack, queries: Sequence[Query]) -> None:
    """Post the events of all histories and wait until the consumer has them."""
    events = {
        f"{event.user}-{event.item}-{event.timestamp}": {
            "id": f"{event.user}-{event.item}-{event.timestamp}",
            "user": event.user,
            "item": event.item,
            "timestamp": event.timestamp,
            "actions": dict(event.actions),
        }
        for query in queries
        for event in query.history
    }
    told = list(events.values())
    with httpx.Client(base_url=f"http://{stack.address}", headers=dict(stack.headers), timeout=30.0) as client:
        for begin in range(0, len(told), EVENTS_BATCH):
            answer = client.post("/v1/events", json={"events": told[begin : begin + EVENTS_BATCH]})
            if answer.status_code != 200:
                raise ServingError(f"events were refused: {answer.text}")
    if not until(lambda: waiting(stack) == 0, FOLD_S):
        raise ServingError(f"{waiting(stack)} events were not folded within {FOLD_S:g} s")


def waiting(stack: RunningStack) -> float:
    """Records that the states do not know yet."""
    text = httpx.get(stack.addresses["consumer"], timeout=5.0).text
    lines = [line for line in text.splitlines() if line.startswith('recsys_consumer_waiting{sink="states"}')]
    return float(lines[0].split()[-1])


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False
