"""Intervals over users: bootstrap of means, ratios and differences, jackknife of figures that are no mean.

Shapes: B users.
"""

from collections.abc import Sequence

import numpy as np

DRAWN_AT_ONCE = 2**18
"""counts of a block of bootstrap samples, 2 MiB"""


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the mean of values [B] with weights [B]."""
    return float(weights @ values / weights.sum())


def bootstrap_interval(
    values: np.ndarray, seed: int, weights: np.ndarray | None = None, samples: int = 1000
) -> tuple[float, float]:
    """95% percentile bootstrap interval of the (weighted) mean of values [B], resampling users with their weights [B]."""
    low, high = np.percentile(_means(values, seed, weights, samples), [2.5, 97.5])
    return float(low), float(high)


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray, seed: int) -> tuple[float, float]:
    """95% percentile bootstrap interval of the sum of numerators [B] over that of denominators [B], resampling users.

    Samples without a denominator are left out.
    """
    totals, weights = _sums(numerators, denominators, seed, 1000)
    low, high = np.percentile(totals[weights > 0] / weights[weights > 0], [2.5, 97.5])
    return float(low), float(high)


def group_ratio_interval(lower: np.ndarray, upper: np.ndarray, seed: int, samples: int = 1000) -> tuple[float, float]:
    """95% percentile bootstrap interval of the ratio of the means of two groups of other users, [B] and [B']."""
    above, below = _means(lower, seed, None, samples), _means(upper, seed + 1, None, samples)
    low, high = np.percentile((above[below > 0] / below[below > 0]), [2.5, 97.5])
    return float(low), float(high)


def jackknife_interval(value: float, without: np.ndarray) -> tuple[float, float]:
    """95% normal interval of a figure of all users from the same figure without each of them, [U] (Efron and Tibshirani 1993,
    chapter 11).

    Resampled users would hold fewer different ones, which biases what counts different items.
    """
    num = len(without)
    half = 1.959964 * float(np.sqrt((num - 1) / num * np.square(without - without.mean()).sum()))
    return max(0.0, value - half), value + half


def paired_bootstrap(a: np.ndarray, b: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Mean of a - b over the same users [B], with the low and high end of its 95% interval."""
    return (float(np.mean(_paired(a, b))), *bootstrap_interval(a - b, seed))


def paired_p_value(a: np.ndarray, b: np.ndarray, seed: int, samples: int = 1000) -> float:
    """Two-sided, of a mean of a - b that is 0: twice the share of bootstrap means on the other side of 0, plus one of them
    (Davison and Hinkley 1997, eq. 4.11), so never below 2 / (samples + 1).
    """
    means = _means(_paired(a, b), seed, None, samples)
    return min(1.0, 2 * (1 + min((means <= 0).sum(), (means >= 0).sum())) / (samples + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for how many there are (Holm 1979), in the same order."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    rising = np.maximum.accumulate((len(values) - np.arange(len(values))) * values[order])
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, rising)
    return [float(one) for one in adjusted]


def _paired(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.shape != b.shape:
        raise ValueError(f"the two systems have values of shapes {a.shape} and {b.shape}; give both the same users")
    return a - b


def _means(values: np.ndarray, seed: int, weights: np.ndarray | None, samples: int) -> np.ndarray:
    """Return bootstrap means [samples] over resampled users."""
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"bootstrap needs one finite value a user, got shape {values.shape}, maybe with NaN")
    weights = np.ones(len(values)) if weights is None else weights
    totals, weight_totals = _sums(weights * values, weights, seed, samples)
    return totals / weight_totals


def _sums(first: np.ndarray, second: np.ndarray, seed: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of two values [B] of resampled users, [samples] each.

    Users with the same pair are exchangeable, so drawing how often each distinct pair comes (a multinomial) is the same
    bootstrap, at the price of the distinct pairs only. Efron, Bootstrap methods, Annals of Statistics 1979.
    """
    columns, counts = np.unique(np.stack([first, second], axis=1), axis=0, return_counts=True)
    generator, num_users = np.random.default_rng(seed), len(first)
    block = max(1, DRAWN_AT_ONCE // len(columns))
    sums = [
        generator.multinomial(num_users, counts / num_users, size=min(block, samples - start)) @ columns
        for start in range(0, samples, block)
    ]
    totals, second_totals = np.concatenate(sums).T
    return totals, second_totals
