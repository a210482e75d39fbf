"""Circuit breaker: what fails too often is left alone for a while, then tried by one caller (Nygard, Release It!, 2007)."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from recsys.errors import check_ranges

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Guards one dependency: `allow` before every call says whether it may be made.

    Closed it lets all calls through and opens when, of the last `window` calls, `failures` or more went wrong. Open it
    lets none through; after `pause_s` it is half-open and lets one through at a time: success closes it, failure opens it
    again for twice the pause, up to `longest_s`. What was begun before it opened does not count any more.

    clock: seconds, rising.
    """

    def __init__(
        self, *, window: int, failures: int, pause_s: float, longest_s: float, clock: Callable[[], float]
    ) -> None:
        check_ranges(
            "breaker",
            window=(window, 1, 10_000),
            failures=(failures, 1, window),
            pause_s=(pause_s, 1e-3, 3600.0),
            longest_s=(longest_s, pause_s, 86_400.0),
        )
        self._outcomes: deque[bool] = deque(maxlen=window)
        self._failures, self._first_pause, self._longest, self._clock = failures, pause_s, longest_s, clock
        self._pause = pause_s
        self._opened: float | None = None
        self._probing = False
        self._era = 0
        """how often it opened or let a probe through: calls of an earlier era do not count"""

    @property
    def state(self) -> State:
        if self._opened is None:
            return "closed"
        return "half-open" if self._clock() >= self._opened + self._pause else "open"

    def allow(self) -> "Call | None":
        """The call that may be made now, None if none may; half-open, it is the one that decides."""
        state = self.state
        if state == "open" or self._probing:
            return None
        if state == "half-open":
            self._probing, self._era = True, self._era + 1
        return Call(self, self._era)

    def end(self, era: int, well: bool | None) -> None:
        """A call of an era went well or did not, or (None) was not made; what `Call` says."""
        if era != self._era:
            return
        if self._probing:
            self._decide(well)
        elif well is not None:
            self._outcomes.append(well)
            if self._outcomes.count(False) >= self._failures:
                self._open()

    def _decide(self, well: bool | None) -> None:
        self._probing = False
        if well:
            self._opened, self._pause = None, self._first_pause
            self._outcomes.clear()
        elif well is not None:
            self._pause = min(2 * self._pause, self._longest)
            self._open()

    def _open(self) -> None:
        self._opened, self._era = self._clock(), self._era + 1


@dataclass(frozen=True, slots=True)
class Call:
    """One call that was allowed; exactly one of the three is said of it."""

    _breaker: Breaker
    _era: int

    def succeeded(self) -> None:
        self._breaker.end(self._era, True)

    def failed(self) -> None:
        """Also for what did not answer in time."""
        self._breaker.end(self._era, False)

    def withdrawn(self) -> None:
        """It was not made."""
        self._breaker.end(self._era, None)
