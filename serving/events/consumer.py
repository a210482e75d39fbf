"""Hand the log to its sinks, in order, each batch until every sink has it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from recsys.errors import ServingError
from serving.events.record import Sink, Stored

logger = logging.getLogger(__name__)

T = TypeVar("T")
FIRST_DELAY_S, MAX_DELAY_S = 0.1, 5.0


class Reader(Protocol):
    """One position in the log."""

    @property
    def waiting(self) -> int:
        """Records behind the last batch."""
        ...

    async def fetch(self) -> list[Stored]:
        """The next records, waited for."""
        ...

    async def acknowledge(self, sequence: int) -> None:
        """What comes up to here is not read again, after a restart either."""
        ...


class Consumer:
    """Reads batches and writes each to the sinks, one after the other; `run` ends only by cancellation.

    A ServingError of a sink or of the reader is waited out and tried again, with the same batch: `problem` says which,
    `retries` counts them. `folded` counts records, `waiting` those that are not read yet. `delay_s` is the age of the
    newest record when it had reached every sink, `newest` its timestamp (unix seconds).
    """

    def __init__(self, *, reader: Reader, sinks: Sequence[Sink]) -> None:
        self._reader, self._sinks = reader, sinks
        self.folded = self.retries = self.sequence = 0
        self.newest = self.delay_s = 0.0
        self.problem: str | None = None

    @property
    def waiting(self) -> int:
        return self._reader.waiting

    async def run(self) -> None:
        while True:
            batch = await self._insist(self._reader.fetch)
            if batch:
                await self._hand_on(batch)

    async def _hand_on(self, batch: list[Stored]) -> None:
        for sink in self._sinks:
            await self._insist(partial(sink.write, batch))
        await self._insist(partial(self._reader.acknowledge, batch[-1].sequence))
        self.sequence = batch[-1].sequence
        self.folded += len(batch)
        self.newest = max(stored.record.timestamp for stored in batch)
        self.delay_s = time.time() - self.newest

    async def _insist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        delay = FIRST_DELAY_S
        while True:
            try:
                result = await attempt()
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
