"""One connection to JetStream: made when it is needed, dropped when it fails, made anew by the next call.

The client's own reconnection is off: it would hold back messages and send them whenever the broker returns, and it
swallows cancellations, so that a halted broker could hold a caller. Here every call ends by its deadline.
"""

import asyncio
import contextlib
import math
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
from serving.events.publishing import Publisher

T = TypeVar("T")
MICROSECONDS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Which log, what it keeps, and how long a call may last."""

    url: str
    """nats://host:port"""
    name: str = "events"
    """records lie under the subjects <name>.feedback and <name>.impression"""
    duplicate_window_s: float = 600.0
    """a record that comes again within this time is known by its id"""
    max_age_s: float = 30 * 86_400.0
    """older records are removed, read or not"""
    max_bytes: int = 4 << 30
    """a full log refuses what comes; it does not forget what is there"""
    deadline_s: float = 1.0
    """of a call, the making of a connection included"""
    read_deadline_s: float = 10.0
    """of a call that reads many records"""

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
        self.seen = 0
        """highest sequence of the log that is known here"""
        self._opening: asyncio.Task[Link] | None = None

    async def call(self, doing: str, action: Callable[["Link"], Coroutine[Any, Any, T]], deadline_s: float = 0.0) -> T:
        """What `action` returns; ServingError when there is no answer within `deadline_s`, 0 for that of the stream."""
        deadline_s = deadline_s or self.stream.deadline_s
        until = time.monotonic() + deadline_s
        opening = self._opened()
        try:
            link = await _within(until, opening)
            return await link.answer(until, action(link))
        except TimeoutError:
            problem = f"no answer within {deadline_s:g} s"
        except (NatsError, OSError) as error:
            problem = str(error) or type(error).__name__
        self._drop(opening)
        raise ServingError(f"the broker at {self.stream.url} did not {doing}: {problem}; check that it runs")

    async def close(self) -> None:
        if self._opening is not None:
            self._drop(self._opening)
        loop = asyncio.get_running_loop()
        if ending := {task for task in _ENDING if task.get_loop() is loop}:
            await asyncio.wait(ending, timeout=self.stream.deadline_s)

    def _opened(self) -> "asyncio.Task[Link]":
        if self._opening is None or (self._opening.done() and not _lives(self._opening)):
            self._opening = asyncio.ensure_future(_open(self.stream, self.seen))
        return self._opening

    def _drop(self, opening: "asyncio.Task[Link]") -> None:
        if self._opening is opening:
            self._opening = None
        opening.cancel()
        if opening.done() and not opening.cancelled() and opening.exception() is None:
            self.seen = max(self.seen, opening.result().publisher.last)
            opening.result().shut()


class Link:
    """A connection that was made. `lost` is done as soon as it is no more."""

    def __init__(self) -> None:
        self.client = Client()
        self.jetstream: JetStreamContext = self.client.jetstream()
        self.publisher = Publisher(self.client)
        self.positions: KeyValue | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def answer(self, until: float, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns; ConnectionError when the connection is lost, TimeoutError at `until`."""
        task = asyncio.ensure_future(work)
        try:
            return await _within(until, task, self.lost)
        finally:
            task.cancel()
            task.add_done_callback(_heard)

    def shut(self) -> None:
        """Abort: there is nothing unsent that somebody was told is safe. A polite end would wait for a halted broker."""
        transport = self.client._transport
        if isinstance(transport, TcpTransport) and transport._io_writer is not None:
            transport._io_writer.transport.abort()
        _ENDING.add(task := asyncio.ensure_future(self._end()))
        task.add_done_callback(_ENDING.discard)

    async def _end(self) -> None:
        with contextlib.suppress(NatsError, OSError):
            await self.client.close()


_ENDING: set[asyncio.Task[None]] = set()
"""asyncio keeps no reference to a task"""


async def _open(stream: Stream, seen: int) -> Link:
    link, until = Link(), time.monotonic() + stream.deadline_s

    async def closed() -> None:
        if not link.lost.done():
            link.lost.set_result(None)

    async def heard(_: Exception) -> None:
        """The caller is told by what it waits for."""

    try:
        connecting = link.client.connect(
            stream.url,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=math.ceil(stream.deadline_s),
            flush_timeout=stream.deadline_s,
            closed_cb=closed,
            error_cb=heard,
        )
        await link.answer(until, connecting)
        await link.answer(until, link.publisher.listen())
        await link.answer(until, _ensure_stream(link.jetstream, stream, seen))
        link.positions = await link.answer(until, _positions(link.jetstream, stream))
    except BaseException:
        link.shut()
        raise
    return link


async def _ensure_stream(jetstream: JetStreamContext, stream: Stream, seen: int) -> None:
    """Make the stream, or give it the settings of today.

    A new one counts from the microsecond of its making, so that whoever remembers a place in a log that was lost with
    its disk is before everything in the new one. The clock may have been set back since: it counts from behind what was
    `seen` at least.
    """
    try:
        first = (await jetstream.stream_info(stream.name)).config.first_seq
        await jetstream.update_stream(stream.config().evolve(first_seq=first))
    except NotFoundError:
        with contextlib.suppress(BadRequestError):  # somebody else was first
            first = max(int(time.time() * MICROSECONDS), seen + 1)
            await jetstream.add_stream(stream.config().evolve(first_seq=first))


async def _positions(jetstream: JetStreamContext, stream: Stream) -> KeyValue:
    """How far each reader has come, by its name."""
    bucket = f"{stream.name}-positions"
    try:
        return await jetstream.key_value(bucket)
    except BucketNotFoundError:
        return await jetstream.create_key_value(KeyValueConfig(bucket=bucket, storage=StorageType.FILE))


async def _within(until: float, task: "asyncio.Task[T]", lost: Awaitable[None] | None = None) -> T:
    """The result of a task that is not waited for longer, nor beyond the loss of the connection.

    A client that ends cancels what waits for it; that is a loss too.
    """
    others = () if lost is None else (asyncio.ensure_future(lost),)
    await asyncio.wait({task, *others}, timeout=max(0.0, until - time.monotonic()), return_when=asyncio.FIRST_COMPLETED)
    if task.done() and not task.cancelled():
        return task.result()
    if task.done() or any(one.done() for one in others):
        raise ConnectionError("the connection was lost")
    raise TimeoutError


def _heard(task: "asyncio.Task[Any]") -> None:
    """What a task fails with that nobody waits for any more is no news."""
    if not task.cancelled():
        task.exception()


def _lives(opening: "asyncio.Task[Link]") -> bool:
    return not opening.cancelled() and opening.exception() is None and not opening.result().lost.done()
