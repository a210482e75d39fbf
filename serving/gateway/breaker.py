"""Circuit breaker: what fails too often is left alone for a while, then tried by one caller (Nygard, Release It!, 2007)."""

from collections import deque
from collections.abc import Callable
from typing import Literal

from recsys.errors import check_ranges

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Guards one dependency. `allow` before every call, then exactly one of `succeeded`, `failed` and `withdrawn`.

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

    @property
    def state(self) -> State:
        if self._opened is None:
            return "closed"
        return "half-open" if self._clock() >= self._opened + self._pause else "open"

    def allow(self) -> bool:
        """Whether a call may be made now; half-open, it is the one that decides."""
        state = self.state
        if state == "closed":
            return True
        if state == "open" or self._probing:
            return False
        self._probing = True
        return True

    def succeeded(self) -> None:
        if self._opened is None:
            self._outcomes.append(True)
        elif self._probing:
            self._probing, self._opened, self._pause = False, None, self._first_pause
            self._outcomes.clear()

    def failed(self) -> None:
        """Also for what did not answer in time."""
        if self._opened is None:
            self._outcomes.append(False)
            if self._outcomes.count(False) >= self._failures:
                self._opened = self._clock()
        elif self._probing:
            self._probing, self._opened = False, self._clock()
            self._pause = min(2 * self._pause, self._longest)

    def withdrawn(self) -> None:
        """The call was allowed and not made."""
        self._probing = False
