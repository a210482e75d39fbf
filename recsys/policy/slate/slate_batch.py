"""The slates of a batch with their inputs.

Shapes: B queries, C candidates and the items of pins, K positions, R rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.contracts import CandidateBatch, Query
from recsys.jit import compiled
from recsys.policy.pool import EligiblePool
from recsys.policy.rules.compiled_rules import RuleEffects
from recsys.policy.slate.selection import Selection

NO_UNCERTAINTY = "exploration:no-deviations"
"""Thompson sampling is configured and the ranker gave no uncertainty: every position has the best item"""
UNRANKED = "rank"
"""no probabilities were given: the retrieval score is the utility"""
NOT_FINITE = "value:not-finite"
"""an item had no finite utility and was sorted last"""
RELAXED = "rules:relaxed:"
"""prefix of the name of a cap, floor or frequency that was relaxed"""
SHORT = "candidates:short"
"""fewer items than requested"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredCandidates:
    """Candidates in utility order (utility falling, then row rising), followed by the items of pins: [B, C] each."""

    applied: RuleEffects
    """for the candidates in their original order"""
    discounts: np.ndarray | None
    """float64 factors of the popularity dial, in the original order; None where it is off"""
    raised: np.ndarray | None
    """bool, moved to a position that is kept for items without events, in the original order; None where none was"""
    order: np.ndarray
    """int64, index into the original candidates followed by the items of pins"""
    rows: np.ndarray
    utility: np.ndarray
    """float64, NaN where unknown"""
    utility_std: np.ndarray | None
    """float64, standard deviation of the utility for Thompson sampling; None without it or without uncertainty"""
    offered: np.ndarray
    """bool, offered by a source"""
    showable: np.ndarray
    """bool, neither removed by a rule nor barred by the history nor excluded by the request"""
    holds: np.ndarray
    """[B, C, R] bool, conditions of the rules"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlateBatch:
    """Slates and their inputs."""

    queries: Sequence[Query]
    candidates: CandidateBatch
    without_uncertainty: bool
    """Thompson sampling was left out, see NO_UNCERTAINTY"""
    unknown: Sequence[Sequence[str]]
    """[B] flags of hidden columns and values that the catalogue does not have"""
    scored: ScoredCandidates
    pool: EligiblePool
    selection: Selection

    def degraded(self, index: int, relaxed: Sequence[str]) -> tuple[str, ...]:
        """Return the distinct degradation flags of one slate; relaxed: names of its relaxed rules."""
        pool, k = self.pool, self.queries[index].k
        flags = {
            UNRANKED: self.candidates.probabilities is None,
            NO_UNCERTAINTY: self.without_uncertainty,
            NOT_FINITE: bool(np.isnan(pool.utility[index][pool.eligible[index]]).any()),
            SHORT: bool(pool.sizes[index] < k),
        }
        reasons = [reason for reason, holds in flags.items() if holds]
        relaxed_rules = [RELAXED + name for name in relaxed]
        return tuple(dict.fromkeys([*self.candidates.degraded[index], *reasons, *self.unknown[index], *relaxed_rules]))


def utility_order(rows: np.ndarray, utility: np.ndarray, num_candidates: int) -> np.ndarray:
    """Return indices [B, C + P]: candidates by falling utility, then rising row, unknown utilities last; then pins."""
    order = np.empty(rows.shape, dtype=np.int64)
    _sort_by_utility(rows, utility, num_candidates, order)
    return order


@compiled()
def _sort_by_utility(rows, utility, num_candidates, order):
    """Write order [B, C + P]. Ties are sorted by row in runs: a slate may not depend on the order that sources give."""
    for b in range(len(rows)):
        falling = np.where(np.isnan(utility[b]), np.inf, -utility[b])
        columns = np.argsort(falling, kind="mergesort")
        start = 0
        for stop in range(1, num_candidates + 1):
            if stop == num_candidates or falling[columns[stop]] != falling[columns[start]]:
                if stop - start > 1:
                    tied = columns[start:stop].copy()
                    columns[start:stop] = tied[np.argsort(rows[b][tied], kind="mergesort")]
                start = stop
        order[b, :num_candidates] = columns
        for column in range(num_candidates, rows.shape[1]):
            order[b, column] = column
