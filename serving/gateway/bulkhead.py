"""Bounded concurrency, fair among API keys: a limit of running and of waiting callers; others are rejected at once."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from recsys.errors import check_ranges

SHARE = 3
"""a key may run so many requests for each free slot (dynamic thresholds, Choudhury and Hahne, 1998): a busy key alone has three
quarters of the slots, two have three sevenths each, and whoever comes next finds a free one, however slow the others are"""


class BulkheadFull(Exception):
    """The bulkhead and its queue are full."""


class Bulkhead:
    """At most `max_running` callers inside `acquire`, at most `waiting` queued before it.

    Callers of one key are served in order of arrival, keys in turn (Nagle, On packet switches with infinite storage, 1987).
    Callers without a key are not limited to a share.
    """

    def __init__(self, *, max_running: int, waiting: int) -> None:
        check_ranges("slots", max_running=(max_running, 1, 100_000), waiting=(waiting, 0, 1_000_000))
        self._max_running, self._max_waiting = max_running, waiting
        self._running: Counter[str] = Counter()
        self._queues: dict[str, deque[asyncio.Future[bool]]] = {}
        """never empty; the key whose turn is next comes first"""

    @property
    def full(self) -> bool:
        """Whether no slot is free, or somebody waits."""
        return self._free <= 0 or self.waiting > 0

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return sum(map(len, self._queues.values()))

    def waiting_of(self, key: str) -> int:
        """Callers of a key in the queue."""
        return len(self._queues.get(key, ()))

    def blocked(self, key: str) -> bool:
        """Whether the next caller of a key has to wait."""
        return key in self._queues or not self._may_start(key)

    def resize(self, max_running: int) -> None:
        """Change the limit; callers beyond a lower one stay until they leave."""
        self._max_running = max_running
        self._admit()

    @asynccontextmanager
    async def acquire(self, key: str = "") -> AsyncIterator[None]:
        """Enter, waiting if necessary. BulkheadFull when the queue is full, also later, for callers of the longest queue."""
        if self.blocked(key):
            await self._wait(key)
        else:
            self._running[key] += 1
        try:
            yield
        finally:
            self._leave(key)

    @property
    def _free(self) -> int:
        return self._max_running - self._running.total()

    def _may_start(self, key: str) -> bool:
        return self._free > 0 and (not key or self._running[key] < SHARE * self._free)

    async def _wait(self, key: str) -> None:
        self._make_room(key)
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(key, deque()).append(turn)
        try:
            admitted = await turn
        except BaseException:
            self._give_up(key, turn)
            raise
        if not admitted:
            raise BulkheadFull

    def _make_room(self, key: str) -> None:
        """Reject the newest caller of the longest queue for a shorter one (McKenney, Stochastic fairness queueing, 1990)."""
        if self.waiting < self._max_waiting:
            return
        longest = max(self._queues, key=self.waiting_of, default=key)
        if self.waiting_of(longest) <= self.waiting_of(key) + 1:
            raise BulkheadFull
        turn = self._queues[longest].pop()
        if not turn.done():
            turn.set_result(False)

    def _give_up(self, key: str, turn: "asyncio.Future[bool]") -> None:
        if not turn.cancelled() and turn.done() and turn.result():  # cancelled in the moment in which it was admitted
            self._leave(key)
        elif turn in self._queues.get(key, ()):
            self._queues[key].remove(turn)
            if not self._queues[key]:
                del self._queues[key]

    def _leave(self, key: str) -> None:
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]
        self._admit()

    def _admit(self) -> None:
        while (key := next(filter(self._may_start, self._queues), None)) is not None:
            turn = self._next_of(key)
            if not turn.done():  # its caller may have given up
                self._running[key] += 1
                turn.set_result(True)

    def _next_of(self, key: str) -> "asyncio.Future[bool]":
        """Remove and return the oldest caller of a key, whose next turn comes after those of all other keys."""
        queue = self._queues.pop(key)
        turn = queue.popleft()
        if queue:
            self._queues[key] = queue
        return turn


class AdmissionQueue:
    """Absorbs bursts and sheds overload: at most `max_running` callers inside, `waiting` queued for at most `wait_s`.

    A queue of a key that has not been empty for `overload_s` is an overload: until `calm_s` have passed without one, no caller
    of this key may start to queue, since a standing queue only delays every answer (Nichols and Jacobson, Controlling queue
    delay, 2012). Other keys are not concerned. clock: monotonic, in seconds.
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
        self._empty_at: dict[str, float] = {}
        """key with a queue -> when it was empty last"""
        self._calm_at: dict[str, float] = {}

    @property
    def full(self) -> bool:
        """Whether the next caller has to wait."""
        return self._bulkhead.full

    def resize(self, max_running: int) -> None:
        self._bulkhead.resize(max_running)

    @asynccontextmanager
    async def admitted(self, most_s: float | None = None, *, key: str = "") -> AsyncIterator[None]:
        """Enter, waiting if necessary. BulkheadFull when nobody of this key may queue or the wait timed out.

        most_s: longest wait of this caller, None for that of the queue. key: name of the API key.
        """
        if self._overloaded(key):
            raise BulkheadFull
        own = most_s is not None and most_s < self._wait_s
        slot = self._bulkhead.acquire(key)
        try:
            async with asyncio.timeout(most_s if own else self._wait_s):
                await slot.__aenter__()
        except TimeoutError:
            if not own:
                self._bar(key)
            raise BulkheadFull from None
        finally:
            if not self._bulkhead.waiting_of(key):
                self._empty_at.pop(key, None)
        try:
            yield
        finally:
            await slot.__aexit__(None, None, None)

    def _overloaded(self, key: str) -> bool:
        """Whether a caller that cannot enter at once is rejected."""
        if not self._bulkhead.blocked(key):
            return False
        now = self._clock()
        if now - self._empty_at.get(key, now) > self._overload_s:
            self._bar(key)
        if barred := now < self._calm_at.get(key, now):
            return barred
        self._empty_at.setdefault(key, now)
        return False

    def _bar(self, key: str) -> None:
        """Let no caller of a key queue for a while; keys whose time is over are dropped, since callers of tokens are many."""
        now = self._clock()
        self._calm_at = {one: until for one, until in self._calm_at.items() if until > now} | {key: now + self._calm_s}
