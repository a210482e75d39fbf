"""Greedy selection of slates, position by position: quotas decide which columns are allowed, the score decides among them.

Compiled by numba, one query at a time, so a query gets the same slate in any batch.

Shapes: B queries of a batch, C columns of the pool, K positions, Q quotas, G groups of an item, F floors, D dim of the vectors,
V values of a category.
"""

from typing import Any, NamedTuple

import numpy as np

from recsys.jit import compiled
from recsys.policy.backtracking import search_feasible_slate
from recsys.policy.constraint_tracking import (
    best_column,
    choose_feasible,
    complete_constraint_first,
    count_pinned,
    find_violations,
    initial_floor_deficit,
    mark_skipped,
    place_item,
)
from recsys.policy.diversity_scores import MAX_SUM, PLAIN, add_to_slate, initial_state, noisy_scores, score_columns
from recsys.policy.sampling import NO_EXPLORATION, THOMPSON, propensity, sample

# numpy's numbers, not Python's: numba compiles a function once more for each literal that it is called with
UNRESTRICTED = np.int64(-1)
"""replaces the bit mask of quotas that may be relaxed: greedy choice without a feasibility check"""
FIRST = np.int64(0)
"""position"""


class EligiblePool(NamedTuple):
    """Eligible items of each query of a batch. Columns are in utility order: utility falling, then row rising."""

    rows: np.ndarray
    """[B, C] int64, row of the item in the catalogue, PAD where there is none"""
    utility: np.ndarray
    """[B, C] float64, NaN where unknown"""
    eligible: np.ndarray
    """[B, C] bool, False also for the items of pins"""
    pinned: np.ndarray
    """[B, K] int64, column pinned at the position, -1 where the position is free"""
    sizes: np.ndarray
    """[B] int64, positions to fill, at most the number of eligible columns and pins"""


class QuotaLimits(NamedTuple):
    """Quotas of a batch as arrays."""

    bits: np.ndarray
    """[Q] int64, a power of two each, the earlier quota the higher one"""
    numbers: np.ndarray
    """[Q] int64, items that a cap allows or a floor wants"""
    tops: np.ndarray
    """[Q] int64, number of first positions that each counts in"""
    active: np.ndarray
    """[B, Q] bool"""
    group_quota: np.ndarray
    """[number of groups] int32, the cap of each group"""
    groups: np.ndarray
    """[B, C, G] int32, groups that an item counts in, -1 for none"""
    floors: np.ndarray
    """[F] int64, the quotas that are floors"""
    satisfies: np.ndarray
    """[B, C, F] bool, items that a floor counts"""
    item_violations: np.ndarray
    """[B, C] int64, bits of the quotas that an item breaks at any position"""

    @staticmethod
    def none(size: int, columns: int) -> "QuotaLimits":
        nothing = np.empty(0, dtype=np.int64)
        return QuotaLimits(
            bits=nothing,
            numbers=nothing,
            tops=nothing,
            active=np.empty((size, 0), dtype=bool),
            group_quota=nothing.astype(np.int32),
            groups=np.empty((size, columns, 0), dtype=np.int32),
            floors=nothing,
            satisfies=np.empty((size, columns, 0), dtype=bool),
            item_violations=np.zeros((size, columns), dtype=np.int64),
        )


class Scoring(NamedTuple):
    """Inputs of the diversity scores within the window; positions behind it follow the utility order."""

    mode: int
    window: int
    trade_off: float
    relevance: np.ndarray
    """[B, C] float64, from 0; negative where the utility is unknown"""
    spans: np.ndarray
    """[B] float64, utility difference of one unit of relevance"""
    units: np.ndarray
    """[B, C, D] float32 of length 1 or 0, for MMR and DPP"""
    shares: np.ndarray
    """[B, C, V] float32, values of each item, for PROPORTIONS"""
    target_shares: np.ndarray
    """[B, V] float32, shares of the values in the user's history, all 0 without one"""


class ExplorationDraws(NamedTuple):
    """Exploration mode and the random numbers of a batch."""

    mode: int
    rate: float
    """probability of a uniform draw (EPSILON), or temperature (SOFTMAX)"""
    first: int
    """positions before this one are never explored"""
    uniforms: np.ndarray
    """[B, K, 2] float64"""
    normals: np.ndarray
    """[B, K, C] float64, for THOMPSON"""
    score_std: np.ndarray
    """[B, C] float64, standard deviations of the relevance, for THOMPSON"""

    @staticmethod
    def none(size: int, num_positions: int) -> "ExplorationDraws":
        return ExplorationDraws(
            mode=NO_EXPLORATION,
            rate=0.0,
            first=0,
            uniforms=np.empty((size, num_positions, 2)),
            normals=np.empty((size, 0, 0)),
            score_std=np.zeros((size, 0)),
        )


class Selection(NamedTuple):
    """Columns of the pool by position, with propensities."""

    columns: np.ndarray
    """[B, K] int64, -1 beyond the size of the slate"""
    propensities: np.ndarray
    """[B, K] float64, probability of this column at this position given those above; 1 for pins and without exploration"""
    explored: np.ndarray
    """[B, K] bool, where the sampled column differs from the best"""
    relaxed: np.ndarray
    """[B] int64, bits of the quotas that were relaxed"""
    skipped: np.ndarray
    """[B, C] int64, bits of the quotas that cost the item a position"""


def select(pool: EligiblePool, limits: QuotaLimits, scoring: Scoring, draws: ExplorationDraws) -> Selection:
    """Fill the slates of a batch."""
    size, columns = pool.rows.shape
    num_positions = pool.pinned.shape[1]
    selection = Selection(
        columns=np.full((size, num_positions), -1, dtype=np.int64),
        propensities=np.ones((size, num_positions)),
        explored=np.zeros((size, num_positions), dtype=bool),
        relaxed=np.zeros(size, dtype=np.int64),
        skipped=np.zeros((size, columns), dtype=np.int64),
    )
    _fill_slates(compact(pool), compact(limits), compact(scoring), compact(draws), selection)
    return selection


def compact(arrays: Any) -> Any:
    """Return a named tuple whose arrays are contiguous and writeable.

    numba compiles the whole selection anew, for half a minute, for each combination of layouts that comes.
    """
    return arrays._make(
        np.require(one, requirements=("C", "W"))
        if isinstance(one, np.ndarray) and not (one.flags.c_contiguous and one.flags.writeable)
        else one
        for one in arrays
    )


@compiled()
def _fill_slates(pool, limits, scoring, draws, selection):
    """Fill greedily; where a quota was relaxed, fill again with feasibility checks, then search by backtracking.

    The repairs are skipped under exploration: whether they run would depend on the draws of all positions, and the
    propensity of one position would no longer be exact.
    """
    for b in range(len(pool.sizes)):
        # each fill changes counts and deficits in place, so every attempt begins with copies of the first ones
        floor_deficit, unavoidable = initial_floor_deficit(b, pool, limits)
        counts, pin_violations = count_pinned(b, pool, limits)
        unavoidable |= pin_violations
        relaxed = _fill(b, pool, limits, scoring, draws, selection, counts.copy(), floor_deficit.copy(), UNRESTRICTED)
        if relaxed and draws.mode == NO_EXPLORATION:
            # bits compare as integers: a smaller number relaxes less important rules
            attainable = complete_constraint_first(
                b, FIRST, pool, limits, pool.eligible[b].copy(), counts.copy(), floor_deficit.copy()
            )
            if attainable < relaxed:
                selection.skipped[b] = 0
                relaxed = _fill(
                    b, pool, limits, scoring, draws, selection, counts.copy(), floor_deficit.copy(), attainable
                )
            if relaxed and search_feasible_slate(
                b, pool, limits, counts.copy(), floor_deficit.copy(), selection.columns[b]
            ):
                _sort_by_utility(b, pool.sizes[b], pool, limits, selection.columns)
                relaxed = _recount_skipped(b, pool, limits, selection, counts, floor_deficit)
        selection.relaxed[b] = unavoidable | relaxed
        if scoring.mode == MAX_SUM and draws.mode == NO_EXPLORATION:
            _sort_by_utility(b, scoring.window, pool, limits, selection.columns)


@compiled()
def _recount_skipped(b, pool, limits, selection, counts, floor_deficit):
    """Recompute, for a slate found by backtracking, the skipped columns; return the bits that it relaxes."""
    free, num, relaxed = pool.eligible[b].copy(), pool.eligible.shape[1], 0
    violations, infeasibility = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=np.int64)
    # columns are in utility order, so the negative index is a score of that order
    scores = -1.0 * np.arange(num)
    full, capped = np.zeros(len(counts), dtype=np.int64), np.zeros(num, dtype=np.int64)
    selection.skipped[b] = 0
    for position in range(pool.sizes[b]):
        if pool.pinned[b, position] < 0:
            chosen = selection.columns[b, position]
            find_violations(b, position, pool, limits, counts, floor_deficit, full, capped, violations, infeasibility)
            relaxed |= violations[chosen]
            mark_skipped(chosen, free, violations, scores, selection.skipped[b])
            place_item(b, position, chosen, limits, free, counts, floor_deficit)
    return relaxed


@compiled()
def _sort_by_utility(b, window, pool, limits, columns):
    """Sort the free positions of the window by falling utility, within segments between the tops of active quotas.

    An item that left the top of a quota, or entered it, would change what the quota counts.
    """
    pinned, end, start = pool.pinned, min(window, pool.sizes[b]), 0
    while start < end:
        stop = end
        for quota in range(len(limits.tops)):
            if limits.active[b, quota] and start < limits.tops[quota] < stop:
                stop = limits.tops[quota]
        for position in range(start, stop):
            for later in range(position + 1, stop):
                held = pinned[b, position] >= 0 or pinned[b, later] >= 0
                if not held and columns[b, later] < columns[b, position]:
                    columns[b, position], columns[b, later] = columns[b, later], columns[b, position]
        start = stop


@compiled()
def _fill(b, pool, limits, scoring, draws, selection, counts, floor_deficit, attainable):
    """Fill one slate greedily and return the bits of relaxed quotas.

    attainable: bits that a constraint-first fill relaxes; no choice may relax more. UNRESTRICTED skips the check.
    """
    pinned, mode, relevance = pool.pinned, scoring.mode, scoring.relevance
    free, num, relaxed = pool.eligible[b].copy(), pool.eligible.shape[1], 0
    violations, infeasibility, scores = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=np.int64), np.empty(num)
    full, capped = np.zeros(len(counts), dtype=np.int64), np.zeros(num, dtype=np.int64)
    allowed, remaining = free.copy(), free.copy()
    # pinned items are not free, but the items above a position may be compared with them later
    remaining[pinned[b][pinned[b] >= 0]] = True
    state = initial_state(b, num, scoring)
    for position in range(pool.sizes[b]):
        chosen = pinned[b, position]
        if chosen < 0:
            find_violations(b, position, pool, limits, counts, floor_deficit, full, capped, violations, infeasibility)
            # behind the window the order is that of utility, whatever the diversity
            diverse = mode != PLAIN and position < scoring.window
            score_columns(b, diverse, scoring, state, scores)
            best = best_column(free, violations, infeasibility, scores)
            chosen = best
            if attainable != UNRESTRICTED:
                chosen = choose_feasible(
                    b,
                    position,
                    pool,
                    limits,
                    free,
                    counts,
                    floor_deficit,
                    violations,
                    infeasibility,
                    scores,
                    attainable,
                )
            elif draws.mode != NO_EXPLORATION and position >= draws.first:
                _feasible_as_best(best, free, violations, infeasibility, allowed)
                compared = noise = scores if diverse else relevance[b]
                normal = compared
                if draws.mode == THOMPSON:
                    normal = draws.normals[b, position]
                    compared, noise = noisy_scores(diverse, mode, scoring.trade_off, compared, draws.score_std[b])
                chosen = sample(
                    draws.mode, draws.rate, allowed, compared, best, draws.uniforms[b, position], noise, normal
                )
                selection.propensities[b, position] = propensity(
                    draws.mode, draws.rate, allowed, compared, best, chosen, noise
                )
                selection.explored[b, position] = chosen != best
            relaxed |= violations[chosen]
            mark_skipped(chosen if attainable != UNRESTRICTED else best, free, violations, scores, selection.skipped[b])
            place_item(b, position, chosen, limits, free, counts, floor_deficit)
        selection.columns[b, position] = chosen
        if mode != PLAIN and position < scoring.window:
            remaining[chosen] = False
            add_to_slate(b, chosen, scoring, remaining, state)
    return relaxed


@compiled()
def _feasible_as_best(best, free, violations, infeasibility, allowed):
    """Write into allowed [C] bool the free columns with the violations of the best: exploration never costs a rule."""
    for c in range(len(free)):
        allowed[c] = free[c] and violations[c] == violations[best] and infeasibility[c] == infeasibility[best]
