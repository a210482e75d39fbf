"""Attacks on a gateway over sockets. Each is a function that does it, and asserts what came back to the attacker."""

import contextlib
import json
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PATIENCE_S = 60.0
END = b"\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Address of a gateway, or of a proxy before it."""

    host: str
    port: int
    attacker: str
    """address from which attacks come"""
    key: str
    """API key of attackers that have one"""
    per_peer: int
    """connections that one address may have"""
    total: int
    """connections that all addresses may have"""
    wrap: Callable[[socket.socket], socket.socket] = lambda one: one
    """TLS, where the target has it"""

    def connect(self, address: str | None = None) -> socket.socket:
        plain = socket.create_connection((self.host, self.port), PATIENCE_S, (address or self.attacker, 0))
        return self.wrap(plain)

    @contextlib.contextmanager
    def connected(self, num: int = 1, address: str | None = None) -> Iterator[list[socket.socket]]:
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(self.connect(address)) for _ in range(num)]


def head(method: str, path: str, key: str | None = None, **headers: str) -> bytes:
    """The head of a request, without its end."""
    lines = [f"{method} {path} HTTP/1.1", "host: gateway"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [] if key is None else [f"authorization: Bearer {key}"]
    return "\r\n".join(lines).encode()


def post(path: str, body: bytes, key: str | None) -> bytes:
    return head("POST", path, key, content_length=str(len(body))) + END + body


def sent(connection: socket.socket, data: bytes) -> bool:
    """Whether the other side took the bytes."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def rest(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    received = bytearray()
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65_536):
            received += part
    return bytes(received)


def drip(connections: Sequence[socket.socket], part: bytes, every_s: float = 0.1) -> list[bytes]:
    """Send a part on each connection again and again until all are closed; return what came back."""
    alive, deadline = set(connections), time.monotonic() + PATIENCE_S
    received = {one: bytearray() for one in connections}
    for one in connections:
        one.setblocking(False)
    while alive:
        assert time.monotonic() < deadline, "a connection was never closed"
        for one in list(alive):
            try:
                one.send(part)
                received[one] += (came := one.recv(65_536))
                if not came:
                    alive.remove(one)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                continue
            except OSError:
                alive.remove(one)
        time.sleep(every_s)
    return [bytes(one) for one in received.values()]


def statuses(received: bytes) -> list[int]:
    """Statuses of the answers in what came."""
    return [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]


def answer(target: Target, request: bytes, address: str | None = None) -> tuple[int, Mapping[str, Any]]:
    """Status and document of a request that is answered; the connection is closed by the request."""
    with target.connect(address) as connection:
        sent(connection, request.replace(END, b"\r\nconnection: close" + END, 1))
        received = rest(connection)
    return statuses(received)[0], json.loads(received.partition(END)[2])


def refused(received: bytes, *expected: int) -> bool:
    """Whether an answer has one of these statuses, or a reset connection swallowed it. 400: a proxy knows no other."""
    found = statuses(received)
    return not found or found[0] in (400, *expected)


def slow_headers(target: Target) -> None:
    """Slow loris: 50 connections send a letter of a header ten times a second."""
    with target.connected(50) as connections:
        for one in connections:
            sent(one, b"GET /healthz HTTP/1.1\r\nx-slow: ")
        assert all(refused(one, 408) for one in drip(connections, b"a"))


def silence(target: Target) -> None:
    """50 connections send nothing."""
    with target.connected(50) as connections:
        assert all(refused(rest(one), 408) for one in connections)


def blank_lines(target: Target) -> None:
    """20 connections send empty lines, which are allowed before a request, for as long as they may."""
    with target.connected(20) as connections:
        drip(connections, b"\r\n")


def drip_fed_bodies(target: Target) -> None:
    """30 requests with a key send their bodies letter by letter."""
    with target.connected(30) as connections:
        for one in connections:
            sent(one, head("POST", "/v1/recommend", target.key, content_length="100000") + END)
        received = drip(connections, b"[", 0.2)
    assert all(refused(one, 408) for one in received)


def body_after_the_answer(target: Target) -> None:
    """Requests without a key go on to send their bodies after they were refused."""
    with target.connected(10) as connections:
        for one in connections:
            sent(one, head("POST", "/v1/recommend", content_length="100000") + END)
        assert all(refused(one, 401) for one in drip(connections, b" "))


def many_headers(target: Target) -> None:
    """A thousand headers, and ten thousand."""
    for num in (1_000, 10_000):
        with target.connect() as connection:
            sent(connection, head("GET", "/healthz", **{f"x_{number}": "1" for number in range(num)}) + END)
            assert refused(rest(connection), 431)


def large_headers(target: Target) -> None:
    """A header, a path and a name of 200 KB."""
    long = "a" * 200_000
    for request in (head("GET", "/healthz", x=long), head("GET", f"/{long}"), head("GET", "/", **{long: "x"})):
        with target.connect() as connection:
            sent(connection, request + END)
            assert refused(rest(connection), 400, 414, 431)


def endless_header(target: Target) -> None:
    """A header without an end, as quickly as it is taken."""
    with target.connect() as connection:
        sent(connection, b"GET /healthz HTTP/1.1\r\nx: ")
        taken = 0
        while sent(connection, b"a" * 65_536):
            taken += 1
            assert taken < 10_000, "the gateway takes a header of half a gigabyte"
        assert refused(rest(connection), 400, 431)


def endless_chunk_extension(target: Target) -> None:
    """A chunk whose extension has no end."""
    _endless(target, b"1;", b"a" * 65_536)


def endless_trailers(target: Target) -> None:
    """A body whose trailers have no end."""
    _endless(target, b"1\r\n{\r\n0\r\n", b"x: y\r\n" * 10_000)


def _endless(target: Target, begin: bytes, part: bytes) -> None:
    with target.connect() as connection:
        sent(connection, head("POST", "/v1/recommend", target.key, transfer_encoding="chunked") + END + begin)
        taken = 0
        while sent(connection, part):
            taken += 1
            assert taken < 10_000, "the gateway takes half a gigabyte around a body"
        assert refused(rest(connection), 408, 413, 431)


def one_byte_chunks(target: Target) -> None:
    """Two hundred thousand bytes in chunks of one byte."""
    with target.connect() as connection:
        sent(connection, head("POST", "/v1/recommend", target.key, transfer_encoding="chunked") + END)
        sent(connection, b"1\r\n[\r\n" * 200_000 + b"0\r\n\r\n")
        assert refused(rest(connection), 400)


def too_large_bodies(target: Target) -> None:
    """A body of 2 MB that says so, one that does not, and one that says a number that is none."""
    chunk = b"10000\r\n" + b"[" * 65_536 + b"\r\n"
    for fields, body in (
        ({"content_length": "2000000"}, b"[" * 2_000_000),
        ({"transfer_encoding": "chunked"}, chunk * 32),
        ({"content_length": "9" * 30}, b"["),
        ({"content_length": "-1"}, b"["),
        ({"content_length": "5", "transfer_encoding": "chunked"}, b"["),
    ):
        with target.connect() as connection:
            sent(connection, head("POST", "/v1/recommend", target.key, connection="close", **fields) + END + body)
            assert refused(rest(connection), 400, 413)


def connections_of_one_peer(target: Target) -> None:
    """More connections of one address at once than it may have."""
    with target.connected(target.per_peer + 140) as connections:
        received = [rest(one) for one in connections]
    assert sum(statuses(one) == [503] for one in received) >= 100


def connections_of_many_peers(target: Target) -> None:
    """More connections of many addresses at once than all may have, which stay idle."""
    with contextlib.ExitStack() as stack:
        for number in range(target.total // 10 + 25):
            stack.enter_context(target.connected(10, f"127.0.1.{number + 1}"))
        time.sleep(0.5)


def flood_without_a_key(target: Target) -> None:
    """Three thousand requests without a key, and as many with a wrong one."""
    found = _flood(target, [post("/v1/recommend", b"{}", key) for key in (None, "wrong")], 3_000)
    assert found == {401, 429}, found


def flood_of_paths(target: Target) -> None:
    """Three thousand requests for paths that do not exist, or not for callers."""
    found = _flood(target, [head("GET", path) + END for path in ("/docs", "/metrics", "/.env", "/v1/recommend")], 3_000)
    assert found == {404, 405, 429}, found


def flood_of_documents(target: Target) -> None:
    """Three thousand requests for the OpenAPI document."""
    assert _flood(target, [head("GET", "/openapi.json") + END], 3_000) == {200, 429}


def flood_of_probes(target: Target) -> None:
    """Three thousand probes of one address."""
    found = _flood(target, [head("GET", path) + END for path in ("/healthz", "/readyz")], 3_000)
    assert found == {200, 429}, found


def _flood(target: Target, requests: Sequence[bytes], num: int) -> set[int]:
    """Send one after the other, on new connections where one is closed; return the statuses that came."""
    found: set[int] = set()
    connection = target.connect()
    for number in range(num):
        received = b""
        if sent(connection, requests[number % len(requests)]):
            with contextlib.suppress(ConnectionError):
                received = _one_answer(connection)
        found.update(statuses(received))
        if not received or b"connection: close" in received:
            connection.close()
            connection = target.connect()
    connection.close()
    return found


def _one_answer(connection: socket.socket) -> bytes:
    """One answer on a connection that stays open, or what came of it until the other side closed."""
    received = bytearray()
    while not (length := re.search(rb"content-length: (\d+)\r\n(?s:.*?)\r\n\r\n", received)) or len(received) < (
        length.end() + int(length[1])
    ):
        if not (part := connection.recv(65_536)):
            break
        received += part
    return bytes(received)


def pipelines(target: Target) -> None:
    """Twenty thousand requests on a connection without waiting for an answer."""
    for request in (head("GET", "/healthz") + END, head("GET", "/v1/items/1/similar", target.key) + END):
        with target.connect() as connection:
            sent(connection, request * 20_000)
            assert len(statuses(rest(connection))) < 1_000


def unread_answers(target: Target) -> None:
    """Ten connections ask for ten answers each and read none for longer than a connection may be idle."""
    with target.connected(10) as connections:
        for one in connections:
            ask = head("GET", "/v1/items/1/similar?k=100", target.key)
            sent(one, (ask + END) * 9 + ask + b"\r\nconnection: close" + END)
        time.sleep(3.5)
        assert all(len(statuses(rest(one))) == 10 for one in connections)


def garbage(target: Target) -> None:
    """A TLS greeting, the preface of HTTP/2, zeros, a line without an end, and HTTP of other versions."""
    for text in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00" * 1_000,
        b"GET / HTTP/9.9" + END,
        b"GET /%zz\xff HTTP/1.1" + END,
        b"\xff\xfe / HTTP/1.1" + END,
    ):
        with target.connect() as connection:
            sent(connection, text)
            assert refused(rest(connection), 400, 404, 505)


def upgrades(target: Target) -> None:
    """Requests to change to WebSocket and to HTTP/2."""
    for protocol in ("websocket", "h2c"):
        with target.connect() as connection:
            fields = {"connection": "upgrade, close", "upgrade": protocol, "sec_websocket_version": "13"}
            sent(connection, head("GET", "/healthz", sec_websocket_key="dGhlIHNhbXBsZSBub25jZQ==", **fields) + END)
            assert refused(rest(connection), 200, 400)


def resets(target: Target) -> None:
    """Three hundred connections are reset in the middle of a body."""
    for _ in range(300):
        with target.connect() as connection:
            sent(connection, head("POST", "/v1/recommend", target.key, content_length="100") + END + b"{")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


LARGEST = 255_000
NASTY = {
    "one name twice among many": b"{" + b",".join(b'"%d":1' % (one % 22_000) for one in range(22_001)) + b"}",
    "unknown names": b"{" + b",".join(b'"%d":1' % one for one in range(22_000)) + b"}",
    "deep": b"[" * LARGEST,
    "deep objects": b'{"a":' * (LARGEST // 5),
    "numbers of thousands of digits": b'{"user":[' + b",".join([b"9" * 4_000] * 60) + b"]}",
    "a number of very many digits": b'{"user":' + b"9" * 250_000 + b"}",
    "an exponent": b'{"user":1e' + b"9" * 250_000 + b"}",
    "objects": b'{"user":[' + b",".join([b'{"":0}'] * 36_000) + b"]}",
    "letters with marks": json.dumps(
        {"user": "u", "exclude": ["a" + "\u0316\u0301" * 59 + str(one) for one in range(1_000)]}, ensure_ascii=False
    ).encode(),
    "escapes": b'{"user":"' + b"\\ud83d\\ude00" * 20_000 + b'"}',
}


def nasty_bodies(target: Target) -> None:
    """Documents that cost a parser the most for their size."""
    for body in NASTY.values():
        for path in ("/v1/recommend", "/v1/events", "/v1/onboarding"):
            assert answer(target, post(path, body, target.key))[0] in (200, 400)


def largest_events(target: Target) -> None:
    """Twenty times 500 events, as large as they may be, at once."""
    hidden = {"item": [f"x{one}" for one in range(10)]}
    event = {"user": "u", "item": "1", "actions": {"click": 1.0}, "hide": hidden, "unhide": hidden}
    body = json.dumps({"events": [event] * 500}).encode()
    with target.connected(20) as connections:
        for one in connections:
            sent(one, post("/v1/events", body, target.key).replace(END, b"\r\nconnection: close" + END, 1))
        assert {statuses(rest(one))[0] for one in connections} <= {200, 400, 413, 503}


ATTACKS: tuple[Callable[[Target], None], ...] = (
    slow_headers,
    silence,
    blank_lines,
    drip_fed_bodies,
    body_after_the_answer,
    many_headers,
    large_headers,
    endless_header,
    endless_chunk_extension,
    endless_trailers,
    one_byte_chunks,
    too_large_bodies,
    connections_of_one_peer,
    connections_of_many_peers,
    flood_without_a_key,
    flood_of_paths,
    flood_of_documents,
    flood_of_probes,
    pipelines,
    unread_answers,
    garbage,
    upgrades,
    resets,
    nasty_bodies,
    largest_events,
)
