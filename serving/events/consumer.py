"""Deliver log batches to sinks in order, retried until every sink has the batch."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from recsys.errors import ServingError
from serving.events.record import Sink, StoredRecord

logger = logging.getLogger(__name__)

T = TypeVar("T")
FIRST_DELAY_S, MAX_DELAY_S = 0.1, 5.0


class LogReader(Protocol):
    """Reader of the log with a durable position."""

    @property
    def waiting(self) -> int:
        """Records behind the last batch."""
        ...

    async def fetch(self) -> list[StoredRecord]:
        """Wait for and return the next records."""
        ...

    async def acknowledge(self, sequence: int) -> None:
        """Store the position durably; records up to `sequence` are not read again."""
        ...


class Consumer:
    """Reads batches and writes each to the sinks in turn until it is cancelled.

    `run` raises those errors of sinks and reader that are in `fatal`. Any other ServingError is retried with the same batch:
    `problem` is the current error, `retries` counts them. `num_written` counts delivered records, `waiting` unread ones.
    `newest` is the timestamp (unix seconds) of the newest delivered record, `delay_s` its age at delivery.
    """

    def __init__(self, *, reader: LogReader, sinks: Sequence[Sink], fatal: tuple[type[ServingError], ...] = ()) -> None:
        self._reader, self._sinks, self._fatal = reader, sinks, fatal
        self.num_written = self.retries = self.sequence = 0
        self.newest = self.delay_s = 0.0
        self.problem: str | None = None

    @property
    def waiting(self) -> int:
        return self._reader.waiting

    async def run(self) -> None:
        while True:
            batch = await self._retry(self._reader.fetch)
            if batch:
                await self._deliver(batch)

    async def _deliver(self, batch: list[StoredRecord]) -> None:
        for sink in self._sinks:
            await self._retry(partial(sink.write, batch))
        await self._retry(partial(self._reader.acknowledge, batch[-1].sequence))
        self.sequence = batch[-1].sequence
        self.num_written += len(batch)
        self.newest = max(stored.record.timestamp for stored in batch)
        self.delay_s = time.time() - self.newest

    async def _retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        delay = FIRST_DELAY_S
        while True:
            try:
                result = await attempt()
            except self._fatal:
                raise
            except ServingError as error:
                if self.problem is None:
                    logger.warning("the consumer waits: %s", error)
                self.problem = str(error)
                self.retries += 1
                await asyncio.sleep(delay)
                delay = min(2 * delay, MAX_DELAY_S)
            else:
                self.problem = None
                return result
