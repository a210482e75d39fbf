"""Determinantal point process. Shapes: C columns of the pool, W rows of factors."""

import math

import numpy as np

from recsys.jit import compiled
from recsys.policy.diversity.item_vectors import CosineDiversity, cosines_with

MAX_EXPONENT = 600.0
"""cap of the exponent of a quality: exp(600) times a variance is still finite in float64"""
VARIANCE, QUALITY = 0, 1
"""rows of the state: conditional variance, and quality q^2"""


@compiled()
def _start(b, scoring, state):
    """Write variances and qualities of I + L divided by the qualities, so that all are about 1: the raw matrix spans
    exp(600), and float32 factors would overflow.
    """
    for c in range(state.columns.shape[1]):
        exponent = _relevance_weight(scoring.trade_off) * scoring.relevance[b, c]
        state.columns[QUALITY, c] = math.exp(min(exponent, MAX_EXPONENT))
        state.columns[VARIANCE, c] = 1 + 1 / state.columns[QUALITY, c]


@compiled()
def _relevance_weight(trade_off):
    """Return the weight of relevance in log q^2; capped, since trade_off 1 would be an infinite weight."""
    return min(trade_off / max(1 - trade_off, 1e-9), 60.0)


@compiled()
def _score(b, scoring, state, scores):
    """Write determinant gains [C], at least 1 for a known utility: rounding must not put one below an unknown utility."""
    for c in range(len(scores)):
        relevance = scoring.relevance[b, c]
        scores[c] = max(state.columns[QUALITY, c] * state.columns[VARIANCE, c], 1.0) if relevance >= 0 else relevance


@compiled()
def _add(b, chosen, scoring, remaining, state):
    """Append a row to the Cholesky factor and lower the conditional variances by it."""
    factors, variance, row = state.factors, state.columns[VARIANCE], state.number[0]
    if row < len(factors):
        cosines = cosines_with(scoring.units[b], chosen, remaining)
        _subtract(cosines, factors[:row], chosen)
        # rounding may leave a variance below that of the identity, or below 0 for two equal items
        root = np.float32(math.sqrt(max(variance[chosen], 1 / state.columns[QUALITY, chosen], 1e-12)))
        for c in range(len(cosines)):
            factors[row, c] = cosines[c] / root
            variance[c] -= factors[row, c] ** 2


@compiled()
def _subtract(cosines, factors, chosen):
    """Subtract the part that earlier rows of the Cholesky factor explain (fast greedy MAP, Chen et al. 2018)."""
    for row in range(len(factors)):
        weight = factors[row, chosen]
        for c in range(len(cosines)):
            cosines[c] -= weight * factors[row, c]


@compiled()
def _noise(scoring, scores, relevance_std, compared, stds):
    """Compare logarithms: the derivative of log(q^2 v + 1) by log q^2 is q^2 v / (q^2 v + 1), the factor of the std.

    Scores below 0 belong to items without a known utility and get no noise.
    """
    for c in range(len(scores)):
        compared[c], stds[c] = scores[c], 0.0
        if scores[c] > 0:
            compared[c] = math.log(scores[c])
            stds[c] = _relevance_weight(scoring.trade_off) * relevance_std[c] * max(0.0, 1 - 1 / scores[c])


class Determinantal(CosineDiversity):
    """Position by position, the greatest gain in log det(I + L), L = diag(q) S diag(q), S the cosines of the items.

    q^2 = exp(relevance * trade_off / (1 - trade_off)). Source: Chen, Zhang and Zhou, Fast Greedy MAP Inference for
    Determinantal Point Process, NeurIPS 2018; with the identity added the gain is never negative and falls.
    """

    start, score, add, noise = _start, _score, _add, _noise
