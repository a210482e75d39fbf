"""Asynchronous logging of impressions: queued behind the responses, written in batches, losses counted."""

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Callable

from recsys.errors import QueryError, ServingError, check_ranges
from serving.events.record import Record, RecordWriter

IMPRESSIONS_LATE = "impressions:late"
"""flag: the log refused the last batch, which is retried"""
IMPRESSIONS_LOST = "impressions:lost"
"""flag: the queue is full and impressions are lost"""

logger = logging.getLogger(__name__)


class ImpressionQueue:
    """Queue in front of a writer, bounded in records and in bytes of their JSON, and its drain task.

    A refused batch is retried in order after `pause_s` until it is written; meanwhile the queue fills, and when it is full
    the newest impressions are lost and counted. After a QueryError the batch is written record by record, so that only the
    invalid record is lost. count: outcome ("written", "refused", "lost"), number of records.
    """

    def __init__(
        self,
        writer: RecordWriter,
        *,
        max_records: int,
        max_bytes: int,
        batch: int,
        pause_s: float,
        count: Callable[[str, int], None],
    ) -> None:
        check_ranges("impressions", max_records=(max_records, 1, 10_000_000), batch=(batch, 1, max_records))
        check_ranges("impressions", pause_s=(pause_s, 0.0, 60.0), max_bytes=(max_bytes, 1, 1 << 40))
        self._writer, self._max_records, self._batch, self._pause_s, self._count = (
            writer,
            max_records,
            batch,
            pause_s,
            count,
        )
        self._max_bytes = max_bytes
        self.num_bytes = 0
        """of the queued records as JSON"""
        self._queue: deque[tuple[Record, int]] = deque()
        self._filled, self._drained = asyncio.Event(), asyncio.Event()
        self._is_refused = False
        self._is_losing = False
        self._num_singly = 0
        """number of next records that are written one by one"""
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Number of queued records."""
        return len(self._queue)

    @property
    def flags(self) -> tuple[str, ...]:
        """Degraded flags of the log for current responses."""
        return (*((IMPRESSIONS_LATE,) if self._is_refused else ()), *((IMPRESSIONS_LOST,) if self._is_losing else ()))

    def put(self, record: Record) -> None:
        """Queue a record, or drop and count it when the queue is full; never blocks."""
        size = len(record.to_json())
        if len(self._queue) >= self._max_records or self.num_bytes + size > self._max_bytes:
            self._is_losing = True
            self._count("lost", 1)
            return
        self._is_losing = False
        self._queue.append((record, size))
        self.num_bytes += size
        self._drained.clear()
        self._filled.set()

    def start(self) -> None:
        self._task = asyncio.create_task(self._drain())

    async def stop(self, timeout_s: float) -> int:
        """Drain the queue for at most `timeout_s`; return the number of lost records."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._drained.wait()
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._queue:
            self._count("lost", len(self._queue))
        return len(self._queue)

    async def _drain(self) -> None:
        while True:
            while self._queue:
                first = itertools.islice(self._queue, 1 if self._num_singly else self._batch)
                await self._write([record for record, _ in first])
            self._filled.clear()
            self._drained.set()
            await self._filled.wait()

    async def _write(self, batch: list[Record]) -> None:
        """Write a batch; records leave the queue once durable."""
        try:
            await self._writer.append(batch)
        except QueryError:
            if len(batch) > 1:
                self._num_singly = len(batch)
                return
            outcome = "lost"
        except ServingError:
            self._is_refused = True
            self._count("refused", len(batch))
            await asyncio.sleep(self._pause_s)
            return
        except Exception as error:
            logger.error("the event log failed with %s; %d impressions are lost", type(error).__name__, len(batch))
            outcome = "lost"
        else:
            outcome = "written"
        self._is_refused = False
        self._num_singly = max(0, self._num_singly - len(batch))
        for _ in batch:
            self.num_bytes -= self._queue.popleft()[1]
        self._count(outcome, len(batch))
