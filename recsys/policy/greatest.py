"""The chance of one normal variable to be the greatest of many, by numerical integration, exact to 1e-8.

    P(i) = integral of density_i(x) times the product over all others j of Phi((x - mean_j) / deviation_j)

Below what another one surely exceeds the product is 0, above what no other one reaches it is 1. In between Gauss-Legendre
panels are twice as wide as the narrowest deviation of those that are still in reach: the narrow ones are the first to be out
of it, so panels grow, and however unlike the deviations are, there are some dozens.

Compiled by numba. Shapes: C columns of the pool, M of them within reach.
"""

import math

import numpy as np

from recsys.jit import compiled

REACH = 6.5
"""standard deviations beyond which a normal variable is taken not to come: the chance is 4e-11"""
NOTHING = 1e-10
STEPS = 64
"""of the table of Phi a standard deviation; cubic interpolation errs by 2e-10"""
_GRID = np.arange(-REACH * STEPS, REACH * STEPS + 2) / STEPS
_PHI = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in _GRID])
_SLOPE = np.exp(-0.5 * _GRID**2) / math.sqrt(2 * math.pi) / STEPS
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


@compiled()
def chance_to_be_greatest(allowed, means, deviations, chosen):
    """Of `chosen` among the allowed [C]; deviation 0 is certain, of two certain equals the first is the greater."""
    mean, own = means[chosen], deviations[chosen]
    floor = -math.inf
    for c in range(len(allowed)):
        if allowed[c] and c != chosen:
            if deviations[c] == 0 and own == 0 and (means[c] > mean or (means[c] == mean and c < chosen)):
                return 0.0
            floor = max(floor, means[c] - REACH * deviations[c])
    low = max(floor, mean - REACH * own) if own > 0 else mean
    if mean + REACH * own < floor:
        return 0.0
    rivals, widths = _rivals(allowed, means, deviations, chosen, low)
    if own == 0:
        return _below(rivals, widths, len(rivals), mean)
    return _integral(rivals, widths, low, mean, own)


@compiled()
def _rivals(allowed, means, deviations, chosen, low):
    """Means and deviations [M] of the others that may lie above `low`; those that are certain do not."""
    rivals, widths, num = np.empty(len(allowed)), np.empty(len(allowed)), 0
    for c in range(len(allowed)):
        if allowed[c] and c != chosen and deviations[c] > 0 and means[c] + REACH * deviations[c] > low:
            rivals[num], widths[num] = means[c], deviations[c]
            num += 1
    return rivals[:num], widths[:num]


@compiled()
def _integral(rivals, widths, low, mean, own):
    """From `low` on; the panels whose rivals surely lie higher are passed over."""
    total, x, high, num = 0.0, low, mean + REACH * own, len(rivals)
    while x < high:
        num, width = _in_reach(rivals, widths, num, x, own)
        if num == 0:
            return total + 0.5 * math.erfc((x - mean) / own / math.sqrt(2))
        end = min(x + 2 * width, high)
        if _below(rivals, widths, num, end) > NOTHING:
            total += _panel(rivals, widths, num, x, end, mean, own)
        x = end
    return total


@compiled()
def _in_reach(rivals, widths, num, x, own):
    """Keep those that may lie above x in front; their number, and the least of all deviations."""
    kept, width = 0, own
    for c in range(num):
        if rivals[c] + REACH * widths[c] > x:
            rivals[kept], widths[kept] = rivals[c], widths[c]
            width = min(width, widths[c])
            kept += 1
    return kept, width


@compiled()
def _panel(rivals, widths, num, start, end, mean, own):
    half, total = 0.5 * (end - start), 0.0
    for node in range(len(_NODES)):
        x = start + half * (1 + _NODES[node])
        z = (x - mean) / own
        total += _WEIGHTS[node] * math.exp(-0.5 * z * z) * _below(rivals, widths, num, x)
    return total * half / own / math.sqrt(2 * math.pi)


@compiled()
def _below(rivals, widths, num, x):
    """The chance that all of them lie below x."""
    below = 1.0
    for c in range(num):
        z = (x - rivals[c]) / widths[c]
        if z < REACH:
            if z <= -REACH:
                return 0.0
            below *= _phi(z)
            if below < NOTHING * NOTHING:
                return 0.0
    return below


@compiled()
def _phi(z):
    """Hermite's cubic between the entries of the table."""
    place = (z + REACH) * STEPS
    left = int(place)
    t = place - left
    s = 1 - t
    return s * s * ((1 + 2 * t) * _PHI[left] + t * _SLOPE[left]) + t * t * (
        (1 + 2 * s) * _PHI[left + 1] - s * _SLOPE[left + 1]
    )
