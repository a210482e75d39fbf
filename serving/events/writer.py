"""Writer of the event log: to the broker, and to a local spool while the broker is down.

A failed append opens the circuit: records then go to the spool at once, and a background task probes the broker with
exponential backoff, drains the spool into it and closes the circuit. Until the spool is empty new records queue behind the
spooled ones, so that the log keeps the order of acknowledgement.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Protocol, Self

from recsys.errors import QueryError, ServingError, where
from serving.events.record import Record
from serving.events.spool import Spool

logger = logging.getLogger(__name__)

FIRST_DELAY_S, MAX_DELAY_S = 0.1, 5.0
DRAIN_BATCH = 500
DRAIN_DEADLINE_S = 10.0
CLOCK_SLACK_S = 60.0
"""clock skew to the broker, and time from the failed send of a record to its spooling"""
CLOCK_SETBACK_S = 86_400.0
"""lookback for records with a spool time in the future: the clock was set back by an unknown amount"""
MAX_RECORD_BYTES = 4 << 20


class LogBroker(Protocol):
    """Broker that stores the log."""

    @property
    def duplicate_window_s(self) -> float:
        """Seconds within which the broker drops a record whose id it has."""
        ...

    async def append(self, records: Sequence[Record], *, deadline_s: float = 0.0) -> None: ...
    async def check(self) -> None: ...
    async def ids_since(self, timestamp: float) -> set[str]: ...
    async def close(self) -> None: ...


class EventLogWriter:
    """A `RecordWriter`, as an async context manager.

    `spooled`, `drained` and `rejected` count records: written to the spool, moved from there to the broker (duplicates
    included), refused or lost. `problem` is the last broker error until it recovers.
    """

    def __init__(self, *, broker: LogBroker, spool: Spool) -> None:
        self.spooled = self.drained = self.rejected = 0
        self.problem: str | None = None
        self._broker, self._spool = broker, spool
        self._broker_down = asyncio.Event()
        if not spool.empty:
            self._broker_down.set()
        self._appends_allowed = asyncio.Event()
        self._appends_allowed.set()
        self._draining: asyncio.Task[None] | None = None

    @property
    def spool_bytes(self) -> int:
        """Bytes of spooled records."""
        return self._spool.num_bytes

    @property
    def direct(self) -> bool:
        """Whether the circuit is closed, so that records go to the broker."""
        return not self._broker_down.is_set()

    async def __aenter__(self) -> Self:
        self._draining = asyncio.ensure_future(self._drain())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._draining is not None:
            self._draining.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._draining
        await self._broker.close()
        await self._spool.close()

    async def append(self, records: Sequence[Record]) -> None:
        """Return when every record is durable; ServingError when neither broker nor spool accepts them, QueryError for a
        record above MAX_RECORD_BYTES or above what the broker takes.
        """
        self._check_sizes(records)
        await self._appends_allowed.wait()
        if self.direct:
            try:
                await self._broker.append(records)
                return
            except QueryError:
                self.rejected += len(records)
                raise
            except ServingError as error:
                self.problem = str(error)
                if self.direct:
                    logger.warning("records go to the spool: %s", error)
                self._broker_down.set()
        try:
            await self._spool.append(records)
        except ServingError as error:
            self.rejected += len(records)
            raise ServingError(f"{error}; the broker is down: {self.problem}") from None
        self.spooled += len(records)

    def _check_sizes(self, records: Sequence[Record]) -> None:
        for record in records:
            if (size := len(record.to_json())) > MAX_RECORD_BYTES:
                self.rejected += len(records)
                raise QueryError(
                    f"the record {record.id!r} has {size} bytes, at most {MAX_RECORD_BYTES} are accepted; "
                    "shorten its history or its slate"
                )

    async def _drain(self) -> None:
        delay = FIRST_DELAY_S
        while True:
            await self._broker_down.wait()
            try:
                await self._broker.check()
                await self._drain_spool()
                delay = FIRST_DELAY_S
            except Exception as error:  # a defect must not leave all later records in the spool
                self.problem = str(error) if isinstance(error, ServingError) else where(error)
                if not isinstance(error, ServingError):
                    logger.error("the spool is not drained: %s", self.problem)
                await asyncio.sleep(delay)
                delay = min(2 * delay, MAX_DELAY_S)

    async def _drain_spool(self) -> None:
        """Move all spooled records to the broker and close the circuit.

        Under load the spool never empties by itself, so appends are blocked for the last batch.
        """
        ids_in_broker = await self._ids_in_broker()
        while await self._drain_batch(ids_in_broker, DRAIN_DEADLINE_S) == DRAIN_BATCH:
            pass
        self._appends_allowed.clear()
        try:
            while not self._spool.empty:
                await self._spool.settle()
                await self._drain_batch(ids_in_broker, 0.0)
            self.problem = None
            self._broker_down.clear()
            logger.warning("the spool is drained; records go to the broker again")
        finally:
            self._appends_allowed.set()

    async def _drain_batch(self, ids_in_broker: set[str], deadline_s: float) -> int:
        """Move the oldest batch, skipping ids that the broker has; return its size."""
        batch = await self._spool.peek(DRAIN_BATCH)
        fresh = [one.record for one in batch if one.record.id not in ids_in_broker]
        if fresh:
            await self._append_spooled(fresh, deadline_s)
        if batch:
            await self._spool.release()
        self.drained += len(batch)
        return len(batch)

    async def _append_spooled(self, records: Sequence[Record], deadline_s: float) -> None:
        """Append to the broker; one record that it never takes is lost alone, and does not hold up all behind it."""
        try:
            await self._broker.append(records, deadline_s=deadline_s)
        except QueryError as error:
            if len(records) > 1:
                for record in records:
                    await self._append_spooled([record], deadline_s)
                return
            self.rejected += 1
            logger.error("a spooled record is lost: %s", error)

    async def _ids_in_broker(self) -> set[str]:
        """Ids that the broker may have stored without acknowledging, when older than its duplicate window."""
        oldest = await self._spool.peek(1)
        age = time.time() - oldest[0].timestamp if oldest else 0.0
        if 0 <= age < self._broker.duplicate_window_s - CLOCK_SLACK_S:
            return set()
        return await self._broker.ids_since(time.time() - (age + CLOCK_SLACK_S if age > 0 else CLOCK_SETBACK_S))
