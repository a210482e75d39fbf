"""Limit of concurrent slates that follows what the machine can answer in time.

More slates at once than the cores can make within the budget make all of them late, and none comes from the models. The limit
rises by one with every round of quick slates and falls by a share when too many are late: additive increase, multiplicative
decrease (Chiu and Jain, Analysis of the increase and decrease algorithms for congestion avoidance, 1989). Between quick and
late it rises slowly, so that the search for more costs few late slates and a low limit does not stay for good.
"""

from collections import deque
from collections.abc import Callable

from recsys.errors import check_ranges
from serving.gateway.bulkhead import AdmissionQueue

DECREASE = 0.7
QUICK = 0.4
"""share of the budget within which a slate is quick; the models' own share of the budget is .55"""
SLOW_RISE = 0.05
"""rise with a slate that is in time and not quick, relative to a quick one"""
NUM_OUTCOMES, MOST_LATE = 20, 2
"""the limit falls when more than so many of the newest outcomes are late: one slow request says little of the machine"""


class AdaptiveLimit:
    """Sets the limit of a queue from the outcomes of its callers.

    budget_s: of a slate. The limit falls once at most in this time: the others that were in flight are late for the same
    reason. clock: monotonic, in seconds.
    """

    def __init__(
        self, queue: AdmissionQueue, *, first: int, least: int, most: int, budget_s: float, clock: Callable[[], float]
    ) -> None:
        check_ranges(
            "slates_at_once", least=(least, 1, first), first=(first, least, most), budget_s=(budget_s, 0.0, 60.0)
        )
        self._queue, self._least, self._most, self._budget_s, self._clock = queue, least, most, budget_s, clock
        self._limit, self._held_until = float(first), clock()
        self._late: deque[bool] = deque(maxlen=NUM_OUTCOMES)
        queue.resize(first)

    @property
    def value(self) -> int:
        return int(self._limit)

    def in_time(self, seconds: float) -> None:
        """Count a slate of the models. The limit rises only in full use: an idle machine's speed says nothing about more."""
        self._late.append(False)
        if self._queue.full:
            rise = 1.0 if seconds <= QUICK * self._budget_s else SLOW_RISE
            self._set(min(self._most, self._limit + rise / self._limit))

    def late(self) -> None:
        """Count a slate for which the models had their full share of the budget, and which they did not make."""
        self._late.append(True)
        now = self._clock()
        if now >= self._held_until and sum(self._late) > MOST_LATE:
            self._held_until = now + self._budget_s
            self._late.clear()
            self._set(max(self._least, self._limit * DECREASE))

    def _set(self, limit: float) -> None:
        self._limit = limit
        self._queue.resize(self.value)
