"""Circuit breaker: a failing dependency is not called for a pause, then probed by one call (Nygard, Release It!, 2007)."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from recsys.errors import check_ranges

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Guards one dependency: call `allow` before every call.

    Closed, it allows all calls and opens when `failures` of the last `window` calls failed. Open, it allows none; after
    `pause_s` it is half-open and allows one probe at a time: success closes it, failure opens it again for twice the
    pause, up to `max_pause_s`. Calls begun before it opened are ignored.

    clock: monotonic, in seconds.
    """

    def __init__(
        self, *, window: int, failures: int, pause_s: float, max_pause_s: float, clock: Callable[[], float]
    ) -> None:
        check_ranges(
            "breaker",
            window=(window, 1, 10_000),
            failures=(failures, 1, window),
            pause_s=(pause_s, 1e-3, 3600.0),
            max_pause_s=(max_pause_s, pause_s, 86_400.0),
        )
        self._outcomes: deque[bool] = deque(maxlen=window)
        self._failures, self._first_pause, self._max_pause, self._clock = failures, pause_s, max_pause_s, clock
        self._pause = pause_s
        self._opened: float | None = None
        self._probing = False
        self._generation = 0
        """incremented on opening and on each probe: calls of an earlier generation are ignored"""

    @property
    def state(self) -> State:
        if self._opened is None:
            return "closed"
        return "half-open" if self._clock() >= self._opened + self._pause else "open"

    def allow(self) -> "BreakerCall | None":
        """Return the permitted call, None if there is none; half-open, that call is the probe."""
        state = self.state
        if state == "open" or self._probing:
            return None
        if state == "half-open":
            self._probing, self._generation = True, self._generation + 1
        return BreakerCall(self, self._generation)

    def finish(self, generation: int, succeeded: bool | None) -> None:
        """Record the outcome of a call, None for one that was not made; called by `BreakerCall`."""
        if generation != self._generation:
            return
        if self._probing:
            self._decide(succeeded)
        elif succeeded is not None:
            self._outcomes.append(succeeded)
            if self._outcomes.count(False) >= self._failures:
                self._open()

    def _decide(self, succeeded: bool | None) -> None:
        self._probing = False
        if succeeded:
            self._opened, self._pause = None, self._first_pause
            self._outcomes.clear()
        elif succeeded is not None:
            self._pause = min(2 * self._pause, self._max_pause)
            self._open()

    def _open(self) -> None:
        self._opened, self._generation = self._clock(), self._generation + 1


@dataclass(frozen=True, slots=True)
class BreakerCall:
    """A permitted call; report exactly one outcome."""

    _breaker: Breaker
    _generation: int

    def succeeded(self) -> None:
        self._breaker.finish(self._generation, True)

    def failed(self) -> None:
        """Report a failure or timeout."""
        self._breaker.finish(self._generation, False)

    def cancelled(self) -> None:
        """Report a call that was not made."""
        self._breaker.finish(self._generation, None)
