"""Who stands at one place when chance has a say, and the exact chance of it.

Compiled by numba. Shapes: C columns of the pool.
"""

import math

import numpy as np

from recsys.jit import compiled
from recsys.policy.greatest import chance_to_be_greatest

NOBODY, EPSILON, SOFTMAX, THOMPSON = range(4)


@compiled()
def drawn(mode, rate, allowed, scores, best, uniforms, deviations, normals):
    """A column among those allowed [C]; uniforms: two numbers from 0 to 1, normals [C] for THOMPSON."""
    if mode == THOMPSON:
        return _greatest(allowed, scores + deviations * normals)
    if mode == EPSILON:
        return _nth(allowed, uniforms[1]) if uniforms[0] < rate else best
    weights, total = _softmax(allowed, scores, rate)
    left = uniforms[0] * total
    chosen = best
    for c in range(len(allowed)):
        if allowed[c] and weights[c] > 0:
            chosen = c
            left -= weights[c]
            if left < 0:
                break
    return chosen


@compiled()
def chance(mode, rate, allowed, scores, best, chosen, deviations):
    """Of `drawn` to be `chosen`."""
    if mode == EPSILON:
        return (1 - rate) * (chosen == best) + rate / allowed.sum()
    if mode == SOFTMAX:
        weights, total = _softmax(allowed, scores, rate)
        return weights[chosen] / total
    return chance_to_be_greatest(allowed, scores, deviations, chosen)


@compiled()
def _greatest(allowed, values):
    best = -1
    for c in range(len(allowed)):
        if allowed[c] and (best < 0 or values[c] > values[best]):
            best = c
    return best


@compiled()
def _nth(allowed, uniform):
    """Each allowed column alike."""
    turn = min(int(uniform * allowed.sum()), allowed.sum() - 1)
    for c in range(len(allowed)):
        if allowed[c]:
            if turn == 0:
                return c
            turn -= 1
    return -1


@compiled()
def _softmax(allowed, scores, temperature):
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
