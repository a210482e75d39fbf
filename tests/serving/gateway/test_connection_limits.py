"""Limits of connections, at a real server over sockets."""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import uvicorn

from recsys.errors import ConfigError
from serving.gateway.connection_limits import ConnectionLimits, Connections, LimitedProtocol, TrustedProxies, peer_of

LIMITS = ConnectionLimits(
    total=6, per_peer=3, header_s=0.2, keep_alive_s=0.4, write_s=0.2, header_bytes=4_096, headers=20
)
GET = b"GET / HTTP/1.1\r\nhost: x\r\n"
LARGE = 20_000_000
"""more bytes than the kernel keeps for a connection"""


async def answering(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Answer the address of the caller, or many bytes under /large."""
    body = b"x" * LARGE if scope["path"] == "/large" else scope["client"][0].encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass(kw_only=True)
class Served:
    port: int
    connections: Connections
    counts: Counter[str]
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self, address: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(address, 0))
        self.writers.append(writer)
        return reader, writer

    async def ask(self, text: bytes, address: str = "127.0.0.1") -> bytes:
        """All that comes back until the server closes."""
        reader, writer = await self.connect(address)
        with contextlib.suppress(ConnectionError):
            writer.write(text)
            await writer.drain()
        received = b""
        with contextlib.suppress(ConnectionError):
            received = await reader.read()
        return received

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the server close what is late until the condition holds."""
        async with asyncio.timeout(60):
            while not condition():
                self.connections.close_late()
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def served(limits: ConnectionLimits = LIMITS, proxies: tuple[str, ...] = ()) -> AsyncIterator[Served]:
    counts = Counter[str]()
    connections = Connections(
        limits,
        proxies=TrustedProxies(proxies),
        refused=lambda peer: peer == "127.0.0.66",
        count=lambda reason: counts.update([reason]),
    )
    config = uvicorn.Config(
        answering,
        http=partial(LimitedProtocol, connections=connections),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        timeout_keep_alive=60,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listening])
        one = Served(port=listening.getsockname()[1], connections=connections, counts=counts)
        try:
            yield one
        finally:
            for writer in one.writers:
                writer.close()
            await server.shutdown(sockets=[listening])


def run(story: Callable[[Served], Awaitable[Any]], **options: Any) -> Any:
    async def whole() -> Any:
        async with served(**options) as one:
            return await story(one)

    return asyncio.run(whole())


def status(received: bytes) -> int:
    return int(received.split()[1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GET + b"".join(b"x-%d: 1\r\n" % one for one in range(17)) + b"connection: close\r\n\r\n", 200),
        (GET + b"".join(b"x-%d: 1\r\n" % one for one in range(20)) + b"\r\n", 431),
        (GET + b"x: " + b"a" * 3_900 + b"\r\nconnection: close\r\n\r\n", 200),
        (GET + b"x: " + b"a" * 4_096 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 4_096 + b" HTTP/1.1\r\n\r\n", 431),
        (b"nonsense\r\n\r\n", 400),
    ],
)
def test_headers_up_to_the_limits_are_read(text: bytes, expected: int) -> None:
    async def story(one: Served) -> bytes:
        return await one.ask(text)

    assert status(run(story)) == expected


def test_a_header_that_comes_in_pieces_is_counted_as_one_that_comes_at_once() -> None:
    async def story(one: Served) -> dict[str, int]:
        _, writer = await one.connect()
        writer.write(GET + b"x: ")
        for _ in range(50):
            if not one.counts:
                writer.write(b"a" * 100)
                await asyncio.sleep(0.005)
        return dict(one.counts)

    assert run(story, limits=replace(LIMITS, header_s=60.0)) == {"header_size": 1}


def test_a_large_body_after_a_slow_header_is_no_header() -> None:
    async def story(one: Served) -> bytes:
        reader, writer = await one.connect()
        writer.write(b"POST / HTTP/1.1\r\nconnection: close\r\ncontent-le")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"ngth: 50000\r\n\r\n" + b"a" * 50_000)
        return await reader.read()

    assert status(run(story)) == 200


def test_connections_that_are_late_are_closed() -> None:
    """One that sends nothing, one that stops in its headers, one that is idle after an answer, one whose body has no end."""

    async def story(one: Served) -> tuple[list[bytes], dict[str, int]]:
        limits = [await one.connect(f"127.0.0.{number}") for number in (1, 2, 3, 4)]
        for (_, writer), text in zip(
            limits, (b"", GET, GET + b"\r\n", GET + b"content-length: 9\r\n\r\n"), strict=True
        ):
            writer.write(text)
        await one.until(lambda: len(one.connections) == 0)
        return [await reader.read() for reader, _ in limits], dict(one.counts)

    (silent, halted, idle, unfinished), counts = run(story)
    assert silent == b""
    assert (status(halted), status(idle), status(unfinished)) == (408, 200, 200)
    assert counts == {"header_time": 1}


def test_empty_lines_do_not_keep_an_idle_connection() -> None:
    async def story(one: Served) -> bytes:
        reader, writer = await one.connect()
        writer.write(GET + b"\r\n")
        received = await reader.readuntil(b"127.0.0.1")
        async with asyncio.timeout(60):
            while len(one.connections):
                writer.write(b"\r\n")
                await asyncio.sleep(0.05)
                one.connections.close_late()
        return received

    assert status(run(story)) == 200


def test_a_caller_that_reads_no_answer_is_cut_off() -> None:
    async def story(one: Served) -> None:
        with socket.create_connection(("127.0.0.1", one.port)) as caller:
            caller.sendall(b"GET /large HTTP/1.1\r\n\r\n")
            await one.until(lambda: len(one.connections) == 1)
            await one.until(lambda: len(one.connections) == 0)

    run(story)


def test_a_peer_has_a_share_of_the_connections() -> None:
    async def story(one: Served) -> tuple[bytes, bytes, dict[str, int]]:
        _ = [await one.connect("127.0.0.9") for _ in range(3)]
        fourth = await one.ask(GET + b"\r\n", "127.0.0.9")
        other = await one.ask(GET + b"connection: close\r\n\r\n", "127.0.0.8")
        return fourth, other, dict(one.counts)

    fourth, other, counts = run(story, limits=replace(LIMITS, header_s=60.0))
    assert fourth == b"" or status(fourth) == 503
    assert status(other) == 200
    assert counts == {"connections_of_peer": 1}


def test_where_all_connections_are_in_use_an_idle_one_of_the_busiest_peer_gives_way() -> None:
    async def story(one: Served) -> tuple[list[bytes], bytes, dict[str, int]]:
        crowd = [await one.connect(f"127.0.0.{number}") for number in (11, 11, 12, 11, 13, 14)]
        await one.until(lambda: len(one.connections) == 6)
        new = await one.ask(GET + b"connection: close\r\n\r\n", "127.0.0.15")
        first = await crowd[0][0].read()
        for _, writer in crowd[1:]:
            writer.write(GET + b"connection: close\r\n\r\n")
        return [first, *[await reader.read() for reader, _ in crowd[1:]]], new, dict(one.counts)

    (first, *others), new, counts = run(story, limits=replace(LIMITS, header_s=60.0))
    assert first == b""
    assert [status(one) for one in (*others, new)] == [200] * 6
    assert counts == {"made_room": 1}


def test_a_peer_without_a_key_that_used_up_its_budget_opens_no_connection() -> None:
    async def story(one: Served) -> tuple[bytes, dict[str, int]]:
        return await one.ask(GET + b"\r\n", "127.0.0.66"), dict(one.counts)

    received, counts = run(story)
    assert received == b"" or status(received) == 429
    assert counts == {"unauthenticated": 1}


def test_a_trusted_proxy_opens_connections_for_many_and_names_them() -> None:
    """Another address that sends the same header is not believed."""
    forwarded = GET + b"x-forwarded-for: 203.0.113.7\r\nconnection: close\r\n\r\n"

    async def story(one: Served) -> tuple[bytes, bytes]:
        _ = [await one.connect("127.0.0.66") for _ in range(4)]
        return await one.ask(forwarded, "127.0.0.66"), await one.ask(forwarded, "127.0.0.1")

    limits = replace(LIMITS, header_s=60.0)
    proxied, direct = run(story, limits=limits, proxies=("127.0.0.64/28",))
    assert (proxied[-11:], direct[-9:]) == (b"203.0.113.7", b"127.0.0.1")


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("", ""),
    ],
)
def test_an_ipv6_peer_is_a_network(address: str, peer: str) -> None:
    assert peer_of(address) == peer


def test_a_proxy_that_is_no_address_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a trusted proxy 'balancer' .*; give an address"):
        TrustedProxies(["balancer"])


def test_a_limit_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"connections\.header_s is 0"):
        ConnectionLimits(header_s=0.0)
