"""Intervals of 95% for the mean of contributions that are few, skewed or both.

Constant contributions (a log without a click under IPS, say) give an interval without width: they carry no information
on the uncertainty.

Shapes: R rounds, S resamples.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import ndtri

from recsys.errors import DataError

LEVEL = 0.95
RESAMPLES = 400

Interval = tuple[float, float]


def standard_error(contributions: np.ndarray) -> float:
    """Return the standard error of the mean of contributions [R]; DataError for fewer than two."""
    if len(contributions) < 2:
        raise DataError(f"an interval needs at least two rounds, the log has {len(contributions)}; collect more")
    return float(contributions.std(ddof=1) / np.sqrt(len(contributions)))


def normal(contributions: np.ndarray) -> Interval:
    """Return mean +- 1.96 standard errors of contributions [R]."""
    mean, error = float(contributions.mean()), standard_error(contributions)
    return mean - _quantile() * error, mean + _quantile() * error


def skew_corrected(contributions: np.ndarray) -> Interval:
    """Return the interval by the studentised mean of contributions [R], skewness removed by a monotone cubic.

    Hall, On the removal of skewness by transformation, JRSS B 1992: with g = skewness / sqrt(R) and T the studentised
    mean, T + g T^2 / 3 + g^2 T^3 / 27 + g / 6 is nearly normal; the ends are where it is +- 1.96.
    """
    mean, error = float(contributions.mean()), standard_error(contributions)
    if error <= _noise(contributions):
        return mean, mean
    deviations = (contributions - mean) / contributions.std()
    skewness = float(np.mean(deviations * deviations * deviations)) / np.sqrt(len(contributions))
    low, high = (mean - error * _untransformed(end, skewness) for end in (_quantile(), -_quantile()))
    return low, high


def _untransformed(value: float, skewness: float) -> float:
    """Return the T whose transform is value."""
    if abs(skewness) < 1e-6:
        return value
    return float(3 / skewness * (np.cbrt(1 + skewness * (value - skewness / 6)) - 1))


def studentised_bootstrap(contributions: np.ndarray, counts: np.ndarray | None = None) -> Interval:
    """Return the bootstrap-t interval of contributions [R]: resampled studentised means replace the normal distribution.

    counts: [S, R], multiplicities of the rounds, from `resamples`. Hall, Theoretical comparison of bootstrap
    confidence intervals, Annals of Statistics 1988.
    """
    mean, error = float(contributions.mean()), standard_error(contributions)
    counts = resamples(len(contributions), seed=0) if counts is None else counts
    centred, total = (contributions - mean).astype(counts.dtype), counts.sum(axis=1)
    means, squares = counts @ centred / total, counts @ centred**2 / total
    errors = np.sqrt(np.maximum(squares - means**2, 0) / total)
    if error <= _noise(contributions) or not (errors > 0).any():
        return mean, mean
    low, high = np.quantile(means[errors > 0] / errors[errors > 0], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return mean - error * float(high), mean - error * float(low)


def resamples(rounds: int, seed: int) -> np.ndarray:
    """Return multiplicities of the rounds in each resample, [S, R]: Poisson of mean 1, the bootstrap for many rounds."""
    return np.random.default_rng(seed).poisson(1.0, (RESAMPLES, rounds)).astype(np.float32)


def empirical_bernstein(contributions: np.ndarray) -> Interval:
    """Return an interval valid for any R: sd sqrt(2 l / R) + 7 b l / (3 (R - 1)), l = log(4 / .05), b the range of values.

    Maurer and Pontil, Empirical Bernstein bounds and sample variance penalization, COLT 2009.
    """
    mean, error = float(contributions.mean()), standard_error(contributions)
    log = np.log(4 / (1 - LEVEL))
    width = float(error * np.sqrt(2 * log) + 7 * np.ptp(contributions) * log / (3 * (len(contributions) - 1)))
    return mean - width, mean + width


def _noise(contributions: np.ndarray) -> float:
    """Return the standard error that rounding alone can cause."""
    return float(8 * np.finfo(float).eps * np.abs(contributions).max())


def _quantile() -> float:
    return float(ndtri((1 + LEVEL) / 2))


INTERVALS: Mapping[str, Callable[[np.ndarray], Interval]] = {
    "normal": normal,
    "skew-corrected": skew_corrected,
    "studentised bootstrap": studentised_bootstrap,
    "empirical Bernstein": empirical_bernstein,
}
