"""The log as the gateway writes it: to the broker, and to the local spool while the broker is away.

A failure opens the circuit: from then on records go to the spool at once, and a task in the background asks the broker
ever less often whether it is back, empties the spool into it and closes the circuit. Until the spool is empty new records
go behind those that wait, so that the log has them in the order in which they were acknowledged.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Protocol, Self

from recsys.errors import QueryError, ServingError
from serving.events.record import Record
from serving.events.spool import Spool

logger = logging.getLogger(__name__)

FIRST_DELAY_S, MAX_DELAY_S = 0.1, 5.0
BATCH = 500
BATCH_DEADLINE_S = 10.0
SLACK_S = 60.0
"""between two clocks, and between the sending of a record and its spooling"""
AHEAD_S = 86_400.0
"""what was spooled in the future was spooled before a clock was set back, nobody knows when; so far is looked"""
MAX_RECORD_BYTES = 4 << 20


class LogBroker(Protocol):
    """Where the log is kept."""

    @property
    def duplicate_window_s(self) -> float:
        """For so long a record that comes again is known by its id."""
        ...

    async def append(self, records: Sequence[Record], *, deadline_s: float = 0.0) -> None: ...
    async def check(self) -> None: ...
    async def ids_since(self, timestamp: float) -> set[str]: ...
    async def close(self) -> None: ...


class EventLog:
    """A `Writer`, as an async context manager.

    `spooled`, `drained` and `rejected` count records: put into the spool, brought from there to the broker (found there
    already, included), refused. `problem` says what the broker's last failure was, until it is back.
    """

    def __init__(self, *, broker: LogBroker, spool: Spool) -> None:
        self.spooled = self.drained = self.rejected = 0
        self.problem: str | None = None
        self._broker, self._spool = broker, spool
        self._away = asyncio.Event()
        if not spool.empty:
            self._away.set()
        self._gate = asyncio.Event()
        self._gate.set()
        self._draining: asyncio.Task[None] | None = None

    @property
    def spool_bytes(self) -> int:
        """What waits for the broker."""
        return self._spool.num_bytes

    @property
    def direct(self) -> bool:
        """Records go to the broker, the circuit is closed."""
        return not self._away.is_set()

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
        """Return when every record is durable; ServingError when neither broker nor spool can take them, QueryError when one
        is too large for either.
        """
        self._check_sizes(records)
        await self._gate.wait()
        if self.direct:
            try:
                await self._broker.append(records)
                return
            except ServingError as error:
                self.problem = str(error)
                if self.direct:
                    logger.warning("records go to the spool: %s", error)
                self._away.set()
        try:
            await self._spool.append(records)
        except ServingError as error:
            self.rejected += len(records)
            raise ServingError(f"{error}; the broker is away: {self.problem}") from None
        self.spooled += len(records)

    def _check_sizes(self, records: Sequence[Record]) -> None:
        for record in records:
            if (size := len(record.to_json())) > MAX_RECORD_BYTES:
                self.rejected += len(records)
                raise QueryError(
                    f"the record {record.id!r} has {size} bytes, at most {MAX_RECORD_BYTES} are taken; "
                    "shorten its history or its slate"
                )

    async def _drain(self) -> None:
        delay = FIRST_DELAY_S
        while True:
            await self._away.wait()
            try:
                await self._broker.check()
                await self._empty()
                delay = FIRST_DELAY_S
            except ServingError as error:
                self.problem = str(error)
                await asyncio.sleep(delay)
                delay = min(2 * delay, MAX_DELAY_S)

    async def _empty(self) -> None:
        """Bring what the spool holds to the broker and close the circuit.

        Under load something is always on its way to the spool: for the last of it, newcomers wait.
        """
        known = await self._known()
        while await self._bring(known, BATCH_DEADLINE_S) == BATCH:
            pass
        self._gate.clear()
        try:
            while not self._spool.empty:
                await self._spool.settle()
                await self._bring(known, 0.0)
            self.problem = None
            self._away.clear()
            logger.warning("the broker has what waited; records go there")
        finally:
            self._gate.set()

    async def _bring(self, known: set[str], deadline_s: float) -> int:
        """Bring the oldest records, except those that the broker has; how many they were."""
        batch = await self._spool.peek(BATCH)
        fresh = [one.record for one in batch if one.record.id not in known]
        if fresh:
            await self._broker.append(fresh, deadline_s=deadline_s)
        if batch:
            await self._spool.release()
        self.drained += len(batch)
        return len(batch)

    async def _known(self) -> set[str]:
        """Ids that the broker took although it could not say so, if that may be longer ago than it remembers."""
        oldest = await self._spool.peek(1)
        age = time.time() - oldest[0].timestamp if oldest else 0.0
        if 0 <= age < self._broker.duplicate_window_s - SLACK_S:
            return set()
        return await self._broker.ids_since(time.time() - (age + SLACK_S if age > 0 else AHEAD_S))
