"""Bounded concurrency: a limit of running and of waiting callers; others are rejected at once."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from recsys.errors import check_ranges


class BulkheadFull(Exception):
    """The bulkhead and its queue are full."""


class Bulkhead:
    """At most `max_running` callers inside `acquire`, at most `waiting` queued before it, in order of arrival."""

    def __init__(self, *, max_running: int, waiting: int) -> None:
        check_ranges("slots", max_running=(max_running, 1, 100_000), waiting=(waiting, 0, 1_000_000))
        self._max_running, self._max_waiting, self._running = max_running, waiting, 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def full(self) -> bool:
        """Whether the next caller has to wait."""
        return self._running >= self._max_running or self.waiting > 0

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return len(self._queue)

    def resize(self, max_running: int) -> None:
        """Change the limit; callers beyond a lower one stay until they leave."""
        self._max_running = max_running
        self._admit()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[None]:
        """Enter, waiting if necessary. BulkheadFull when the queue is full."""
        if self.full:
            if self.waiting >= self._max_waiting:
                raise BulkheadFull
            await self._wait()
        else:
            self._running += 1
        try:
            yield
        finally:
            self._leave()

    async def _wait(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # cancelled in the moment in which it was admitted
                self._leave()
            elif turn in self._queue:
                self._queue.remove(turn)
            raise

    def _leave(self) -> None:
        self._running -= 1
        self._admit()

    def _admit(self) -> None:
        while self._queue and self._running < self._max_running:
            turn = self._queue.popleft()
            if not turn.done():  # its caller gave up
                self._running += 1
                turn.set_result(None)


class AdmissionQueue:
    """Absorbs bursts and sheds overload: at most `max_running` callers inside, `waiting` queued for at most `wait_s`.

    A queue that has not been empty for `overload_s` is an overload: until `calm_s` have passed without one, nobody may start
    to queue, since a standing queue only delays every answer (Nichols and Jacobson, Controlling queue delay, 2012). clock:
    monotonic, in seconds.
    """

    def __init__(
        self,
        *,
        max_running: int,
        waiting: int,
        wait_s: float,
        overload_s: float,
        calm_s: float,
        clock: Callable[[], float],
    ) -> None:
        check_ranges(
            "admission", wait_s=(wait_s, 0.0, 60.0), overload_s=(overload_s, 0.0, 60.0), calm_s=(calm_s, 0.0, 3_600.0)
        )
        self._bulkhead = Bulkhead(max_running=max_running, waiting=waiting)
        self._wait_s, self._overload_s, self._calm_s, self._clock = wait_s, overload_s, calm_s, clock
        self._empty_at = self._calm_at = clock()

    @property
    def full(self) -> bool:
        """Whether the next caller has to wait."""
        return self._bulkhead.full

    def resize(self, max_running: int) -> None:
        self._bulkhead.resize(max_running)

    @asynccontextmanager
    async def admitted(self, most_s: float | None = None) -> AsyncIterator[None]:
        """Enter, waiting if necessary. BulkheadFull when nobody may queue or the wait timed out.

        most_s: longest wait of this caller, None for that of the queue.
        """
        if self._overloaded():
            raise BulkheadFull
        own = most_s is not None and most_s < self._wait_s
        slot = self._bulkhead.acquire()
        try:
            async with asyncio.timeout(most_s if own else self._wait_s):
                await slot.__aenter__()
        except TimeoutError:
            if not own:
                self._calm_at = self._clock() + self._calm_s
            raise BulkheadFull from None
        try:
            yield
        finally:
            await slot.__aexit__(None, None, None)

    def _overloaded(self) -> bool:
        """Whether a caller that cannot enter at once is rejected."""
        now = self._clock()
        if not self._bulkhead.waiting:
            self._empty_at = now
        if not self._bulkhead.full:
            return False
        if now - self._empty_at > self._overload_s:
            self._calm_at = now + self._calm_s
        return now < self._calm_at
