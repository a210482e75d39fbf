"""Scores of the columns at one place of the window: relevance against likeness to what stands above.

Compiled by numba. Shapes: B queries, C columns of the pool, D dim of the vectors, V values of a category.
"""

import math

import numpy as np

from recsys.jit import compiled

PLAIN, MMR, DPP, PROPORTIONS, MAX_SUM = range(5)
MOST_EXPONENT = 600.0
"""beyond it more relevance does not count in determinants, so that they stay finite"""
SMOOTHING = 0.01
"""share of the wanted proportions in those of a slate, so that their divergence stays finite (Steck 2018)"""


@compiled()
def fresh_state(mode, units, shares, window, num, trade_off, relevance):
    """What a mode remembers: (closest, summed cosines or variances [C], factors [window, C], sums [V], q^2 [C], number).

    Variances and factors are those of I + L divided by the qualities q, so that all of them are about 1.
    """
    rows = min(window, 1024) if mode == DPP else 0
    closest = np.full(num if mode != PLAIN else 0, 0.0 if mode == MAX_SUM else -math.inf)
    quality = np.empty(num if mode == DPP else 0)
    if mode == DPP:
        for c in range(num):
            quality[c] = math.exp(min(_strength(trade_off) * relevance[c], MOST_EXPONENT))
            closest[c] = 1 + 1 / quality[c]
    factors = np.zeros((rows, num), dtype=np.float32)
    return closest, factors, np.zeros(shares.shape[2]), quality, np.zeros(1, dtype=np.int64)


@compiled()
def _strength(trade_off):
    """What relevance is worth in the logarithm of q^2."""
    return min(trade_off / max(1 - trade_off, 1e-9), 60.0)


@compiled()
def unsure(diverse, mode, trade_off, scores, deviations):
    """Scores [C] and the deviations that those of the relevance give them; of determinants the logarithms, where a
    step of relevance moves score q^2 v + 1 by the share of q^2 v in it. What is below 0 has no relevance to be unsure of.
    """
    if not diverse:
        return scores, deviations
    if mode != DPP:
        return scores, trade_off * deviations
    compared, noise = scores.copy(), np.zeros(len(scores))
    for c in range(len(scores)):
        if scores[c] > 0:
            compared[c] = math.log(scores[c])
            noise[c] = _strength(trade_off) * deviations[c] * max(0.0, 1 - 1 / scores[c])
    return compared, noise


@compiled()
def scored(b, diverse, mode, trade_off, relevance, wanted, shares, state, scores):
    """Into scores [C]. A relevance below 0, of an unknown utility, stays below all others."""
    if not diverse:
        for c in range(len(scores)):
            scores[c] = -c
    elif mode == DPP:
        _gains(relevance[b], state, scores)
    else:
        for c in range(len(scores)):
            scores[c] = relevance[b, c] * (trade_off if relevance[b, c] >= 0 else 1.0)
        _punish(b, mode, 1 - trade_off, wanted, shares, state, scores)


@compiled()
def _gains(relevance, state, scores):
    closest, _, _, quality, _ = state
    for c in range(len(scores)):
        scores[c] = max(quality[c] * closest[c], 1.0) if relevance[c] >= 0 else relevance[c]


@compiled()
def _punish(b, mode, weight, wanted, shares, state, scores):
    """What likeness to what stands above takes from the scores."""
    closest, _, sums, _, number = state
    if mode == PROPORTIONS:
        for c in range(len(scores)):
            scores[c] -= weight * _divergence(wanted[b], sums, shares[b, c], number[0])
    elif number[0]:
        among = number[0] if mode == MAX_SUM else 1
        for c in range(len(scores)):
            scores[c] -= weight * closest[c] / among


@compiled()
def _divergence(wanted, sums, own, number):
    """Kullback-Leibler divergence of the wanted proportions from those of the slate with one more item."""
    total = 0.0
    for v in range(len(wanted)):
        if wanted[v] > 0:
            there = (1 - SMOOTHING) * (sums[v] + own[v]) / (number + 1) + SMOOTHING * wanted[v]
            total += wanted[v] * math.log(wanted[v] / there)
    return total


@compiled()
def added(b, chosen, mode, units, shares, left, state):
    """Of those that are left [C], which may yet come; the others keep no account of what stands above."""
    closest, factors, sums, quality, number = state
    if mode == MMR:
        cosines = _cosines(units[b], chosen, left)
        for c in range(units.shape[1]):
            closest[c] = max(closest[c], cosines[c])
    elif mode == MAX_SUM:
        closest += _cosines(units[b], chosen, left)
    elif mode == PROPORTIONS:
        for v in range(len(sums)):
            sums[v] += shares[b, chosen, v]
    elif mode == DPP and number[0] < len(factors):
        row, cosines = number[0], _cosines(units[b], chosen, left)
        _subtract(cosines, factors[:row], chosen)
        root = np.float32(math.sqrt(max(closest[chosen], 1 / quality[chosen], 1e-12)))
        for c in range(len(cosines)):
            factors[row, c] = cosines[c] / root
            closest[c] -= factors[row, c] ** 2
    number[0] += 1


@compiled()
def _subtract(cosines, factors, chosen):
    """What the rows of the Cholesky factor explain already (fast greedy MAP, Chen et al. 2018)."""
    for row in range(len(factors)):
        weight = factors[row, chosen]
        for c in range(len(cosines)):
            cosines[c] -= weight * factors[row, c]


@compiled(fastmath=True)
def _cosines(units, chosen, left):
    """[C] float32 of those that are left of units [C, D] with one of them, 0 for the others."""
    cosines, own = np.zeros(len(units), dtype=np.float32), units[chosen]
    for c in range(len(units)):
        if left[c]:
            total = np.float32(0)
            for d in range(units.shape[1]):
                total += units[c, d] * own[d]
            cosines[c] = total
    return cosines
