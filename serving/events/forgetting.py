"""Forgotten users in the event log: writers and sinks that drop their earlier records, and what removes the stored ones."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from recsys.data.forgotten import ForgottenList, ForgottenUsers
from recsys.errors import ServingError
from serving.events.record import Record, RecordWriter, Sink, StoredRecord

SPOOL, STATES, PARQUET, LOG = PARTS = ("spool", "states", "parquet", "log")
"""of a deployment, in the list of forgotten users"""
Remove = Callable[[ForgottenUsers], Awaitable[Any]]

logger = logging.getLogger(__name__)


class LogEraser(Protocol):
    """Erasure of single records from the log of a broker."""

    async def erase(self, sequences: Sequence[int]) -> None:
        """Erase these records, absent ones included; ServingError when the broker does not answer."""
        ...

    async def erase_all(self, chosen: Callable[[Record, float], bool]) -> int:
        """Erase the records that `chosen` accepts, given with the time of their arrival (unix seconds); return their number."""
        ...

    async def close(self) -> None: ...


def is_dropped(record: Record, forgotten: ForgottenUsers, arrived: float = math.inf) -> bool:
    """Whether a record belongs to a forgotten user, by its own time or by that of its arrival at the broker."""
    if not len(forgotten) or not isinstance(record.user, str) or (time := forgotten.time_of(record.user)) is None:
        return False
    return arrived <= time or not isinstance(record.timestamp, int | float) or record.timestamp <= time


async def remove_part(part: str, forgotten: ForgottenList, remove: Remove) -> None:
    """Call `remove` with the users whom this part has not removed, if any, and note that it is done."""
    todo = forgotten.current().open_in(part)
    if len(todo):
        await remove(todo)
        await asyncio.to_thread(forgotten.close, part, todo)


class ForgettingWriter:
    """A `RecordWriter` that drops records of before the forgetting of their user: requests that were on their way."""

    def __init__(self, writer: RecordWriter, forgotten: ForgottenList) -> None:
        self._writer, self._forgotten = writer, forgotten

    async def append(self, records: Sequence[Record]) -> None:
        forgotten = self._forgotten.current()
        if kept := [one for one in records if not is_dropped(one, forgotten)]:
            await self._writer.append(kept)


class ForgettingSink:
    """A `Sink` that removes newly forgotten users before it writes, so that all it removes is older than the forgetting.

    Records of before the forgetting that arrive later are dropped, and erased from the log.
    """

    def __init__(
        self, sink: Sink, *, part: str, forgotten: ForgottenList, remove: Remove, eraser: LogEraser | None
    ) -> None:
        self._sink, self._part, self._forgotten = sink, part, forgotten
        self._remove, self._eraser = remove, eraser
        self._lock = asyncio.Lock()

    async def write(self, batch: Sequence[StoredRecord]) -> None:
        async with self._lock:
            await remove_part(self._part, self._forgotten, self._remove)
            forgotten = self._forgotten.current()
            dropped = {stored.sequence for stored in batch if is_dropped(stored.record, forgotten)}
            if kept := [stored for stored in batch if stored.sequence not in dropped]:
                await self._sink.write(kept)
        if dropped and self._eraser is not None:
            await self._eraser.erase(sorted(dropped))

    async def remove(self) -> None:
        """Remove newly forgotten users now."""
        async with self._lock:
            await remove_part(self._part, self._forgotten, self._remove)


async def erase_from_log(eraser: LogEraser | None, forgotten: ForgottenUsers) -> int:
    """Erase the records of forgotten users; return their number. Without an eraser the log keeps them until its retention."""
    if eraser is None:
        logger.warning("the log cannot erase single records; those of forgotten users stay until its retention ends")
        return 0
    return await eraser.erase_all(lambda record, arrived: is_dropped(record, forgotten, arrived))


async def forget_periodically(
    sinks: Sequence[ForgettingSink], eraser: LogEraser | None, forgotten: ForgottenList, every_s: float
) -> None:
    """Remove newly forgotten users from sinks and log; what fails is retried."""

    async def erase(todo: ForgottenUsers) -> int:
        return await erase_from_log(eraser, todo)

    while True:
        try:
            for sink in sinks:
                await sink.remove()
            await remove_part(LOG, forgotten, erase)
        except (ServingError, OSError) as error:
            logger.warning("forgotten users are not removed everywhere yet: %s", error)
        await asyncio.sleep(every_s)
