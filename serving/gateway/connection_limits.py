"""Limits of connections: how many, how slow, how large a header; enforced before a request reaches the application.

uvicorn times only idle connections and limits only their total, so the protocol of its connections is extended here.
"""

import ipaddress
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from recsys.errors import ConfigError, check_ranges
from serving.gateway.trace import request_id

LINGER_S = 2.0
"""for the rest of a body whose request is answered already, so that the caller gets to read the answer"""
IPV6_HOST_BITS = 64
"""of an address: whoever has one has the whole network"""
FRAME_BYTES = 16
"""allowed around each chunk of a body"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Limits of the public port. ConfigError for a value out of range."""

    total: int = 1_024
    """open connections"""
    per_peer: int = 256
    """open connections of one address (IPv6: of one /64), but those of trusted proxies"""
    header_bytes: int = 32_768
    """of the request line and all headers"""
    headers: int = 100
    header_s: float = 10.0
    """from the first byte, or from the opening of the connection, to the last header"""
    keep_alive_s: float = 75.0
    """of idle connections: above the 60 s of load balancers, since a connection closed by the gateway as a request arrives
    loses that request"""
    body_parts: int = 4_096
    """chunks, or packets, of a body"""
    pipelined: int = 16
    """requests sent ahead on a connection"""
    write_s: float = 10.0
    """for a caller that does not read its answer"""

    def __post_init__(self) -> None:
        check_ranges(
            "connections",
            total=(self.total, 1, 1_000_000),
            per_peer=(self.per_peer, 1, 1_000_000),
            header_bytes=(self.header_bytes, 256, 1_048_576),
            headers=(self.headers, 1, 10_000),
            header_s=(self.header_s, 0.1, 600.0),
            keep_alive_s=(self.keep_alive_s, 0.1, 3_600.0),
            body_parts=(self.body_parts, 1, 1_000_000),
            pipelined=(self.pipelined, 0, 10_000),
            write_s=(self.write_s, 0.1, 600.0),
        )


class TrustedProxies:
    """Addresses whose X-Forwarded-For is believed. ConfigError for what is neither an address nor a network."""

    def __init__(self, addresses: Sequence[str]) -> None:
        try:
            self._networks = tuple(map(ipaddress.ip_network, addresses))
        except ValueError as error:
            raise ConfigError(f"a trusted proxy {error}; give an address, or a network as 10.0.0.0/24") from None

    def __contains__(self, address: str) -> bool:
        found = _parsed(address)
        return found is not None and any(found in network for network in self._networks)


def peer_of(address: str) -> str:
    """Return the peer of an address: itself, for IPv6 its /64."""
    found = _parsed(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(found) >> IPV6_HOST_BITS << IPV6_HOST_BITS, 128 - IPV6_HOST_BITS)))
    return address if found is None else str(found)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address, IPv4 where it is mapped into IPv6; None for what is none, as that of a Unix socket."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return found if mapped is None else mapped


class Connections:
    """Open connections of the public port. refused: whether a peer may open none now; count: of refusals, by reason."""

    def __init__(
        self,
        limits: ConnectionLimits,
        *,
        proxies: TrustedProxies,
        refused: Callable[[str], bool],
        count: Callable[[str], None],
    ) -> None:
        self.limits, self.count = limits, count
        self._proxies, self._refused = proxies, refused
        self._open: dict[LimitedProtocol, str] = {}
        """connection -> peer, in order of opening"""
        self._peers: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: "LimitedProtocol", address: str) -> str | None:
        """Count the connection, also one that is refused, until it leaves; return the reason of a refusal.

        Connections of trusted proxies are counted in total only.
        """
        peer = "" if address in self._proxies else peer_of(address)
        self._open[connection] = peer
        if peer:
            self._peers[peer] += 1
        if self._peers[peer] > self.limits.per_peer:
            return "connections_of_peer"
        if peer and self._refused(peer):
            return "unauthenticated"
        return "connections" if len(self._open) > self.limits.total and not self._make_room(connection) else None

    def leave(self, connection: "LimitedProtocol") -> None:
        peer = self._open.pop(connection)
        self._peers[peer] -= 1
        if self._peers[peer] <= 0:
            del self._peers[peer]

    def _make_room(self, newest: "LimitedProtocol") -> bool:
        """Close the oldest connection without a request in work, of the peer with the most; False if there is none."""
        idle = [one for one in self._open if one is not newest and one.idle]
        oldest = max(idle, key=lambda one: self._peers[self._open[one]], default=None)
        if oldest is None or self._peers[self._open[oldest]] < self._peers[self._open[newest]]:
            return False
        self.count("made_room")
        oldest.transport.abort()
        return True

    def close_late(self) -> None:
        """Close connections beyond their deadline; to be called about once a second."""
        now = time.monotonic()
        for connection in [one for one in self._open if one.deadline < now]:
            connection.expire()


class _Refused(Exception):
    """Raised in a callback of the parser to stop it."""


SENTENCES = {
    "syntax": (400, "the request is no valid HTTP; send HTTP/1.1"),
    "body_parts": (400, "the body comes in too many pieces; send larger ones"),
    "header_time": (408, "the headers did not arrive in time; send them at once"),
    "header_size": (431, "the headers are too large; send fewer or shorter ones"),
    "pipelined": (503, "too many requests were sent ahead on this connection; wait for the answers"),
    "connections": (503, "too many connections are open; try again"),
    "connections_of_peer": (503, "this address has too many connections open; use those again"),
    "unauthenticated": (429, "this address sends too many requests without a valid API key; try again later"),
}


class LimitedProtocol(HttpToolsProtocol):
    """A connection with a deadline, which `Connections.close_late` enforces: math.inf while the application is at work."""

    def __init__(self, *arguments: Any, connections: Connections, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connections, self._limits = connections, connections.limits
        self._reason: str | None = None
        self._in_message = self._in_headers = self._began = False
        self._header_bytes = self._num_headers = self._body_parts = self._overhead = 0
        self.deadline = math.inf

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect(self._limits.header_s)
        reason = self._connections.enter(self, self.client[0] if self.client else "")
        if reason is not None:
            self._refuse(reason)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.leave(self)
        super().connection_lost(error)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._began = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # to a protocol that is not served: the request is answered as it stands
            return
        except httptools.HttpParserError:
            self._refuse(self._reason or "syntax")
            return
        if self._in_message and not self._began:
            self._overhead += len(data)
        if self._overhead > self._limits.header_bytes + FRAME_BYTES * self._body_parts:
            self._refuse("header_size")  # of a header or trailer whose end no callback has seen yet

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message = self._in_headers = self._began = True
        self._header_bytes = self._num_headers = self._body_parts = self._overhead = 0
        self._expect(self._limits.header_s)

    def on_url(self, url: bytes) -> None:
        self._count_header(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._num_headers += 1
        self._count_header(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        if len(self.pipeline) >= self._limits.pipelined > 0:
            self._stop("pipelined")
        self.deadline = math.inf
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_parts += 1
        self._overhead -= 0 if self._began else len(body)
        if self._body_parts > self._limits.body_parts:
            self._stop("body_parts")
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message, self._overhead = False, 0
        if self.cycle.response_complete:
            self._expect(self._limits.keep_alive_s)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.transport.is_closing():
            self._expect(self._limits.write_s)
        elif not self.pipeline and not self._in_headers:
            self._expect(LINGER_S if self.cycle.more_body else self._limits.keep_alive_s)
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._expect(self._limits.write_s)
        super().pause_writing()

    def resume_writing(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self._expect(self._limits.keep_alive_s)
        else:
            self.deadline = math.inf
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        self._expect(self._limits.write_s)
        super().timeout_keep_alive_handler()

    def expire(self) -> None:
        """Close a connection that is beyond its deadline; at once, what it has not taken is lost."""
        if self.transport.is_closing() or not self._in_headers:
            self.transport.abort()
        else:
            self._refuse("header_time")

    @property
    def idle(self) -> bool:
        """Whether no request is in work, so that nobody loses an answer if it is closed."""
        return self.deadline < math.inf and not self.transport.is_closing()

    def _expect(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds

    def _count_header(self, num_bytes: int) -> None:
        self._header_bytes += num_bytes
        if self._header_bytes > self._limits.header_bytes or self._num_headers > self._limits.headers:
            self._stop("header_size")

    def _stop(self, reason: str) -> None:
        self._reason = reason
        raise _Refused

    def _refuse(self, reason: str) -> None:
        """Answer and close. Where an answer to an earlier request is under way, only close."""
        self._connections.count(reason)
        self._expect(self._limits.write_s)
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(_refusal(*SENTENCES[reason]))
        self.transport.close()


def _refusal(status: int, sentence: str) -> bytes:
    body = orjson.dumps({"error": sentence, "request_id": request_id(None)})
    retry = b"retry-after: 1\r\n" if status in (429, 503) else b""
    headers = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    return STATUS_LINE[status] + retry + headers + body
