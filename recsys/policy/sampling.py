"""Sampling of one position under exploration, and the exact propensity of the sampled column.

Compiled by numba. Shapes: C columns of the pool.
"""

import math

import numpy as np

from recsys.jit import compiled
from recsys.policy.thompson_propensity import probability_of_max

NO_EXPLORATION, EPSILON, SOFTMAX, THOMPSON = range(4)


@compiled()
def sample(mode, rate, allowed, scores, best, uniforms, std, normals):
    """Return a column among those allowed [C]; uniforms: two numbers in [0, 1), normals: [C] standard normal for THOMPSON."""
    if mode == THOMPSON:
        return _argmax(allowed, scores + std * normals)
    if mode == EPSILON:
        return _nth(allowed, uniforms[1]) if uniforms[0] < rate else best
    weights, total = _softmax(allowed, scores, rate)
    left = uniforms[0] * total
    chosen = best
    for c in range(len(allowed)):
        if allowed[c] and weights[c] > 0:
            chosen = c  # kept when rounding leaves a rest after the last column
            left -= weights[c]
            if left < 0:
                break
    return chosen


@compiled()
def propensity(mode, rate, allowed, scores, best, chosen, std):
    """Return the probability that `sample` returns `chosen`."""
    if mode == EPSILON:
        return (1 - rate) * (chosen == best) + rate / allowed.sum()
    if mode == SOFTMAX:
        weights, total = _softmax(allowed, scores, rate)
        return weights[chosen] / total
    return probability_of_max(allowed, scores, std, chosen)


@compiled()
def _argmax(allowed, values):
    best = -1
    for c in range(len(allowed)):
        if allowed[c] and (best < 0 or values[c] > values[best]):
            best = c
    return best


@compiled()
def _nth(allowed, uniform):
    """Return an allowed column uniformly at random."""
    # a uniform just below 1 times the number can round up to the number itself
    rank = min(int(uniform * allowed.sum()), allowed.sum() - 1)
    for c in range(len(allowed)):
        if allowed[c]:
            if rank == 0:
                return c
            rank -= 1
    return -1


@compiled()
def _softmax(allowed, scores, temperature):
    """Return unnormalised weights [C] and their sum; the maximum is subtracted so that exp does not overflow."""
    top = -math.inf
    for c in range(len(allowed)):
        if allowed[c]:
            top = max(top, scores[c])
    weights, total = np.zeros(len(allowed)), 0.0
    for c in range(len(allowed)):
        if allowed[c]:
            weights[c] = math.exp((scores[c] - top) / temperature)
            total += weights[c]
    return weights, total
