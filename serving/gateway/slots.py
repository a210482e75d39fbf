"""Bounded concurrency: so many at work, so many waiting, the others turned away at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from recsys.errors import check_ranges


class Busy(Exception):
    """All places are taken, those to wait in as well."""


class Slots:
    """At most `working` callers inside `taken`, at most `waiting` before it, first come first served."""

    def __init__(self, *, working: int, waiting: int) -> None:
        check_ranges("slots", working=(working, 1, 100_000), waiting=(waiting, 0, 1_000_000))
        self._free = asyncio.Semaphore(working)
        self._most_waiting = waiting
        self.waiting = 0

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Busy where nobody may wait any more."""
        if self._free.locked() and self.waiting >= self._most_waiting:
            raise Busy
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._free.release()
