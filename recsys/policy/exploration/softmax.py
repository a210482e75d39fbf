"""Softmax exploration. Shapes: C columns of the pool."""

import math

import numpy as np

from recsys.jit import compiled
from recsys.policy.exploration.exploration import Exploration


@compiled()
def _sample(rate, allowed, scores, best, uniforms, stds, normals):
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
def _propensity(rate, allowed, scores, best, chosen, stds):
    weights, total = _softmax(allowed, scores, rate)
    return weights[chosen] / total


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


class Softmax(Exploration):
    """Probability proportional to exp(score / rate), with the diversity score within its window (Plackett-Luce; Luce 1959)."""

    sample, propensity = _sample, _propensity
