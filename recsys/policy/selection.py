"""Greedy selection of slates, position by position: quotas decide which columns are allowed, the score decides among them.

Compiled by numba, one query at a time, so a query gets the same slate in any batch.

Shapes: B queries of a batch, C columns of the pool, K positions, Q quotas, G groups of an item, F floors, D dim of the vectors,
V values of a category.
"""

from dataclasses import dataclass

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

UNRESTRICTED = -1
"""replaces the bit mask of quotas that may be relaxed: greedy choice without a feasibility check"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EligiblePool:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLimits:
    """Quotas of a batch as arrays."""

    bits: np.ndarray
    """[Q] int64, a power of two each, the earlier quota the higher one"""
    limits: np.ndarray
    """[Q] int64"""
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
            limits=nothing,
            tops=nothing,
            active=np.empty((size, 0), dtype=bool),
            group_quota=nothing.astype(np.int32),
            groups=np.empty((size, columns, 0), dtype=np.int32),
            floors=nothing,
            satisfies=np.empty((size, columns, 0), dtype=bool),
            item_violations=np.zeros((size, columns), dtype=np.int64),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplorationDraws:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
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
    _fill_slates(
        (pool.eligible, pool.pinned, pool.sizes),
        (
            *(limits.bits, limits.limits, limits.tops, limits.active, limits.group_quota, limits.groups),
            *(limits.floors, limits.satisfies, limits.item_violations),
        ),
        (
            *(scoring.mode, scoring.window, scoring.trade_off, scoring.relevance, scoring.units, scoring.shares),
            scoring.target_shares,
        ),
        (draws.mode, draws.rate, draws.first, draws.uniforms, draws.normals, draws.score_std),
        (selection.columns, selection.propensities, selection.explored, selection.relaxed, selection.skipped),
    )
    return selection


@compiled()
def _fill_slates(pool, limits, scoring, draws, selection):
    """Fill greedily; where a quota was relaxed, fill again with feasibility checks, then search by backtracking.

    The repairs are skipped under exploration: whether they run would depend on the draws of all positions, and the
    propensity of one position would no longer be exact.
    """
    for b in range(len(pool[2])):
        floor_deficit, unavoidable = initial_floor_deficit(b, pool, limits)
        counts, pin_violations = count_pinned(b, pool, limits)
        unavoidable |= pin_violations
        relaxed = _fill(b, pool, limits, scoring, draws, selection, counts.copy(), floor_deficit.copy(), UNRESTRICTED)
        if relaxed and draws[0] == NO_EXPLORATION:
            attainable = complete_constraint_first(
                b, 0, pool, limits, pool[0][b].copy(), counts.copy(), floor_deficit.copy()
            )
            if attainable < relaxed:
                selection[4][b] = 0
                relaxed = _fill(
                    b, pool, limits, scoring, draws, selection, counts.copy(), floor_deficit.copy(), attainable
                )
            if relaxed and search_feasible_slate(b, pool, limits, counts.copy(), floor_deficit.copy(), selection[0][b]):
                _sort_by_utility(b, pool[2][b], pool, limits, selection[0])
                relaxed = _recount_skipped(b, pool, limits, selection, counts, floor_deficit)
        selection[3][b] = unavoidable | relaxed
        if scoring[0] == MAX_SUM and draws[0] == NO_EXPLORATION:
            _sort_by_utility(b, scoring[1], pool, limits, selection[0])


@compiled()
def _recount_skipped(b, pool, limits, selection, counts, floor_deficit):
    """Recompute, for a slate found by backtracking, the skipped columns; return the bits that it relaxes."""
    eligible, pinned, sizes = pool
    free, num, relaxed = eligible[b].copy(), eligible.shape[1], 0
    violations, infeasibility = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=np.int64)
    scores = -1.0 * np.arange(num)
    full, capped = np.zeros(len(counts), dtype=np.int64), np.zeros(num, dtype=np.int64)
    selection[4][b] = 0
    for position in range(sizes[b]):
        if pinned[b, position] < 0:
            chosen = selection[0][b, position]
            find_violations(b, position, pool, limits, counts, floor_deficit, full, capped, violations, infeasibility)
            relaxed |= violations[chosen]
            mark_skipped(chosen, free, violations, scores, selection[4][b])
            place_item(b, position, chosen, limits, free, counts, floor_deficit)
    return relaxed


@compiled()
def _sort_by_utility(b, window, pool, limits, columns):
    """Sort the free positions of the window by falling utility, within segments between the tops of active quotas.

    An item that left the top of a quota, or entered it, would change what the quota counts.
    """
    pinned, end, start = pool[1], min(window, pool[2][b]), 0
    while start < end:
        stop = end
        for quota in range(len(limits[2])):
            if limits[3][b, quota] and start < limits[2][quota] < stop:
                stop = limits[2][quota]
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
    eligible, pinned, sizes = pool
    mode, window, trade_off, relevance, units, shares, target_shares = scoring
    draw_mode, rate, first, uniforms, normals, score_std = draws
    columns, propensities, explored, _, skipped = selection
    free, num, relaxed = eligible[b].copy(), eligible.shape[1], 0
    violations, infeasibility, scores = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=np.int64), np.empty(num)
    full, capped = np.zeros(len(counts), dtype=np.int64), np.zeros(num, dtype=np.int64)
    allowed, remaining = free.copy(), free.copy()
    remaining[pinned[b][pinned[b] >= 0]] = True
    state = initial_state(mode, units, shares, window, num, trade_off, relevance[b])
    for position in range(sizes[b]):
        chosen = pinned[b, position]
        if chosen < 0:
            find_violations(b, position, pool, limits, counts, floor_deficit, full, capped, violations, infeasibility)
            diverse = mode != PLAIN and position < window
            score_columns(b, diverse, mode, trade_off, relevance, target_shares, shares, state, scores)
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
            elif draw_mode != NO_EXPLORATION and position >= first:
                _feasible_as_best(best, free, violations, infeasibility, allowed)
                compared = noise = scores if diverse else relevance[b]
                normal = compared
                if draw_mode == THOMPSON:
                    normal = normals[b, position]
                    compared, noise = noisy_scores(diverse, mode, trade_off, compared, score_std[b])
                chosen = sample(draw_mode, rate, allowed, compared, best, uniforms[b, position], noise, normal)
                propensities[b, position] = propensity(draw_mode, rate, allowed, compared, best, chosen, noise)
                explored[b, position] = chosen != best
            relaxed |= violations[chosen]
            mark_skipped(chosen if attainable != UNRESTRICTED else best, free, violations, scores, skipped[b])
            place_item(b, position, chosen, limits, free, counts, floor_deficit)
        columns[b, position] = chosen
        if mode != PLAIN and position < window:
            remaining[chosen] = False
            add_to_slate(b, chosen, mode, units, shares, remaining, state)
    return relaxed


@compiled()
def _feasible_as_best(best, free, violations, infeasibility, allowed):
    """Write into allowed [C] bool the free columns with the violations of the best: exploration never costs a rule."""
    for c in range(len(free)):
        allowed[c] = free[c] and violations[c] == violations[best] and infeasibility[c] == infeasibility[best]
