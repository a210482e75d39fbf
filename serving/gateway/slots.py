"""Bounded concurrency: so many at work, so many waiting, the others turned away at once."""

import asyncio
from collections.abc import AsyncIterator, Callable
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

    @property
    def full(self) -> bool:
        """Whether the next caller would have to wait."""
        return self._free.locked()

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


class AdmissionQueue:
    """Absorbs a burst, sheds an overload: at most `working` callers inside, at most `waiting` in line for at most `wait_s`.

    A line that has not been empty for `overload_s` is an overload: until `calm_s` have passed without one nobody may begin
    to wait, since a line that never empties only makes every answer late (Nichols and Jacobson, Controlling queue delay,
    2012). clock: seconds, rising.
    """

    def __init__(
        self,
        *,
        working: int,
        waiting: int,
        wait_s: float,
        overload_s: float,
        calm_s: float,
        clock: Callable[[], float],
    ) -> None:
        check_ranges(
            "admission", wait_s=(wait_s, 0.0, 60.0), overload_s=(overload_s, 0.0, 60.0), calm_s=(calm_s, 0.0, 3_600.0)
        )
        self._slots = Slots(working=working, waiting=waiting)
        self._wait_s, self._overload_s, self._calm_s, self._clock = wait_s, overload_s, calm_s, clock
        self._empty_at = self._calm_at = clock()

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Busy where nobody may wait, or the wait was in vain."""
        if self._overloaded():
            raise Busy
        taken = self._slots.taken()
        try:
            async with asyncio.timeout(self._wait_s):
                await taken.__aenter__()
        except TimeoutError:
            self._calm_at = self._clock() + self._calm_s
            raise Busy from None
        try:
            yield
        finally:
            await taken.__aexit__(None, None, None)

    def _overloaded(self) -> bool:
        """Whether a caller that cannot go in at once has to be refused."""
        now = self._clock()
        if not self._slots.full:
            self._empty_at = now
            return False
        if now - self._empty_at > self._overload_s:
            self._calm_at = now + self._calm_s
        return now < self._calm_at
