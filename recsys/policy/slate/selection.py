"""Greedy selection of slates, position by position: quotas decide which columns are allowed, the score decides among them.

Compiled by numba, one query at a time, so a query gets the same slate in any batch.

Shapes: B queries of a batch, C columns of the pool, K positions, Q quotas, G groups of an item, F floors, D dim of the vectors,
V values of a category.
"""

from typing import NamedTuple

import numpy as np

from recsys.jit import compiled
from recsys.policy.diversity.diversity import ADD, NOISE, SCORE, START, Diversity, DiversityState, Scoring
from recsys.policy.exploration.exploration import PROPENSITY, SAMPLE, Exploration, ExplorationDraws
from recsys.policy.pool import EligiblePool, compact
from recsys.policy.slate.backtracking import search_feasible_slate
from recsys.policy.slate.constraint_tracking import (
    best_column,
    choose_feasible,
    complete_constraint_first,
    copied,
    find_violations,
    first_state,
    mark_skipped,
    no_violations,
    place_item,
)

# numpy's numbers, not Python's: numba compiles a function once more for each literal that it is called with
UNRESTRICTED = np.int64(-1)
"""replaces the bit mask of quotas that may be relaxed: greedy choice without a feasibility check"""
FIRST = np.int64(0)
"""position"""
MAX_FACTOR_ROWS = 1024
"""a factor row a position: beyond it the memory of a request would be tens of MiB"""
start_at, score_at, add_at, noise_at = START.at, SCORE.at, ADD.at, NOISE.at
sample_at, propensity_at = SAMPLE.at, PROPENSITY.at


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


class Kernels(NamedTuple):
    """Addresses of the compiled functions of a diversity and an exploration."""

    start: int
    score: int
    add: int
    noise: int
    sample: int
    propensity: int
    sorts: bool
    """whether the slate is sorted by utility at the end"""


def select(
    pool: EligiblePool,
    limits: QuotaLimits,
    diversity: Diversity,
    scoring: Scoring,
    exploration: Exploration,
    draws: ExplorationDraws,
) -> Selection:
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
    kernels = Kernels(*diversity.kernels(), *exploration.kernels(), sorts=diversity.sorts)
    _fill_slates(compact(pool), compact(limits), compact(scoring), compact(draws), kernels, selection)
    return selection


@compiled()
def _fill_slates(pool, limits, scoring, draws, kernels, selection):
    """Fill greedily; where a quota was relaxed, fill again with feasibility checks, then search by backtracking.

    The repairs are skipped under exploration: whether they run would depend on the draws of all positions, and the
    propensity of one position would no longer be exact.
    """
    for b in range(len(pool.sizes)):
        # a fill changes the state in place, so every attempt begins with a copy of the first one
        state, unavoidable = first_state(b, pool, limits)
        relaxed = _fill(b, pool, limits, scoring, draws, kernels, selection, copied(state), UNRESTRICTED)
        if relaxed and not draws.explores:
            # bits compare as integers: a smaller number relaxes less important rules
            attainable = complete_constraint_first(b, FIRST, pool, limits, copied(state))
            if attainable < relaxed:
                selection.skipped[b] = 0
                relaxed = _fill(b, pool, limits, scoring, draws, kernels, selection, copied(state), attainable)
            if relaxed and search_feasible_slate(b, pool, limits, state, selection.columns[b]):
                _sort_by_utility(b, pool.sizes[b], pool, limits, selection.columns)
                relaxed = _recount_skipped(b, pool, limits, selection, state)
        selection.relaxed[b] = unavoidable | relaxed
        if kernels.sorts and not draws.explores:
            _sort_by_utility(b, scoring.window, pool, limits, selection.columns)


@compiled()
def _recount_skipped(b, pool, limits, selection, state):
    """Recompute, for a slate found by backtracking, the skipped columns; return the bits that it relaxes."""
    violations, relaxed = no_violations(state), 0
    # columns are in utility order, so the negative index is a score of that order
    scores = -1.0 * np.arange(pool.eligible.shape[1])
    selection.skipped[b] = 0
    for position in range(pool.sizes[b]):
        if pool.pinned[b, position] < 0:
            chosen = selection.columns[b, position]
            find_violations(b, position, pool, limits, state, violations)
            relaxed |= violations.bits[chosen]
            mark_skipped(chosen, state.free, violations.bits, scores, selection.skipped[b])
            place_item(b, position, chosen, limits, state)
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
def _fill(b, pool, limits, scoring, draws, kernels, selection, state, attainable):
    """Fill one slate greedily and return the bits of relaxed quotas.

    attainable: bits that a constraint-first fill relaxes; no choice may relax more. UNRESTRICTED skips the check.
    """
    pinned, free, num, relaxed = pool.pinned, state.free, pool.eligible.shape[1], 0
    violations, scores = no_violations(state), np.empty(num)
    allowed, remaining = free.copy(), free.copy()
    # pinned items are not free, but the items above a position may be compared with them later
    remaining[pinned[b][pinned[b] >= 0]] = True
    score, add = score_at(kernels.score), add_at(kernels.add)
    diversity = _diversity_state(b, num, scoring, kernels)
    for position in range(pool.sizes[b]):
        chosen = pinned[b, position]
        if chosen < 0:
            find_violations(b, position, pool, limits, state, violations)
            if position < scoring.window:
                score(b, scoring, diversity, scores)
            else:
                # behind the window the order is that of utility; the pool is in utility order, without its ties
                scores[:] = -1.0 * np.arange(num)
            best = best_column(free, violations, scores)
            chosen = best
            if attainable != UNRESTRICTED:
                chosen = choose_feasible(b, position, pool, limits, state, violations, scores, attainable)
            elif draws.explores and position >= draws.first:
                _feasible_as_best(best, free, violations, allowed)
                chosen = _explore(b, position, scoring, draws, kernels, selection, allowed, scores, best)
            relaxed |= violations.bits[chosen]
            preferred = chosen if attainable != UNRESTRICTED else best
            mark_skipped(preferred, free, violations.bits, scores, selection.skipped[b])
            place_item(b, position, chosen, limits, state)
        selection.columns[b, position] = chosen
        if position < scoring.window:
            remaining[chosen] = False
            add(b, chosen, scoring, remaining, diversity)
            diversity.number[0] += 1
    return relaxed


@compiled()
def _diversity_state(b, num, scoring, kernels):
    """Return the state of a diversity before any item is placed; without a window nothing is kept."""
    columns = num if scoring.window else 0
    state = DiversityState(
        np.zeros((2, columns)),
        np.zeros((min(scoring.window, MAX_FACTOR_ROWS), columns), dtype=np.float32),
        np.zeros(scoring.shares.shape[2]),
        np.zeros(1, dtype=np.int64),
    )
    if scoring.window:
        start = start_at(kernels.start)
        start(b, scoring, state)
    return state


@compiled()
def _explore(b, position, scoring, draws, kernels, selection, allowed, scores, best):
    """Sample a column among those allowed [C], and write its propensity and whether it is another than the best."""
    compared = scores if position < scoring.window else scoring.relevance[b]
    stds, normals = compared, compared
    if draws.normals.shape[2]:
        normals, stds = draws.normals[b, position], draws.score_std[b]
        if position < scoring.window:
            compared, stds = np.empty(len(scores)), np.empty(len(scores))
            noise = noise_at(kernels.noise)
            noise(scoring, scores, draws.score_std[b], compared, stds)
    sample, propensity = sample_at(kernels.sample), propensity_at(kernels.propensity)
    chosen = sample(draws.rate, allowed, compared, best, draws.uniforms[b, position], stds, normals)
    selection.propensities[b, position] = propensity(draws.rate, allowed, compared, best, chosen, stds)
    selection.explored[b, position] = chosen != best
    return chosen


@compiled()
def _feasible_as_best(best, free, violations, allowed):
    """Write into allowed [C] bool the free columns with the violations of the best: exploration never costs a rule."""
    bits, infeasibility = violations.bits, violations.infeasibility
    for c in range(len(free)):
        allowed[c] = free[c] and bits[c] == bits[best] and infeasibility[c] == infeasibility[best]
