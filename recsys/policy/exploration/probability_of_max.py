"""Propensity of Thompson sampling: the probability that one normal variable is the maximum of many, exact to 1e-8.

    P(i) = integral of density_i(x) times the product over all others j of Phi((x - mean_j) / std_j)

The product is 0 below the lower tail of the highest rival and 1 above the upper tails of all rivals. In between the
integral is a sum of Gauss-Legendre panels, each twice as wide as the narrowest std of the rivals still in reach: narrow
rivals leave the reach first, so panels grow, and some dozens suffice even for very unequal stds.

Compiled by numba. Shapes: C columns of the pool, M rivals within reach.
"""

import math

import numpy as np

from recsys.jit import compiled

TAIL_STDS = 6.5
"""standard deviations at which the tails of a normal variable are cut: a tail has 4e-11 of the mass"""
NEGLIGIBLE = 1e-10
"""product of CDFs below which a panel cannot change the eighth decimal"""
STEPS_PER_STD = 64
"""table entries of Phi per standard deviation; cubic interpolation then errs by 2e-10"""
_GRID = np.arange(-TAIL_STDS * STEPS_PER_STD, TAIL_STDS * STEPS_PER_STD + 2) / STEPS_PER_STD
_PHI = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in _GRID])
_SLOPE = np.exp(-0.5 * _GRID**2) / math.sqrt(2 * math.pi) / STEPS_PER_STD
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


@compiled()
def probability_of_max(allowed, means, stds, chosen):
    """Return P(`chosen` is the maximum of the allowed [C]); std 0 is a constant, and of two equal constants the first wins."""
    mean, std = means[chosen], stds[chosen]
    lower = -math.inf
    for c in range(len(allowed)):
        if allowed[c] and c != chosen:
            if stds[c] == 0 and std == 0 and (means[c] > mean or (means[c] == mean and c < chosen)):
                return 0.0
            lower = max(lower, means[c] - TAIL_STDS * stds[c])
    # below `lower` some rival is larger almost surely, so the integrand is 0 there
    low = max(lower, mean - TAIL_STDS * std) if std > 0 else mean
    if mean + TAIL_STDS * std < lower:
        return 0.0
    rivals, rival_stds = _rivals(allowed, means, stds, chosen, low)
    if std == 0:
        return _probability_below(rivals, rival_stds, len(rivals), mean)
    return _integral(rivals, rival_stds, low, mean, std)


@compiled()
def _rivals(allowed, means, stds, chosen, low):
    """Return means and stds [M] of the rivals that may exceed `low`; constants lie below it by construction."""
    rivals, rival_stds, num = np.empty(len(allowed)), np.empty(len(allowed)), 0
    for c in range(len(allowed)):
        if allowed[c] and c != chosen and stds[c] > 0 and means[c] + TAIL_STDS * stds[c] > low:
            rivals[num], rival_stds[num] = means[c], stds[c]
            num += 1
    return rivals[:num], rival_stds[:num]


@compiled()
def _integral(rivals, rival_stds, low, mean, std):
    """Integrate from `low` to the upper tail of `chosen`; panels that a rival almost surely exceeds are skipped."""
    total, x, high, num = 0.0, low, mean + TAIL_STDS * std, len(rivals)
    # rivals below x leave for good: x only grows, so the kept ones can be moved to the front in place
    while x < high:
        num, width = _keep_reachable(rivals, rival_stds, num, x, std)
        if num == 0:
            return total + 0.5 * math.erfc((x - mean) / std / math.sqrt(2))
        # the widest panel whose 12 nodes keep the error below 1e-8
        end = min(x + 2 * width, high)
        if _probability_below(rivals, rival_stds, num, end) > NEGLIGIBLE:
            total += _panel(rivals, rival_stds, num, x, end, mean, std)
        x = end
    return total


@compiled()
def _keep_reachable(rivals, rival_stds, num, x, std):
    """Move the rivals that may exceed x to the front; return their number and the least std, `chosen` included."""
    kept, width = 0, std
    for c in range(num):
        if rivals[c] + TAIL_STDS * rival_stds[c] > x:
            rivals[kept], rival_stds[kept] = rivals[c], rival_stds[c]
            width = min(width, rival_stds[c])
            kept += 1
    return kept, width


@compiled()
def _panel(rivals, rival_stds, num, start, end, mean, std):
    """Integrate one panel by 12-point Gauss-Legendre quadrature."""
    half, total = 0.5 * (end - start), 0.0
    for node in range(len(_NODES)):
        x = start + half * (1 + _NODES[node])
        z = (x - mean) / std
        total += _WEIGHTS[node] * math.exp(-0.5 * z * z) * _probability_below(rivals, rival_stds, num, x)
    return total * half / std / math.sqrt(2 * math.pi)


@compiled()
def _probability_below(rivals, rival_stds, num, x):
    """Return the probability that all rivals lie below x."""
    below = 1.0
    for c in range(num):
        z = (x - rivals[c]) / rival_stds[c]
        if z < TAIL_STDS:
            if z <= -TAIL_STDS:
                return 0.0
            below *= _phi(z)
            # hundreds of rivals underflow to 0 anyway; leaving early is what makes a far panel cheap
            if below < NEGLIGIBLE * NEGLIGIBLE:
                return 0.0
    return below


@compiled()
def _phi(z):
    """Interpolate the normal CDF by Hermite cubics between table entries: math.erfc costs most of the integral otherwise."""
    offset = (z + TAIL_STDS) * STEPS_PER_STD
    left = int(offset)
    t = offset - left
    s = 1 - t
    return s * s * ((1 + 2 * t) * _PHI[left] + t * _SLOPE[left]) + t * t * (
        (1 + 2 * s) * _PHI[left + 1] - s * _SLOPE[left + 1]
    )
