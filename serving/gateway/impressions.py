"""What was shown goes to the event log behind the answers: queued, in batches, and counted where it is lost."""

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Callable

from recsys.errors import QueryError, ServingError, check_ranges
from serving.events.record import Record, Writer

LATE = "impressions:late"
"""the log did not take the last batch; it is tried again"""
LOST = "impressions:lost"
"""the queue was full, what was shown is not in the log"""

logger = logging.getLogger(__name__)


class Impressions:
    """A bounded queue before a writer and the task that empties it.

    A batch that the writer refuses is sent again after `pause_s`, in its turn, until it is taken; meanwhile the queue
    fills, and when it is full the newest impressions are lost and counted. One that no writer will ever take (QueryError)
    is looked for one by one and lost alone. count: outcome ("written", "refused", "lost"),
    number of records.
    """

    def __init__(
        self, writer: Writer, *, most: int, batch: int, pause_s: float, count: Callable[[str, int], None]
    ) -> None:
        check_ranges("impressions", most=(most, 1, 10_000_000), batch=(batch, 1, most), pause_s=(pause_s, 0.0, 60.0))
        self._writer, self._most, self._batch, self._pause_s, self._count = writer, most, batch, pause_s, count
        self._queue: deque[Record] = deque()
        self._filled, self._drained = asyncio.Event(), asyncio.Event()
        self._refused = False
        self._losing = False
        self._singly = 0
        """of the next records, how many are written by themselves"""
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Records that wait."""
        return len(self._queue)

    @property
    def flags(self) -> tuple[str, ...]:
        """What answers must say of the log at this moment."""
        return (*((LATE,) if self._refused else ()), *((LOST,) if self._losing else ()))

    def put(self, record: Record) -> None:
        """Never waits."""
        if len(self._queue) >= self._most:
            self._losing = True
            self._count("lost", 1)
            return
        self._losing = False
        self._queue.append(record)
        self._drained.clear()
        self._filled.set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._empty())

    async def stop(self, within_s: float) -> int:
        """Write what waits, for so long; the number of records that are lost."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._drained.wait()
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._queue:
            self._count("lost", len(self._queue))
        return len(self._queue)

    async def _empty(self) -> None:
        while True:
            while self._queue:
                await self._write(list(itertools.islice(self._queue, 1 if self._singly else self._batch)))
            self._filled.clear()
            self._drained.set()
            await self._filled.wait()

    async def _write(self, batch: list[Record]) -> None:
        """Records leave the queue when they are durable."""
        try:
            await self._writer.append(batch)
        except QueryError:
            if len(batch) > 1:
                self._singly = len(batch)
                return
            outcome = "lost"
        except ServingError:
            self._refused = True
            self._count("refused", len(batch))
            await asyncio.sleep(self._pause_s)
            return
        except Exception as error:
            logger.error("the event log failed with %s; %d impressions are lost", type(error).__name__, len(batch))
            outcome = "lost"
        else:
            outcome = "written"
        self._refused = False
        self._singly = max(0, self._singly - len(batch))
        for _ in batch:
            self._queue.popleft()
        self._count(outcome, len(batch))
