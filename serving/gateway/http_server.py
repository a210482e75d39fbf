"""HTTP server of the gateway: uvloop and httptools, warmed up before it listens, drained on shutdown."""

import asyncio
import ipaddress
import logging
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TextIO

import orjson
import uvicorn

from recsys.errors import ConfigError, ServingError, check_ranges
from serving.gateway.app import Gateway
from serving.gateway.connection_limits import ConnectionLimits, Connections, LimitedProtocol, TrustedProxies
from serving.process_tuning import favour_event_loop, raise_file_limit

BACKLOG = 2_048
CLOSE = (b"connection", b"close")
POLL_S = 0.05
INTERNAL_CONNECTIONS = 512
RESERVED_FILES = 1_024
"""open files of the process that are no connections of callers: models, stores, files, the port of metrics"""
TICKS = 10
"""of 0.1 s between two closings of late connections"""
SIGNALS = (signal.SIGTERM, signal.SIGINT)

logger = logging.getLogger(__name__)


class JsonLines(logging.Formatter):
    """One JSON line a message, without tracebacks, which may quote request data."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        line = {"time": round(record.created, 3), "level": record.levelname, "logger": record.name, "error": error}
        fields = {name: value for name, value in line.items() if value is not None}
        return orjson.dumps({**fields, "message": record.getMessage()}).decode()


@dataclass(frozen=True, kw_only=True)
class Listening:
    """Addresses of the gateway; port 0 takes a free one. ConfigError for a value out of range."""

    host: str = "127.0.0.1"
    port: int = 8080
    metrics_host: str = "127.0.0.1"
    """of metrics and detailed health, without API key: not for callers"""
    metrics_port: int = 0
    trusted_proxies: Sequence[str] = ()
    """addresses or networks whose X-Forwarded-For is believed"""

    def __post_init__(self) -> None:
        check_ranges("gateway", port=(self.port, 0, 65_535), metrics_port=(self.metrics_port, 0, 65_535))
        TrustedProxies(self.trusted_proxies)
        for host in (self.host, self.metrics_host):
            _check_host(host)


def serve_gateway(
    gateway: Gateway,
    listening: Listening,
    *,
    lame_duck_s: float,
    drain_s: float,
    log: TextIO,
    ready: Callable[[str, str], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then finish requests in flight for at most `drain_s` seconds and flush.

    lame_duck_s: time between the signal and the end of the listener, in which /readyz answers 503, requests are still answered
    and each answer closes its connection, so that clients and load balancers go elsewhere
    ready: called with the URLs of the gateway and of its metrics once every tier is warm, before the first request is
    accepted. ServingError when a port is in use or the startup failed.
    """
    _log_to(log)
    favour_event_loop()
    if not gateway.keyed and not _loopback(listening.host):
        logger.warning(
            "the gateway listens on %s without API keys: everybody who reaches it may do everything", listening.host
        )
    with (
        _bound(listening.host, listening.port) as public,
        _bound(listening.metrics_host, listening.metrics_port) as internal,
    ):
        url, metrics = _url(listening.host, public), _url(listening.metrics_host, internal) + "/metrics"
        connections = _connections(gateway, listening)
        config = _config(gateway, listening, connections, drain_s)
        server = _Server(gateway, config, connections, internal, lame_duck_s, lambda: ready(url, metrics))
        server.run(sockets=[public])
    if not server.started:
        raise ServingError(f"the gateway at {url} did not start; its log says why")


class _Server(uvicorn.Server):
    """Calls `ready` after the startup; a shutdown begins as a lame duck. Closes late connections."""

    def __init__(
        self,
        gateway: Gateway,
        config: uvicorn.Config,
        connections: Connections,
        internal: socket.socket,
        lame_duck_s: float,
        ready: Callable[[], None],
    ) -> None:
        """internal: bound to the port of metrics"""
        super().__init__(config)
        self._gateway, self._lame_duck_s, self._ready = gateway, lame_duck_s, ready
        self._connections, self._internal = connections, internal
        self._internal_connections = Connections(
            ConnectionLimits(total=INTERNAL_CONNECTIONS, per_peer=INTERNAL_CONNECTIONS),
            proxies=TrustedProxies(()),
            refused=lambda peer: False,
            count=lambda reason: None,
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        config = uvicorn.Config(self._gateway.internal, log_config=None, access_log=False, ws="none", lifespan="off")
        connect = partial(LimitedProtocol, config, self.server_state, {}, connections=self._internal_connections)
        self.servers.append(await asyncio.get_running_loop().create_server(connect, sock=self._internal))
        if self.started:
            self._ready()

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS == 0:
            self._close_late()
        return await super().on_tick(counter)

    def _close_late(self) -> None:
        self._connections.close_late()
        self._internal_connections.close_late()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As in uvicorn, but the signal is not raised again after the drain: the caller does its own cleanup."""
        own = threading.current_thread() is threading.main_thread()
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS if own}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gateway.readiness.stop()
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
        end = asyncio.get_running_loop().time() + self._lame_duck_s
        while asyncio.get_running_loop().time() < end and not self.force_exit:
            await asyncio.sleep(POLL_S)
            self._close_late()
        await super().shutdown(sockets)


def _connections(gateway: Gateway, listening: Listening) -> Connections:
    """Fewer than the setting where the process may not open as many files."""
    limits, most = gateway.connection_limits, max(64, raise_file_limit() - RESERVED_FILES)
    connections = Connections(
        replace(limits, total=min(limits.total, most)),
        proxies=TrustedProxies(listening.trusted_proxies),
        refused=gateway.anonymous.exhausted,
        count=gateway.metrics.refused_connection,
    )
    gateway.metrics.gauge("recsys_connections", "Open connections of callers", lambda: len(connections))
    return connections


def _config(gateway: Gateway, listening: Listening, connections: Connections, drain_s: float) -> uvicorn.Config:
    return uvicorn.Config(
        gateway.app,
        loop="uvloop",
        http=partial(LimitedProtocol, connections=connections),  # type: ignore[arg-type]
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=bool(listening.trusted_proxies),
        forwarded_allow_ips=list(listening.trusted_proxies),
        backlog=BACKLOG,
        timeout_keep_alive=math.ceil(connections.limits.keep_alive_s),
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )


def _check_host(host: str) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ConfigError(f"the host {host!r} is no address; give one of this machine, or 0.0.0.0 for all") from None


def _loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback


def _url(host: str, bound: socket.socket) -> str:
    named = f"[{host}]" if ":" in host else host
    return f"http://{named}:{bound.getsockname()[1]}"


def _bound(host: str, port: int) -> socket.socket:
    """Bind before the startup, so that a port in use is reported at once."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise ServingError(f"the gateway cannot have {host}:{port}: {error.strerror}; choose another port") from None
    return listening


def _log_to(stream: TextIO) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
