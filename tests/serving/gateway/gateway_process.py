"""A gateway with API keys as a process, and a caller that is served by it all the time."""

import http.client
import itertools
import json
import os
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.lib.http_attacks import Target

ROOT = Path(__file__).parents[3]
CALLER, CALLERS_KEY = "127.0.0.1", "shop"
KEY = "slow"
"""the API key of attackers that have one"""
PER_PEER, TOTAL = 60, 150
"""limits of keyed_gateway.py"""
ATTACKERS = itertools.count(1)


class GatewayProcess:
    """A running gateway."""

    def __init__(self, running: "subprocess.Popen[str]", url: str, metrics: str, log: Path) -> None:
        self._running, self._metrics, self.log = running, metrics, log
        address = urllib.parse.urlparse(url)
        assert address.hostname is not None
        assert address.port is not None
        self.address = address.hostname, address.port

    def target(self) -> Target:
        """The gateway as seen from an address that no other test has."""
        host, port = self.address
        return Target(
            host=host, port=port, attacker=f"127.0.2.{next(ATTACKERS)}", key=KEY, per_peer=PER_PEER, total=TOTAL
        )

    def ask(self) -> int:
        """Status of a slate for another caller, on a connection of its own."""
        return self._post("/v1/recommend", {"user": "caller", "k": 3})

    def feed(self) -> int:
        return self._post("/v1/events", {"events": [{"user": "caller", "item": "1"}]})

    def _post(self, path: str, document: Any) -> int:
        connection = http.client.HTTPConnection(*self.address, 60, (CALLER, 0))
        headers = {"authorization": f"Bearer {CALLERS_KEY}", "connection": "close"}
        connection.request("POST", path, json.dumps(document), headers)
        status = connection.getresponse().status
        connection.close()
        return status

    def metric(self, line: str) -> float:
        """Sum of the values of all lines that begin so."""
        with urllib.request.urlopen(self._metrics, timeout=60) as page:
            lines = page.read().decode().splitlines()
        return sum(float(one.rpartition(" ")[2]) for one in lines if one.startswith(line))

    @contextmanager
    def serving_others(self, *requests: Callable[[], int]) -> Iterator[None]:
        """Another caller sends these requests all the time: each is answered with 200, and some are during the block.

        Afterwards the process is the same, and its event loop answers the supervisor.
        """
        ended, found, done = threading.Event(), list[int](), threading.Semaphore(0)

        def ask() -> None:
            while not ended.is_set():
                found.extend(request() for request in requests)
                done.release()

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            assert done.acquire(timeout=60)
            yield
            assert done.acquire(timeout=60)
        finally:
            ended.set()
            thread.join()
        assert set(found) == {200}
        assert self._running.poll() is None
        with urllib.request.urlopen(self._metrics.replace("/metrics", "/healthz"), timeout=60) as alive:
            assert alive.status == 200


@contextmanager
def started_gateway(
    trained: Any, server: Any, folder: Path, *, proxies: Sequence[str] = ()
) -> Iterator[GatewayProcess]:
    arguments = {
        "bundle": str(trained.bundle.path),
        "grpc": server.grpc_url,
        "exposure": str(folder / "exposure"),
        "now": float(trained.replay.timestamps.max()),
        "keys": [CALLERS_KEY, KEY],
        "proxies": list(proxies),
    }
    with (folder / "log").open("w") as log:
        running = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "keyed_gateway.py"), json.dumps(arguments)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert running.stdout is not None
    try:
        printed = running.stdout.readline().split()
        assert len(printed) == 2, (folder / "log").read_text()
        yield GatewayProcess(running, *printed, folder / "log")
    finally:
        running.kill()
        running.communicate()
