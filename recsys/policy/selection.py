"""Filling the places of a slate, one after the other: quotas decide who may stand there, the score who does.

Compiled by numba, one query at a time, so a query gets the same slate in any batch.

Shapes: B queries of a batch, C columns of the pool, K places, Q quotas, G groups of an item, F floors, D dim of the vectors,
V values of a category.
"""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from recsys.policy.draws import NOBODY, THOMPSON, chance, drawn

PLAIN, MMR, DPP, PROPORTIONS = range(4)
SMOOTHING = 0.01
"""share of the wanted proportions in those of a slate, so that their divergence stays finite (Steck 2018)"""


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
    """[B, C] float64, 0 to 1, less where the utility is unknown"""
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
    def none(size: int, places: int, columns: int) -> "Draws":
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
        *(pool.eligible, pool.pinned, pool.sizes),
        *(limits.bits, limits.limits, limits.tops, limits.active, limits.group_quota, limits.groups, limits.floors),
        *(limits.satisfies, limits.burdens),
        *(scoring.mode, scoring.window, scoring.trade_off, scoring.relevance, scoring.units, scoring.shares),
        scoring.wanted,
        *(draws.mode, draws.rate, draws.first, draws.uniforms, draws.normals, draws.deviations),
        *(selection.columns, selection.propensities, selection.explored, selection.relaxed, selection.passed_over),
    )
    return selection


@njit(cache=True)
def _fill_all(
    eligible, pinned, sizes,
    bits, limits, tops, active, group_quota, groups, floors, satisfies, burdens,
    mode, window, trade_off, relevance, units, shares, wanted,
    draw_mode, rate, first, uniforms, normals, deviations,
    columns, propensities, explored, relaxed, passed_over,
):  # fmt: skip
    num = eligible.shape[1]
    free = np.empty(num, dtype=np.bool_)
    masks, excess, scores = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=np.int64), np.empty(num)
    for b in range(len(sizes)):
        free[:] = eligible[b]
        counts = np.zeros(len(group_quota), dtype=np.int64)
        owed = _owed(b, eligible, pinned, sizes, limits, tops, active, floors, satisfies, bits, relaxed)
        _count_pins(b, pinned, tops, active, group_quota, groups, counts, limits, bits, relaxed)
        state = _state(mode, units, shares, window, num, trade_off, relevance[b])
        for place in range(sizes[b]):
            chosen = pinned[b, place]
            if chosen < 0:
                _break(b, place, free, pinned, sizes, bits, limits, tops, active, group_quota, groups, floors, satisfies,
                       burdens, counts, owed, masks, excess)  # fmt: skip
                diverse = mode != PLAIN and place < window
                _score(b, diverse, mode, place, trade_off, relevance, wanted, shares, state, scores)
                best = _best(free, masks, excess, scores)
                chosen = best
                relaxed[b] |= masks[best]
                if draw_mode != NOBODY and place >= first:
                    allowed = free & (masks == masks[best]) & (excess == excess[best])
                    compared = scores if diverse else relevance[b]
                    noise = deviations[b] if draw_mode == THOMPSON else relevance[b]
                    normal = normals[b, place] if draw_mode == THOMPSON else relevance[b]
                    chosen = drawn(draw_mode, rate, allowed, compared, best, uniforms[b, place], noise, normal)
                    propensities[b, place] = chance(draw_mode, rate, allowed, compared, best, chosen, noise)
                    explored[b, place] = chosen != best
                _note(best, free, masks, scores, passed_over[b])
                free[chosen] = False
                for slot in range(groups.shape[2]):
                    group = groups[b, chosen, slot]
                    if group >= 0:
                        counts[group] += 1
                for f in range(len(floors)):
                    if satisfies[b, chosen, f] and place < tops[floors[f]]:
                        owed[f] -= 1
            columns[b, place] = chosen
            if mode != PLAIN and place < window:
                _add(b, chosen, place, mode, window, units, shares, state)


@njit(cache=True)
def _owed(b, eligible, pinned, sizes, limits, tops, active, floors, satisfies, bits, relaxed):
    """[F] items that each floor still lacks when its pins stand; what cannot be had is given up at once."""
    owed = np.zeros(len(floors), dtype=np.int64)
    for f in range(len(floors)):
        quota = floors[f]
        if active[b, quota]:
            places, there = min(tops[quota], sizes[b]), 0
            open_places = 0
            for place in range(places):
                column = pinned[b, place]
                open_places += column < 0
                there += column >= 0 and satisfies[b, column, f]
            available = (eligible[b] & satisfies[b, :, f]).sum()
            owed[f] = limits[quota] - there
            attainable = min(open_places, available)
            if owed[f] > attainable:
                owed[f] = attainable
                relaxed[b] |= bits[quota]
    return owed


@njit(cache=True)
def _count_pins(b, pinned, tops, active, group_quota, groups, counts, limits, bits, relaxed):
    """Pins count in their groups from the beginning."""
    for place in range(pinned.shape[1]):
        column = pinned[b, place]
        if column >= 0:
            for slot in range(groups.shape[2]):
                group = groups[b, column, slot]
                if group >= 0 and place < tops[group_quota[group]]:
                    counts[group] += 1
    for group in range(len(counts)):
        quota = group_quota[group]
        if active[b, quota] and counts[group] > limits[quota]:
            relaxed[b] |= bits[quota]


@njit(cache=True)
def _break(b, place, free, pinned, sizes, bits, limits, tops, active, group_quota, groups, floors, satisfies,
           burdens, counts, owed, masks, excess):  # fmt: skip
    """What each free column would break at this place: bits of quotas, and places that floors then lack together."""
    num_floors = len(floors)
    left = np.zeros(num_floors, dtype=np.int64)
    for f in range(num_floors):
        for later in range(place + 1, min(tops[floors[f]], sizes[b])):
            left[f] += pinned[b, later] < 0
    for c in range(len(free)):
        if not free[c]:
            continue
        mask = burdens[b, c]
        for slot in range(groups.shape[2]):
            group = groups[b, c, slot]
            if group >= 0:
                quota = group_quota[group]
                if place < tops[quota] and active[b, quota] and counts[group] >= limits[quota]:
                    mask |= bits[quota]
        most = 0
        for f in range(num_floors):
            if owed[f] <= 0 or place >= tops[floors[f]]:
                continue
            if owed[f] - satisfies[b, c, f] > left[f]:
                mask |= bits[floors[f]]
            together = -left[f]
            for g in range(num_floors):
                if tops[floors[g]] <= tops[floors[f]] and owed[g] > 0:
                    together += owed[g] - satisfies[b, c, g]
            most = max(most, together)
        masks[c], excess[c] = mask, most


@njit(cache=True)
def _best(free, masks, excess, scores):
    """The column that breaks least, then scores most, then lies first."""
    best = -1
    for c in range(len(free)):
        if free[c] and (
            best < 0
            or masks[c] < masks[best]
            or (masks[c] == masks[best] and excess[c] < excess[best])
            or (masks[c] == masks[best] and excess[c] == excess[best] and scores[c] > scores[best])
        ):
            best = c
    return best


@njit(cache=True)
def _note(best, free, masks, scores, passed_over):
    for c in range(len(free)):
        if free[c] and masks[c] and (scores[c] > scores[best] or (scores[c] == scores[best] and c < best)):
            passed_over[c] |= masks[c]


@njit(cache=True)
def _state(mode, units, shares, window, num, trade_off, relevance):
    """What a mode remembers: (closest [C] | variances [C], factors [window, C], sums [V], qualities [C], number)."""
    rows = min(window, 1024) if mode == DPP else 0
    closest = np.full(num if mode != PLAIN else 0, -math.inf)
    quality = np.empty(num if mode == DPP else 0)
    if mode == DPP:
        strength = min(trade_off / max(1 - trade_off, 1e-9), 60.0)
        for c in range(num):
            quality[c] = math.exp(0.5 * strength * relevance[c])
            closest[c] = 1 + quality[c] ** 2
    return closest, np.zeros((rows, num)), np.zeros(shares.shape[2]), quality, np.zeros(1, dtype=np.int64)


@njit(cache=True)
def _score(b, diverse, mode, place, trade_off, relevance, wanted, shares, state, scores):
    closest, _, sums, _, number = state
    for c in range(len(scores)):
        own = relevance[b, c] * (trade_off if relevance[b, c] >= 0 else 1.0)
        if not diverse:
            scores[c] = -c
        elif mode == MMR:
            scores[c] = own - (1 - trade_off) * closest[c] if number[0] else own
        elif mode == DPP:
            scores[c] = closest[c] if own >= 0 else own
        else:
            scores[c] = own - (1 - trade_off) * _divergence(wanted[b], sums, shares[b, c], number[0])


@njit(cache=True)
def _divergence(wanted, sums, own, number):
    """Kullback-Leibler divergence of the wanted proportions from those of the slate with one more item."""
    total = 0.0
    for v in range(len(wanted)):
        if wanted[v] > 0:
            there = (1 - SMOOTHING) * (sums[v] + own[v]) / (number + 1) + SMOOTHING * wanted[v]
            total += wanted[v] * math.log(wanted[v] / there)
    return total


@njit(cache=True)
def _add(b, chosen, place, mode, window, units, shares, state):
    closest, factors, sums, quality, number = state
    if mode == MMR:
        for c in range(units.shape[1]):
            closest[c] = max(closest[c], _dot(units[b, c], units[b, chosen]))
    elif mode == PROPORTIONS:
        for v in range(len(sums)):
            sums[v] += shares[b, chosen, v]
    elif mode == DPP and number[0] < len(factors):
        _add_to_determinant(b, chosen, units, closest, factors, quality, number[0])
    number[0] += 1


@njit(cache=True)
def _add_to_determinant(b, chosen, units, variances, factors, quality, row):
    """One more row of the Cholesky factor of I + L for every column (fast greedy MAP, Chen et al. 2018)."""
    root = math.sqrt(max(variances[chosen], 1e-12))
    for c in range(units.shape[1]):
        factors[row, c] = quality[c] * quality[chosen] * _dot(units[b, c], units[b, chosen])
    for before in range(row):
        weight = factors[before, chosen]
        for c in range(units.shape[1]):
            factors[row, c] -= weight * factors[before, c]
    for c in range(units.shape[1]):
        factors[row, c] /= root
        variances[c] -= factors[row, c] ** 2


@njit(cache=True, fastmath=True)
def _dot(one, other):
    total = np.float32(0)
    for d in range(len(one)):
        total += one[d] * other[d]
    return total
