"""Intervals that hold at all times together: an experiment may be looked at whenever one likes, and stopped for what is seen.

Shapes: P sequences, T observations in the order in which they came.
"""

import numpy as np

from recsys.errors import ConfigError, DataError

MAX_BET = 0.5
"""bound of the weights lambda of `bernstein_sequence`"""


def normal_mixture_factor(count: int, alpha: float, tuned_for: int) -> float:
    """Return how many standard errors an asymptotic confidence sequence reaches from a mean of `count` observations.

    sqrt((n r + 1) / (n r) log((n r + 1) / alpha^2)), r = rho^2 set so that it is narrowest at n = `tuned_for`: the boundary of
    a normal mixture of martingales (Robbins, Annals of Mathematical Statistics 1970) around a mean with estimated variance.
    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Time-uniform central limit theory and asymptotic confidence sequences,
    Annals of Statistics 2024, theorem 2.2; rho by the first terms of the Lambert function.
    """
    if count < 1 or tuned_for < 1:
        raise ConfigError(f"{count} observations and {tuned_for} to tune for; give at least one of both")
    twice = -2 * np.log(alpha)
    time = count * (twice + np.log(twice) + 1) / tuned_for
    return float(np.sqrt((time + 1) / time * np.log((time + 1) / alpha**2)))


def bernstein_sequence(values: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Return low and high ends [P, T] that hold the mean of values [P, T] in [0, 1] at all times with probability 1 - alpha.

    It holds for any distribution and from the first observation on. Waudby-Smith and Ramdas, Estimating means of bounded random
    variables by betting, JRSS B 2024, theorem 2 (predictable plug-in empirical Bernstein): centre sum lambda x / sum lambda,
    width (log(2 / alpha) + sum v psi(lambda)) / sum lambda, v = 4 (x - mean before)^2, psi(l) = (-log(1 - l) - l) / 4,
    lambda_t = sqrt(2 log(2 / alpha) / (variance before t log(1 + t))), at most MAX_BET.
    """
    if values.min() < 0 or values.max() > 1:
        raise DataError(
            f"values reach from {values.min():g} to {values.max():g}; divide them by their bounds, to 0 to 1"
        )
    t = np.arange(1, values.shape[1] + 1)
    means = (0.5 + values.cumsum(axis=1)) / (t + 1)
    variances = (0.25 + ((values - means) ** 2).cumsum(axis=1)) / (t + 1)
    means_before, variances_before = _before(means, 0.5), _before(variances, 0.25)
    log = np.log(2 / alpha)
    weights = np.minimum(np.sqrt(2 * log / (variances_before * t * np.log(1 + t))), MAX_BET)
    psi = (-np.log1p(-weights) - weights) / 4
    total = weights.cumsum(axis=1)
    centre = (weights * values).cumsum(axis=1) / total
    width = (log + (4 * (values - means_before) ** 2 * psi).cumsum(axis=1)) / total
    # the intersection of all intervals so far holds the mean as well
    return np.maximum.accumulate(np.maximum(centre - width, 0), axis=1), np.minimum.accumulate(
        np.minimum(centre + width, 1), axis=1
    )


def _before(values: np.ndarray, first: float) -> np.ndarray:
    """Shift by one observation."""
    return np.concatenate([np.full((len(values), 1), first), values[:, :-1]], axis=1)
