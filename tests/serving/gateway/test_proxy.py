"""The shipped HAProxy before the real gateway: the commands of its page, and the attacks through it."""

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gateway_process import KEY, GatewayProcess, started_gateway

from benchmarks.lib import http_attacks as attacks
from benchmarks.lib.http_attacks import END, Target, drip, head, rest, sent, statuses
from serving.processes import choose_ports, until

ROOT = Path(__file__).parents[3]
THROUGH = (
    attacks.slow_headers,
    attacks.silence,
    attacks.drip_fed_bodies,
    attacks.many_headers,
    attacks.large_headers,
    attacks.endless_header,
    attacks.endless_chunk_extension,
    attacks.one_byte_chunks,
    attacks.flood_without_a_key,
    attacks.garbage,
    attacks.resets,
    attacks.nasty_bodies,
)
PAGE = ROOT / "docs" / "how-to" / "proxy.md"
BLOCKS = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
pytestmark = [
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed; apt-get install haproxy"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed; apt-get install openssl"),
]


@pytest.fixture(scope="module")
def gateway(trained: Any, server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with started_gateway(trained, server, tmp_path_factory.mktemp("proxied"), proxies=["127.0.0.1"]) as running:
        yield running


class Proxy:
    """HAProxy as the page starts it."""

    def __init__(self, folder: Path, port: int, gateway: str) -> None:
        self.folder, self.port, self._gateway = folder, port, gateway

    def command(self, text: str) -> str:
        """A command of the page, with the ports of this test."""
        ours = {"127.0.0.1:8443": f"127.0.0.1:{self.port}", "localhost:8443": f"localhost:{self.port}"}
        ours |= {"127.0.0.1:8080": self._gateway, "deploy/haproxy": str(ROOT / "deploy" / "haproxy")}
        for theirs, own in ours.items():
            text = text.replace(theirs, own)
        return text

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(text), shell=True, cwd=self.folder, capture_output=True, text=True, check=True
        )

    @property
    def certificate(self) -> Path:
        return self.folder / "site.pem"


@pytest.fixture(scope="module")
def proxy(gateway: GatewayProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    (live := folder / "runs" / "demo" / "live").mkdir(parents=True)
    (live / "first.key").write_text(KEY, encoding="ascii")
    one = Proxy(folder, choose_ports({"port": 0})["port"], f"{gateway.address[0]}:{gateway.address[1]}")
    one.run(BLOCKS[0])
    (start,) = [line for line in BLOCKS[1].splitlines() if "haproxy" in line]
    words = one.command(start).split()
    environment = dict(word.split("=", 1) for word in words if re.match(r"[A-Z]+=", word))
    command = words[len(environment) :]
    with (folder / "log").open("w") as log:
        running = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stderr=log)
    try:
        assert until(lambda: running.poll() is not None or _answers(one), 30)
        assert running.poll() is None, (folder / "log").read_text()
        yield one
        assert running.poll() is None, (folder / "log").read_text()
    finally:
        running.kill()
        running.wait()


def _answers(proxy: Proxy) -> bool:
    with contextlib.suppress(subprocess.CalledProcessError):
        return "items" in proxy.run(BLOCKS[2]).stdout
    return False


@pytest.fixture
def target(proxy: Proxy, gateway: GatewayProcess) -> Target:
    context = ssl.create_default_context(cafile=proxy.certificate)

    def wrap(plain: socket.socket) -> socket.socket:
        with contextlib.suppress(OSError):  # the proxy may close before a handshake
            return context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=True)
        return plain

    return replace(gateway.target(), host="127.0.0.1", port=proxy.port, wrap=wrap)


def test_the_commands_of_the_page_give_a_slate_over_http2(proxy: Proxy) -> None:
    slate = json.loads(proxy.run(BLOCKS[2]).stdout)
    assert len(slate["items"]) == 5
    version = proxy.run(BLOCKS[2].strip() + " -o answer.json -w '%{http_version} %{http_code}'").stdout
    assert version == "2 200"


def test_health_and_metrics_are_not_reached_through_the_proxy(target: Target) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        with target.connect() as connection:
            sent(connection, head("GET", path, connection="close") + END)
            assert statuses(rest(connection)) == [404]


def test_what_is_not_whole_never_reaches_the_gateway(target: Target, gateway: GatewayProcess) -> None:
    """Slow headers and slow bodies end at the proxy, with a status of its own."""
    before = gateway.metric("recsys_requests_total")
    with target.connected(10) as connections:
        for number, one in enumerate(connections):
            slow = END if number % 2 else b"\r\nx: "
            sent(one, head("POST", "/v1/events", KEY, content_length="1000") + slow)
        received = drip(connections, b"a", 0.3)
    assert {status for one in received for status in statuses(one)} == {408}
    assert gateway.metric("recsys_requests_total") == before


def test_a_caller_cannot_choose_its_address(target: Target, gateway: GatewayProcess) -> None:
    """Refusals count for the address that the proxy sees, whatever the caller sends."""
    for number in range(100):
        with target.connect() as connection:
            forged = {"x_forwarded_for": f"203.0.113.{number}", "forwarded": f"for=203.0.113.{number}"}
            sent(connection, head("GET", "/nothing", connection="close", **forged) + END)
            found = statuses(rest(connection))
        if found == [429]:
            break
    assert found == [429]


@pytest.mark.parametrize("attack", THROUGH, ids=lambda attack: attack.__name__)
def test_an_attack_through_the_proxy_stops_nobody_else(
    gateway: GatewayProcess, proxy: Proxy, target: Target, attack: Callable[[Target], None]
) -> None:
    def ask() -> int:
        return int(proxy.run(BLOCKS[2].strip().replace("-s ", "-s -o answer.json -w '%{http_code}' ")).stdout)

    with gateway.serving_others(ask):
        attack(target)
