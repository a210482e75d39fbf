"""Filling the places of a slate, one after the other: quotas decide who may stand there, the score who does.

Compiled by numba, one query at a time, so a query gets the same slate in any batch.

Shapes: B queries of a batch, C columns of the pool, K places, Q quotas, G groups of an item, F floors, D dim of the vectors,
V values of a category.
"""

from dataclasses import dataclass

import numpy as np

from recsys.jit import compiled
from recsys.policy.draws import NOBODY, THOMPSON, chance, drawn
from recsys.policy.keeping import best_column, breaks, completed, guarded, noted, owed_by, pinned_counts, taken
from recsys.policy.scores import MAX_SUM, PLAIN, added, fresh_state, scored, unsure
from recsys.policy.searching import searched

NO_GUARD = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What may be shown to each query of a batch. Columns lie in plain order: utility falling, then row rising."""

    rows: np.ndarray
    """[B, C] int64, row of the item in the catalogue, PAD where there is none"""
    utility: np.ndarray
    """[B, C] float64, NaN where unknown"""
    eligible: np.ndarray
    """[B, C] bool, False also for the items of pins"""
    pinned: np.ndarray
    """[B, K] int64, column that holds the place by a pin, -1 where the place is free"""
    sizes: np.ndarray
    """[B] int64, places to fill, at most as many as there are eligible columns and pins"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The quotas of a batch."""

    bits: np.ndarray
    """[Q] int64, the earlier quota the higher one"""
    limits: np.ndarray
    """[Q] int64"""
    tops: np.ndarray
    """[Q] int64, places that each counts in"""
    active: np.ndarray
    """[B, Q] bool"""
    group_quota: np.ndarray
    """[number of groups] int32, the cap of each group"""
    groups: np.ndarray
    """[B, C, G] int32, groups that an item is counted in, -1 for none"""
    floors: np.ndarray
    """[F] int64, the quotas that are floors"""
    satisfies: np.ndarray
    """[B, C, F] bool, items that a floor counts"""
    burdens: np.ndarray
    """[B, C] int64, bits that an item breaks wherever it stands"""

    @staticmethod
    def none(size: int, columns: int) -> "Limits":
        nothing = np.empty(0, dtype=np.int64)
        return Limits(
            bits=nothing,
            limits=nothing,
            tops=nothing,
            active=np.empty((size, 0), dtype=bool),
            group_quota=nothing.astype(np.int32),
            groups=np.empty((size, columns, 0), dtype=np.int32),
            floors=nothing,
            satisfies=np.empty((size, columns, 0), dtype=bool),
            burdens=np.zeros((size, columns), dtype=np.int64),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How the places of the window are scored; what stands behind them comes in plain order."""

    mode: int
    window: int
    trade_off: float
    relevance: np.ndarray
    """[B, C] float64, from 0, less where the utility is unknown"""
    spans: np.ndarray
    """[B] float64, utility that makes a relevance of 1"""
    units: np.ndarray
    """[B, C, D] float32 of length 1 or 0, for MMR and DPP"""
    shares: np.ndarray
    """[B, C, V] float32, values of each item, for PROPORTIONS"""
    wanted: np.ndarray
    """[B, V] float32, values of the user's history, all 0 where there is none"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """How the choice among those that may stand at a place is drawn."""

    mode: int
    rate: float
    """chance of a uniform draw (EPSILON), or what divides the scores (SOFTMAX)"""
    first: int
    """places before this one are never explored"""
    uniforms: np.ndarray
    """[B, K, 2] float64"""
    normals: np.ndarray
    """[B, K, C] float64, for THOMPSON"""
    deviations: np.ndarray
    """[B, C] float64, standard deviations of the relevance, for THOMPSON"""

    @staticmethod
    def none(size: int, places: int) -> "Draws":
        return Draws(
            mode=NOBODY,
            rate=0.0,
            first=0,
            uniforms=np.empty((size, places, 2)),
            normals=np.empty((size, 0, 0)),
            deviations=np.zeros((size, 0)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which column of the pool stands where."""

    columns: np.ndarray
    """[B, K] int64, -1 beyond the size of the slate"""
    propensities: np.ndarray
    """[B, K] float64, chance of this column at this place given those above it; 1 for pins and without exploration"""
    explored: np.ndarray
    """[B, K] bool, where the draw differs from the best"""
    relaxed: np.ndarray
    """[B] int64, bits of the quotas that could not be kept"""
    passed_over: np.ndarray
    """[B, C] int64, bits of the quotas that cost the item a place"""


def select(pool: Pool, limits: Limits, scoring: Scoring, draws: Draws) -> Selection:
    """Fill every slate."""
    size, columns = pool.rows.shape
    places = pool.pinned.shape[1]
    selection = Selection(
        columns=np.full((size, places), -1, dtype=np.int64),
        propensities=np.ones((size, places)),
        explored=np.zeros((size, places), dtype=bool),
        relaxed=np.zeros(size, dtype=np.int64),
        passed_over=np.zeros((size, columns), dtype=np.int64),
    )
    _fill_all(
        (pool.eligible, pool.pinned, pool.sizes),
        (
            *(limits.bits, limits.limits, limits.tops, limits.active, limits.group_quota, limits.groups),
            *(limits.floors, limits.satisfies, limits.burdens),
        ),
        (
            *(scoring.mode, scoring.window, scoring.trade_off, scoring.relevance, scoring.units, scoring.shares),
            scoring.wanted,
        ),
        (draws.mode, draws.rate, draws.first, draws.uniforms, draws.normals, draws.deviations),
        (selection.columns, selection.propensities, selection.explored, selection.relaxed, selection.passed_over),
    )
    return selection


@compiled()
def _fill_all(pool, limits, scoring, draws, selection):
    """Greedily; a slate in which a quota yields is tried again with an eye on what can still be kept, then searched for.

    Not so where chance has a say: whether it yields would depend on the draws, and no propensity could be exact.
    """
    for b in range(len(pool[2])):
        owed, inevitable = owed_by(b, pool, limits)
        counts, broken = pinned_counts(b, pool, limits)
        inevitable |= broken
        yielded = _fill(b, pool, limits, scoring, draws, selection, counts.copy(), owed.copy(), NO_GUARD)
        if yielded and draws[0] == NOBODY:
            attainable = completed(b, 0, pool, limits, pool[0][b].copy(), counts.copy(), owed.copy())
            if attainable < yielded:
                selection[4][b] = 0
                yielded = _fill(b, pool, limits, scoring, draws, selection, counts.copy(), owed.copy(), attainable)
            if yielded and searched(b, pool, limits, counts.copy(), owed.copy(), selection[0][b]):
                _put_in_order(b, pool[2][b], pool, limits, selection[0])
                yielded = _noted_again(b, pool, limits, selection, counts, owed)
        selection[3][b] = inevitable | yielded
        if scoring[0] == MAX_SUM and draws[0] == NOBODY:
            _put_in_order(b, scoring[1], pool, limits, selection[0])


@compiled()
def _noted_again(b, pool, limits, selection, counts, owed):
    """What was passed over for a slate that is filled, and the bits that yield in it."""
    eligible, pinned, sizes = pool
    free, num, yielded = eligible[b].copy(), eligible.shape[1], 0
    masks, excess, scores = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=np.int64), -1.0 * np.arange(num)
    full, capped = np.zeros(len(counts), dtype=np.int64), np.zeros(num, dtype=np.int64)
    selection[4][b] = 0
    for place in range(sizes[b]):
        if pinned[b, place] < 0:
            chosen = selection[0][b, place]
            breaks(b, place, pool, limits, counts, owed, full, capped, masks, excess)
            yielded |= masks[chosen]
            noted(chosen, free, masks, scores, selection[4][b])
            taken(b, place, chosen, limits, free, counts, owed)
    return yielded


@compiled()
def _put_in_order(b, window, pool, limits, columns):
    """The free places of the window by falling utility; what a quota counted in its top stays in there."""
    pinned, end, start = pool[1], min(window, pool[2][b]), 0
    while start < end:
        stop = end
        for quota in range(len(limits[2])):
            if limits[3][b, quota] and start < limits[2][quota] < stop:
                stop = limits[2][quota]
        for place in range(start, stop):
            for later in range(place + 1, stop):
                held = pinned[b, place] >= 0 or pinned[b, later] >= 0
                if not held and columns[b, later] < columns[b, place]:
                    columns[b, place], columns[b, later] = columns[b, later], columns[b, place]
        start = stop


@compiled()
def _fill(b, pool, limits, scoring, draws, selection, counts, owed, guard):
    """Fill one slate and return the bits that yielded; with a guard no more than these, which a frugal choice attains."""
    eligible, pinned, sizes = pool
    mode, window, trade_off, relevance, units, shares, wanted = scoring
    draw_mode, rate, first, uniforms, normals, deviations = draws
    columns, propensities, explored, _, passed_over = selection
    free, num, yielded = eligible[b].copy(), eligible.shape[1], 0
    masks, excess, scores = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=np.int64), np.empty(num)
    full, capped = np.zeros(len(counts), dtype=np.int64), np.zeros(num, dtype=np.int64)
    allowed, left = free.copy(), free.copy()
    left[pinned[b][pinned[b] >= 0]] = True
    state = fresh_state(mode, units, shares, window, num, trade_off, relevance[b])
    for place in range(sizes[b]):
        chosen = pinned[b, place]
        if chosen < 0:
            breaks(b, place, pool, limits, counts, owed, full, capped, masks, excess)
            diverse = mode != PLAIN and place < window
            scored(b, diverse, mode, trade_off, relevance, wanted, shares, state, scores)
            best = best_column(free, masks, excess, scores)
            chosen = best
            if guard != NO_GUARD:
                chosen = guarded(b, place, pool, limits, free, counts, owed, masks, excess, scores, guard)
            elif draw_mode != NOBODY and place >= first:
                _as_good_as(best, free, masks, excess, allowed)
                compared = noise = scores if diverse else relevance[b]
                normal = compared
                if draw_mode == THOMPSON:
                    normal = normals[b, place]
                    compared, noise = unsure(diverse, mode, trade_off, compared, deviations[b])
                chosen = drawn(draw_mode, rate, allowed, compared, best, uniforms[b, place], noise, normal)
                propensities[b, place] = chance(draw_mode, rate, allowed, compared, best, chosen, noise)
                explored[b, place] = chosen != best
            yielded |= masks[chosen]
            noted(chosen if guard != NO_GUARD else best, free, masks, scores, passed_over[b])
            taken(b, place, chosen, limits, free, counts, owed)
        columns[b, place] = chosen
        if mode != PLAIN and place < window:
            left[chosen] = False
            added(b, chosen, mode, units, shares, left, state)
    return yielded


@compiled()
def _as_good_as(best, free, masks, excess, allowed):
    """Into [C] bool: the free columns that break no more than the best."""
    for c in range(len(free)):
        allowed[c] = free[c] and masks[c] == masks[best] and excess[c] == excess[best]
