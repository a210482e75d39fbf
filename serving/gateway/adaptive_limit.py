"""Limit of concurrent slates that follows what the machine can answer in time.

More slates at once than the cores can make within the budget make all of them late, and none comes from the models. The limit
rises by one with every round of quick slates and falls by a share with a late one: additive increase, multiplicative decrease
(Chiu and Jain, Analysis of the increase and decrease algorithms for congestion avoidance, 1989). In between it stays, so that
the search for more costs no late slates.
"""

from collections.abc import Callable

from recsys.errors import check_ranges
from serving.gateway.bulkhead import AdmissionQueue

DECREASE = 0.7
QUICK = 0.4
"""share of the budget within which a slate is quick; the models have some more than half of it"""


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
        queue.resize(first)

    @property
    def value(self) -> int:
        return int(self._limit)

    def observe(self, *, seconds: float, late: bool) -> None:
        """Count one slate. The limit rises only in full use: what an idle machine answers in time says nothing about more."""
        now = self._clock()
        if late and now >= self._held_until:
            self._held_until = now + self._budget_s
            self._limit = max(self._least, self._limit * DECREASE)
        elif not late and seconds <= QUICK * self._budget_s and self._queue.full:
            self._limit = min(self._most, self._limit + 1 / self._limit)
        self._queue.resize(self.value)
