"""Scores of the columns at one position of the window: relevance traded against similarity to the items above.

Compiled by numba. Shapes: B queries, C columns of the pool, D dim of the vectors, V values of a category.
"""

import math
from typing import NamedTuple

import numpy as np

from recsys.jit import compiled

PLAIN, MMR, DPP, PROPORTIONS, MAX_SUM = range(5)
MAX_EXPONENT = 600.0
"""cap of the exponent of a DPP quality: exp(600) times a variance is still finite in float64"""
SMOOTHING = 0.01
"""share of the target in the smoothed distribution of a slate, so that the KL divergence stays finite (Steck 2018)"""


class DiversityState(NamedTuple):
    """State of a slate that the scores of its next position read."""

    closest: np.ndarray
    """[C] greatest cosine to a placed item (MMR), sum of cosines (MAX_SUM) or conditional variance (DPP)"""
    factors: np.ndarray
    """[window, C] float32 rows of the Cholesky factor (DPP)"""
    sums: np.ndarray
    """[V] summed shares of the placed items (PROPORTIONS)"""
    quality: np.ndarray
    """[C] qualities q (DPP)"""
    number: np.ndarray
    """[1] int64, number of placed items"""


@compiled()
def initial_state(b, num, scoring):
    """Return the state of a mode before any item is placed.

    DPP keeps variances and factors of I + L divided by the qualities q, so that all are about 1: the raw matrix
    spans exp(600), and float32 factors would overflow.
    """
    mode = scoring.mode
    # a factor row a position: beyond 1,024 the memory of a request would be tens of MiB
    rows = min(scoring.window, 1024) if mode == DPP else 0
    closest = np.full(num if mode != PLAIN else 0, 0.0 if mode == MAX_SUM else -math.inf)
    quality = np.empty(num if mode == DPP else 0)
    if mode == DPP:
        for c in range(num):
            quality[c] = math.exp(min(_relevance_weight(scoring.trade_off) * scoring.relevance[b, c], MAX_EXPONENT))
            closest[c] = 1 + 1 / quality[c]
    factors = np.zeros((rows, num), dtype=np.float32)
    return DiversityState(closest, factors, np.zeros(scoring.shares.shape[2]), quality, np.zeros(1, dtype=np.int64))


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
def score_columns(b, diverse, scoring, state, scores):
    """Write scores [C]. A relevance below 0 marks an unknown utility and is not scaled, so that it stays below all others."""
    relevance = scoring.relevance[b]
    if not diverse:
        for c in range(len(scores)):
            # the pool is in utility order: the index is the utility order without its ties
            scores[c] = -c
    elif scoring.mode == DPP:
        _dpp_gains(relevance, state, scores)
    else:
        for c in range(len(scores)):
            scores[c] = relevance[c] * (scoring.trade_off if relevance[c] >= 0 else 1.0)
        _subtract_similarity(b, scoring, state, scores)


@compiled()
def _dpp_gains(relevance, state, scores):
    """Write determinant gains [C], at least 1 for a known utility: rounding must not put one below an unknown utility."""
    for c in range(len(scores)):
        scores[c] = max(state.quality[c] * state.closest[c], 1.0) if relevance[c] >= 0 else relevance[c]


@compiled()
def _subtract_similarity(b, scoring, state, scores):
    """Subtract the penalty for similarity to the items above from the scores [C], in place."""
    number, weight = state.number[0], 1 - scoring.trade_off
    if scoring.mode == PROPORTIONS:
        for c in range(len(scores)):
            scores[c] -= weight * _divergence(scoring.target_shares[b], state.sums, scoring.shares[b, c], number)
    elif number:
        divisor = number if scoring.mode == MAX_SUM else 1
        for c in range(len(scores)):
            scores[c] -= weight * state.closest[c] / divisor


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
def add_to_slate(b, chosen, scoring, remaining, state):
    """Update the state by a placed column. Cosines are computed for the remaining columns [C] only: no other can follow."""
    mode, units = scoring.mode, scoring.units[b]
    closest, factors, sums, quality, number = state
    if mode == MMR:
        cosines = _cosines(units, chosen, remaining)
        for c in range(len(units)):
            closest[c] = max(closest[c], cosines[c])
    elif mode == MAX_SUM:
        closest += _cosines(units, chosen, remaining)
    elif mode == PROPORTIONS:
        for v in range(len(sums)):
            sums[v] += scoring.shares[b, chosen, v]
    elif mode == DPP and number[0] < len(factors):
        row, cosines = number[0], _cosines(units, chosen, remaining)
        _subtract(cosines, factors[:row], chosen)
        # rounding may leave a variance below that of the identity, or below 0 for two equal items
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
