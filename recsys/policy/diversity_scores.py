"""Scores of the columns at one position of the window: relevance traded against similarity to the items above.

Compiled by numba. Shapes: B queries, C columns of the pool, D dim of the vectors, V values of a category.
"""

import math

import numpy as np

from recsys.jit import compiled

PLAIN, MMR, DPP, PROPORTIONS, MAX_SUM = range(5)
MAX_EXPONENT = 600.0
"""cap of the exponent of a DPP quality: exp(600) times a variance is still finite in float64"""
SMOOTHING = 0.01
"""share of the target in the smoothed distribution of a slate, so that the KL divergence stays finite (Steck 2018)"""


@compiled()
def initial_state(mode, units, shares, window, num, trade_off, relevance):
    """Return the state of a mode: (closest, factors [window, C] float32, sums [V], quality [C], number of placed items [1]).

    closest [C] is the greatest cosine to a placed item (MMR), the sum of cosines (MAX_SUM) or the conditional variance
    (DPP). DPP keeps variances and factors of I + L divided by the qualities q, so that all are about 1: the raw matrix
    spans exp(600), and float32 factors would overflow.
    """
    rows = min(window, 1024) if mode == DPP else 0
    closest = np.full(num if mode != PLAIN else 0, 0.0 if mode == MAX_SUM else -math.inf)
    quality = np.empty(num if mode == DPP else 0)
    if mode == DPP:
        for c in range(num):
            quality[c] = math.exp(min(_relevance_weight(trade_off) * relevance[c], MAX_EXPONENT))
            closest[c] = 1 + 1 / quality[c]
    factors = np.zeros((rows, num), dtype=np.float32)
    return closest, factors, np.zeros(shares.shape[2]), quality, np.zeros(1, dtype=np.int64)


@compiled()
def _relevance_weight(trade_off):
    """Return the weight of relevance in log q^2; capped, since trade_off 1 would be an infinite weight."""
    return min(trade_off / max(1 - trade_off, 1e-9), 60.0)


@compiled()
def noisy_scores(diverse, mode, trade_off, scores, relevance_std):
    """Return scores [C] and their stds, given those of the relevance, for Thompson sampling.

    DPP scores are compared by logarithm: the derivative of log(q^2 v + 1) by log q^2 is q^2 v / (q^2 v + 1), the
    factor of the std. Scores below 0 belong to items without a known utility and get no noise.
    """
    if not diverse:
        return scores, relevance_std
    if mode != DPP:
        return scores, trade_off * relevance_std
    compared, noise = scores.copy(), np.zeros(len(scores))
    for c in range(len(scores)):
        if scores[c] > 0:
            compared[c] = math.log(scores[c])
            noise[c] = _relevance_weight(trade_off) * relevance_std[c] * max(0.0, 1 - 1 / scores[c])
    return compared, noise


@compiled()
def score_columns(b, diverse, mode, trade_off, relevance, target_shares, shares, state, scores):
    """Write scores [C]. A relevance below 0 marks an unknown utility and is not scaled, so that it stays below all others."""
    if not diverse:
        for c in range(len(scores)):
            scores[c] = -c
    elif mode == DPP:
        _dpp_gains(relevance[b], state, scores)
    else:
        for c in range(len(scores)):
            scores[c] = relevance[b, c] * (trade_off if relevance[b, c] >= 0 else 1.0)
        _subtract_similarity(b, mode, 1 - trade_off, target_shares, shares, state, scores)


@compiled()
def _dpp_gains(relevance, state, scores):
    """Write determinant gains [C], at least 1 for a known utility: rounding must not put one below an unknown utility."""
    closest, _, _, quality, _ = state
    for c in range(len(scores)):
        scores[c] = max(quality[c] * closest[c], 1.0) if relevance[c] >= 0 else relevance[c]


@compiled()
def _subtract_similarity(b, mode, weight, target_shares, shares, state, scores):
    """Subtract the penalty for similarity to the items above from the scores [C], in place."""
    closest, _, sums, _, number = state
    if mode == PROPORTIONS:
        for c in range(len(scores)):
            scores[c] -= weight * _divergence(target_shares[b], sums, shares[b, c], number[0])
    elif number[0]:
        divisor = number[0] if mode == MAX_SUM else 1
        for c in range(len(scores)):
            scores[c] -= weight * closest[c] / divisor


@compiled()
def _divergence(target_shares, sums, own, number):
    """Return KL(target || slate with one more item); values [V]."""
    total = 0.0
    for v in range(len(target_shares)):
        if target_shares[v] > 0:
            slate_share = (1 - SMOOTHING) * (sums[v] + own[v]) / (number + 1) + SMOOTHING * target_shares[v]
            total += target_shares[v] * math.log(target_shares[v] / slate_share)
    return total


@compiled()
def add_to_slate(b, chosen, mode, units, shares, remaining, state):
    """Update the state by a placed column. Cosines are computed for the remaining columns [C] only: no other can follow."""
    closest, factors, sums, quality, number = state
    if mode == MMR:
        cosines = _cosines(units[b], chosen, remaining)
        for c in range(units.shape[1]):
            closest[c] = max(closest[c], cosines[c])
    elif mode == MAX_SUM:
        closest += _cosines(units[b], chosen, remaining)
    elif mode == PROPORTIONS:
        for v in range(len(sums)):
            sums[v] += shares[b, chosen, v]
    elif mode == DPP and number[0] < len(factors):
        row, cosines = number[0], _cosines(units[b], chosen, remaining)
        _subtract(cosines, factors[:row], chosen)
        root = np.float32(math.sqrt(max(closest[chosen], 1 / quality[chosen], 1e-12)))
        for c in range(len(cosines)):
            factors[row, c] = cosines[c] / root
            closest[c] -= factors[row, c] ** 2
    number[0] += 1


@compiled()
def _subtract(cosines, factors, chosen):
    """Subtract the part that earlier rows of the Cholesky factor explain (fast greedy MAP, Chen et al. 2018)."""
    for row in range(len(factors)):
        weight = factors[row, chosen]
        for c in range(len(cosines)):
            cosines[c] -= weight * factors[row, c]


@compiled(fastmath=True)
def _cosines(units, chosen, remaining):
    """Return cosines [C] float32 of the remaining units [C, D] with the chosen one, 0 elsewhere.

    fastmath lets the compiler reorder and vectorise the sum; it is safe here only because units are finite.
    """
    cosines, own = np.zeros(len(units), dtype=np.float32), units[chosen]
    for c in range(len(units)):
        if remaining[c]:
            total = np.float32(0)
            for d in range(units.shape[1]):
                total += units[c, d] * own[d]
            cosines[c] = total
    return cosines
