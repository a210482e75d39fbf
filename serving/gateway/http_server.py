"""HTTP server of the gateway: uvloop and httptools, warmed up before it listens, drained on shutdown."""

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import orjson
import uvicorn

from recsys.errors import ServingError, check_ranges
from serving.gateway.app import Gateway

BACKLOG = 2_048
KEEP_ALIVE_S = 75
"""keep-alive of idle connections: above the 60 s of load balancers, since a connection closed by the gateway as a request
arrives loses that request"""
CLOSE = (b"connection", b"close")
POLL_S = 0.05
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class JsonLines(logging.Formatter):
    """One JSON line a message, without tracebacks, which may quote request data."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        line = {"time": round(record.created, 3), "level": record.levelname, "logger": record.name, "error": error}
        fields = {name: value for name, value in line.items() if value is not None}
        return orjson.dumps({**fields, "message": record.getMessage()}).decode()


def serve_gateway(
    gateway: Gateway,
    *,
    host: str,
    port: int,
    lame_duck_s: float,
    drain_s: float,
    log: TextIO,
    ready: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then finish requests in flight for at most `drain_s` seconds and flush.

    lame_duck_s: time between the signal and the end of the listener, in which /readyz answers 503, requests are still answered
    and each answer closes its connection, so that clients and load balancers go elsewhere
    port: 0 takes a free one. ready: called with the URL once every tier is warm, before the first request is accepted.
    ServingError when the port is in use or the startup failed.
    """
    check_ranges("gateway", port=(port, 0, 65_535))
    _log_to(log)
    with _bound(host, port) as listening:
        url = f"http://{host}:{listening.getsockname()[1]}"
        server = _Server(gateway, _config(gateway, drain_s), lame_duck_s, lambda: ready(url))
        server.run(sockets=[listening])
    if not server.started:
        raise ServingError(f"the gateway at {url} did not start; its log says why")


class _Server(uvicorn.Server):
    """Calls `ready` after the startup; a shutdown begins as a lame duck."""

    def __init__(self, gateway: Gateway, config: uvicorn.Config, lame_duck_s: float, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._gateway, self._lame_duck_s, self._ready = gateway, lame_duck_s, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

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
        await super().shutdown(sockets)


def _config(gateway: Gateway, drain_s: float) -> uvicorn.Config:
    return uvicorn.Config(
        gateway.app,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )


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
