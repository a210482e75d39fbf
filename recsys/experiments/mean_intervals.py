"""Intervals of 95% for the mean of contributions that are few, skewed or both.

Shapes: R rounds.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.stats import norm

LEVEL = 0.95
SAMPLES = 400

Interval = tuple[float, float]


def normal(contributions: np.ndarray) -> Interval:
    """mean +- 1.96 standard errors of contributions [R]."""
    mean, error = _moments(contributions)
    return mean - _quantile() * error, mean + _quantile() * error


def skew_corrected(contributions: np.ndarray) -> Interval:
    """The studentised mean of contributions [R], its skewness taken out by a monotone cubic.

    Hall, On the removal of skewness by transformation, JRSS B 1992: with g = skewness / sqrt(R) and T the studentised
    mean, T + g T^2 / 3 + g^2 T^3 / 27 + g / 6 is nearly normal; the ends are where it is +- 1.96.
    """
    mean, error = _moments(contributions)
    if error == 0:
        return mean, mean
    deviations = (contributions - mean) / contributions.std()
    skewness = float(np.mean(deviations**3)) / np.sqrt(len(contributions))
    ends = [mean - error * _untransformed(sign * _quantile(), skewness) for sign in (1, -1)]
    return ends[0], ends[1]


def _untransformed(value: float, skewness: float) -> float:
    """The T whose transform is value."""
    if abs(skewness) < 1e-9:
        return value
    return 3 / skewness * (np.cbrt(1 + skewness * (value - skewness / 6)) - 1)


def bootstrap(contributions: np.ndarray, seed: int = 0) -> Interval:
    """Percentiles of resampled means of contributions [R]. Efron, Annals of Statistics 1979."""
    means = _resampled(contributions, seed)[0]
    low, high = np.quantile(means, _ends())
    return float(low), float(high)


def studentised_bootstrap(contributions: np.ndarray, seed: int = 0) -> Interval:
    """Bootstrap-t of contributions [R]: resampled studentised means in the place of the normal. Hall, AoS 1988."""
    mean, error = _moments(contributions)
    means, errors = _resampled(contributions, seed)
    studentised = (means - mean)[errors > 0] / errors[errors > 0]
    if not len(studentised):
        return mean, mean
    low, high = np.quantile(studentised, _ends())
    return mean - error * float(high), mean - error * float(low)


def _resampled(contributions: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and their standard errors, [SAMPLES] each."""
    rounds = len(contributions)
    counts = np.random.default_rng(seed).poisson(1.0, (SAMPLES, rounds)).astype(np.float32)
    total = counts.sum(axis=1)
    centre = contributions.mean()
    centred = (contributions - centre).astype(np.float32)
    means, squares = counts @ centred / total, counts @ centred**2 / total
    return centre + means, np.sqrt(np.maximum(squares - means**2, 0) / total)


def empirical_bernstein(contributions: np.ndarray) -> Interval:
    """Holds for any R; b is the range of contributions [R]: sd sqrt(2 l / R) + 7 b l / (3 (R - 1)), l = log(4 / .05).

    Maurer and Pontil, Empirical Bernstein bounds and sample variance penalization, COLT 2009.
    """
    rounds, log = len(contributions), np.log(4 / (1 - LEVEL))
    width = contributions.std(ddof=1) * np.sqrt(2 * log / rounds) + 7 * np.ptp(contributions) * log / (3 * (rounds - 1))
    return float(contributions.mean() - width), float(contributions.mean() + width)


def _moments(contributions: np.ndarray) -> tuple[float, float]:
    return float(contributions.mean()), float(contributions.std(ddof=1) / np.sqrt(len(contributions)))


def _quantile() -> float:
    return float(norm.ppf((1 + LEVEL) / 2))


def _ends() -> tuple[float, float]:
    return (1 - LEVEL) / 2, (1 + LEVEL) / 2


INTERVALS: Mapping[str, Callable[[np.ndarray], Interval]] = {
    "normal": normal,
    "skew-corrected": skew_corrected,
    "bootstrap": bootstrap,
    "studentised bootstrap": studentised_bootstrap,
    "empirical Bernstein": empirical_bernstein,
}
