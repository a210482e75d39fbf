"""The slates of a batch with all that they were made from.

Shapes: B queries, C candidates and the items of pins, K places, R rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.contracts import Candidates, Query
from recsys.jit import compiled
from recsys.policy.compiled import Applied
from recsys.policy.selection import Pool, Selection

UNSURE = "exploration:no-deviations"
"""Thompson sampling was asked for and nobody said how sure the ranker is: the best stands everywhere"""
UNRANKED = "rank"
"""no probabilities came: the retrieval score is the utility"""
NOT_FINITE = "value:not-finite"
"""an item had no finite utility and went to the end"""
RELAXED = "rules:relaxed:"
"""before the name of a cap, floor or frequency that could not be kept"""
SHORT = "candidates:short"
"""fewer items than asked for"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Candidates in plain order, utility falling, then row rising, and behind them the items of pins: [B, C] each."""

    applied: Applied
    """of the candidates as they came"""
    discounts: np.ndarray | None
    """float64, what the popularity dial made of the utilities of the candidates as they came; None where it is off"""
    order: np.ndarray
    """int64, index among the candidates as they came and the items of pins behind them"""
    rows: np.ndarray
    utility: np.ndarray
    """float64, NaN where unknown"""
    spread: np.ndarray | None
    """float64, standard deviation of the utility, for Thompson sampling; None where nobody knows or asks"""
    offered: np.ndarray
    """bool, by a source"""
    showable: np.ndarray
    """bool, neither removed by a rule nor met before nor excluded by the request"""
    holds: np.ndarray
    """[B, C, R] bool, conditions of the rules"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Slates, and what they were made from."""

    queries: Sequence[Query]
    candidates: Candidates
    probabilities: np.ndarray | None
    unsure: bool
    """exploration had to be left out, see UNSURE"""
    unknown: Sequence[Sequence[str]]
    """[B] flags of what queries hide and the catalogue does not have"""
    offer: Offer
    pool: Pool
    selection: Selection

    def degraded(self, index: int, relaxed: Sequence[str]) -> tuple[str, ...]:
        """What went wrong with one slate, each said once."""
        pool, k = self.pool, self.queries[index].k
        happened = {
            UNRANKED: self.probabilities is None,
            UNSURE: self.unsure,
            NOT_FINITE: bool(np.isnan(pool.utility[index][pool.eligible[index]]).any()),
            SHORT: bool(pool.sizes[index] < k),
        }
        reasons = [reason for reason, holds in happened.items() if holds]
        yielded = [RELAXED + name for name in relaxed]
        return tuple(dict.fromkeys([*self.candidates.degraded[index], *reasons, *self.unknown[index], *yielded]))


def plain_order(rows: np.ndarray, utility: np.ndarray, num_candidates: int) -> np.ndarray:
    """[B, C + P] the candidates by falling utility, then rising row, unknown utilities last; pins stay behind them."""
    order = np.empty(rows.shape, dtype=np.int64)
    _sort(rows, utility, num_candidates, order)
    return order


@compiled()
def _sort(rows, utility, num_candidates, order):
    for b in range(len(rows)):
        falling = np.where(np.isnan(utility[b]), np.inf, -utility[b])
        own = np.argsort(falling, kind="mergesort")
        start = 0
        for stop in range(1, num_candidates + 1):
            if stop == num_candidates or falling[own[stop]] != falling[own[start]]:
                if stop - start > 1:
                    tied = own[start:stop].copy()
                    own[start:stop] = tied[np.argsort(rows[b][tied], kind="mergesort")]
                start = stop
        order[b, :num_candidates] = own
        for column in range(num_candidates, rows.shape[1]):
            order[b, column] = column
