"""Who stands at one place when chance has a say, and the exact chance of it.

Compiled by numba. Shapes: C columns of the pool.
"""

import math

import numpy as np
from numba import njit

NOBODY, EPSILON, SOFTMAX, THOMPSON = range(4)
NODES = 256
REACH = 8.0
"""standard deviations beyond which a normal density counts for nothing"""


@njit(cache=True)
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


@njit(cache=True)
def chance(mode, rate, allowed, scores, best, chosen, deviations):
    """Of `drawn` to be `chosen`."""
    if mode == EPSILON:
        return (1 - rate) * (chosen == best) + rate / allowed.sum()
    if mode == SOFTMAX:
        weights, total = _softmax(allowed, scores, rate)
        return weights[chosen] / total
    return _chance_to_be_greatest(allowed, scores, deviations, chosen)


@njit(cache=True)
def _greatest(allowed, values):
    best = -1
    for c in range(len(allowed)):
        if allowed[c] and (best < 0 or values[c] > values[best]):
            best = c
    return best


@njit(cache=True)
def _nth(allowed, uniform):
    """Each allowed column alike."""
    turn = min(int(uniform * allowed.sum()), allowed.sum() - 1)
    for c in range(len(allowed)):
        if allowed[c]:
            if turn == 0:
                return c
            turn -= 1
    return -1


@njit(cache=True)
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


@njit(cache=True)
def _chance_to_be_greatest(allowed, means, deviations, chosen):
    """Integral of the chosen one's density times the chance of every other one to lie below, by Simpson's rule.

    From the greatest of those that are certain on: below it the chance is 0, and its edge would cost accuracy.
    """
    own = deviations[chosen]
    if own == 0:
        return _chance_below(allowed, means, deviations, chosen, means[chosen])
    low = -REACH
    for c in range(len(allowed)):
        if allowed[c] and c != chosen and deviations[c] == 0:
            low = max(low, (means[c] - means[chosen]) / own)
    if low >= REACH:
        return 0.0
    total, step = 0.0, (REACH - low) / NODES
    for node in range(NODES + 1):
        z = low + node * step
        weight = 1 if node in (0, NODES) else 4 if node % 2 else 2
        density = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        value = means[chosen] + own * (z + 1e-9)
        total += weight * density * _chance_below(allowed, means, deviations, chosen, value)
    return total * step / 3


@njit(cache=True)
def _chance_below(allowed, means, deviations, chosen, value):
    """Of all others to lie below a value; of two certain equals the first is the greater."""
    below = 1.0
    for c in range(len(allowed)):
        if allowed[c] and c != chosen and below > 0:
            if deviations[c] > 0:
                z = (value - means[c]) / deviations[c]
                if z < REACH:
                    below *= 0.5 * math.erfc(-z / math.sqrt(2))
            elif means[c] > value or (means[c] == value and c < chosen):
                below = 0.0
    return below
