"""Connection to JetStream: opened on demand, dropped on failure, reopened by the next call.

The client's reconnection is off: it would buffer messages and send them whenever the broker returns, and it swallows
cancellations, so that a halted broker could block a caller. Here every call ends by its deadline.
"""

import asyncio
import contextlib
import math
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, KeyValueConfig, StorageType, StreamConfig
from nats.js.errors import BadRequestError, BucketNotFoundError, NotFoundError
from nats.js.kv import KeyValue

from recsys.errors import ServingError
from serving.endpoints import Server
from serving.events.publisher import Publisher

T = TypeVar("T")
MICROSECONDS = 1_000_000
CANCEL_INTERVAL_S = 0.05
"""the client swallows a cancellation that meets a finished wait, so it is repeated"""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """JetStream stream of the event log: retention limits and call deadlines."""

    server: Server
    """nats:// or tls://host:port"""
    name: str = "events"
    """records lie under the subjects <name>.feedback and <name>.impression"""
    duplicate_window_s: float = 600.0
    """a record with a known id is dropped within this time"""
    max_age_s: float = 30 * 86_400.0
    """older records are removed, read or not"""
    max_bytes: int = 4 << 30
    """a full log refuses new records and keeps the old ones"""
    as_found: bool = False
    """whether settings, and an absent log, are left as they are"""
    deadline_s: float = 1.0
    """of a call, connecting included"""
    read_deadline_s: float = 10.0
    """of a call that reads many records"""

    @property
    def url(self) -> str:
        return self.server.url

    def config(self) -> StreamConfig:
        return StreamConfig(
            name=self.name,
            subjects=[f"{self.name}.*"],
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            duplicate_window=self.duplicate_window_s,
            max_age=self.max_age_s,
            max_bytes=self.max_bytes,
            allow_direct=True,
        )


class Connection:
    """Calls to the broker of `stream`, each with a deadline. Belongs to one event loop."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.last_sequence = 0
        """highest known sequence of the log"""
        self._opening: asyncio.Task[Link] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        """strong references: asyncio keeps only weak ones to tasks"""

    async def call(
        self, operation: str, action: Callable[["Link"], Coroutine[Any, Any, T]], deadline_s: float = 0.0
    ) -> T:
        """Run `action` on the connection; ServingError without an answer within `deadline_s` (0: that of the stream)."""
        deadline_s = deadline_s or self.stream.deadline_s
        until = time.monotonic() + deadline_s
        opening = self._ensure_opening()
        try:
            link = await _await_until(until, opening)
            return await link.run(until, action(link))
        except TimeoutError:
            problem = f"no answer within {deadline_s:g} s"
        except (NatsError, OSError) as error:
            problem = str(error) or type(error).__name__
        self._drop(opening)
        raise ServingError(f"the broker at {self.stream.url} did not {operation}: {problem}; check that it runs")

    async def close(self) -> None:
        """Drop the connection, also one that is being opened, and wait until none of its tasks is left."""
        if (opening := self._opening) is not None:
            self._drop(opening)
            await asyncio.wait({opening})
        if self._closing:
            await asyncio.wait(self._closing, timeout=self.stream.deadline_s)

    def _ensure_opening(self) -> "asyncio.Task[Link]":
        if self._opening is None or (self._opening.done() and not _is_alive(self._opening)):
            self._opening = asyncio.ensure_future(self._open())
        return self._opening

    async def _open(self) -> "Link":
        link = Link()
        try:
            await link.open(self.stream, self.last_sequence)
        except BaseException:
            self._abandon(link)
            raise
        return link

    def _drop(self, opening: "asyncio.Task[Link]") -> None:
        if self._opening is opening:
            self._opening = None
        opening.cancel()
        if opening.done() and not opening.cancelled() and opening.exception() is None:
            self.last_sequence = max(self.last_sequence, opening.result().publisher.last_sequence)
            self._abandon(opening.result())

    def _abandon(self, link: "Link") -> None:
        self._closing.add(task := asyncio.ensure_future(link.abort()))
        task.add_done_callback(self._closing.discard)


class _DroppingClient(Client):
    """Drops unsent data with a lost connection, whose socket uvloop refuses to be written to."""

    def drop_pending(self) -> None:
        self._pending, self._pending_data_size = [], 0

    async def _process_op_err(self, e: Exception) -> None:
        self.drop_pending()
        await super()._process_op_err(e)


class Link:
    """A connection to the broker. `lost` completes when it breaks."""

    def __init__(self) -> None:
        self.client = _DroppingClient()
        self.jetstream: JetStreamContext = self.client.jetstream()
        self.publisher = Publisher(self.client)
        self.positions: KeyValue | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running: set[asyncio.Task[Any]] = set()

    async def open(self, stream: Stream, last_sequence: int) -> None:
        """Connect and ensure that the stream and the bucket of positions exist, all within the deadline of a call."""
        until = time.monotonic() + stream.deadline_s
        connecting = self.client.connect(
            stream.server.url,
            **credentials(stream.server),
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=math.ceil(stream.deadline_s),
            flush_timeout=stream.deadline_s,
            closed_cb=self._set_lost,
            error_cb=_ignore_error,
        )
        await self.run(until, connecting)
        await self.run(until, self.publisher.subscribe())
        if stream.as_found:
            return
        await self.run(until, _ensure_stream(self.jetstream, stream, last_sequence))
        self.positions = await self.run(until, _open_positions(self.jetstream, stream))

    async def run(self, until: float, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`; ConnectionError when the connection is lost, TimeoutError at `until`."""
        self._running.add(task := asyncio.ensure_future(work))
        task.add_done_callback(self._running.discard)
        try:
            return await _await_until(until, task, self.lost)
        finally:
            task.cancel()
            task.add_done_callback(_consume_exception)

    async def abort(self) -> None:
        """Drop the socket at once: unsent messages are unacknowledged, and a graceful close would wait for a halted broker.

        Work that is still running ends first: a `connect` whose cancellation is swallowed would start the tasks of a client
        that is closed already, and nothing would end them.
        """
        self._drop_socket()
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running, timeout=CANCEL_INTERVAL_S)
        self._drop_socket()
        with contextlib.suppress(NatsError, OSError):
            await self.client.close()
        if tasks := {task for task in self._client_tasks() if task is not None}:
            await asyncio.wait(tasks)

    def _drop_socket(self) -> None:
        self.client.drop_pending()
        transport = self.client._transport
        if isinstance(transport, TcpTransport) and transport._io_writer is not None:
            transport._io_writer.transport.abort()

    def _client_tasks(self) -> "tuple[asyncio.Task[Any] | None, ...]":
        return self.client._reading_task, self.client._ping_interval_task, self.client._flusher_task

    async def _set_lost(self) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


def credentials(server: Server) -> dict[str, Any]:
    """Keywords of the client's `connect`."""
    secure = {"tls": ssl.create_default_context(cafile=server.ca or None)} if server.url.startswith("tls://") else {}
    if server.token:
        return {**secure, "token": server.token}
    return {**secure, "user": server.user, "password": server.password} if server.user else secure


async def _ignore_error(_: Exception) -> None:
    """Ignore it: the pending call raises the error."""


async def _ensure_stream(jetstream: JetStreamContext, stream: Stream, last_sequence: int) -> None:
    """Create the stream, or update its settings.

    A new stream numbers from the current microsecond, so that a reader position in a log lost with its disk precedes every
    new record. The clock may have been set back, hence numbering starts above `last_sequence` at least.
    """
    try:
        found = await jetstream.stream_info(stream.name)
        max_bytes = max(stream.max_bytes, found.state.bytes)  # a smaller log refuses records, and loses none
        config = stream.config().evolve(first_seq=found.config.first_seq, max_bytes=max_bytes)
        await jetstream.update_stream(config)
    except NotFoundError:
        with contextlib.suppress(BadRequestError):  # another process created it first
            first = max(int(time.time() * MICROSECONDS), last_sequence + 1)
            await jetstream.add_stream(stream.config().evolve(first_seq=first))


async def _open_positions(jetstream: JetStreamContext, stream: Stream) -> KeyValue:
    """Key-value bucket of reader positions, by reader name."""
    bucket = f"{stream.name}-positions"
    try:
        return await jetstream.key_value(bucket)
    except BucketNotFoundError:
        return await jetstream.create_key_value(KeyValueConfig(bucket=bucket, storage=StorageType.FILE))


async def _await_until(until: float, task: "asyncio.Task[T]", lost: Awaitable[None] | None = None) -> T:
    """Await the task until a deadline or until the connection is lost.

    A closing client cancels its pending calls; that counts as a lost connection.
    """
    others = () if lost is None else (asyncio.ensure_future(lost),)
    await asyncio.wait({task, *others}, timeout=max(0.0, until - time.monotonic()), return_when=asyncio.FIRST_COMPLETED)
    if task.done() and not task.cancelled():
        return task.result()
    if task.done() or any(one.done() for one in others):
        raise ConnectionError("the connection was lost")
    raise TimeoutError


def _consume_exception(task: "asyncio.Task[Any]") -> None:
    """Retrieve the exception of an abandoned task, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()


def _is_alive(opening: "asyncio.Task[Link]") -> bool:
    return not opening.cancelled() and opening.exception() is None and not opening.result().lost.done()
