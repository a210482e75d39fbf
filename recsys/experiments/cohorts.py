"""Effects by cohort, drawn towards their common mean: the largest of many noisy effects is mostly noise.

Shapes: C cohorts, G values of the deviation between cohorts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from recsys.errors import DataError
from recsys.experiments.effects import Effect
from recsys.experiments.mean_intervals import LEVEL, Interval

MIN_COHORTS = 3
"""fewer leave the deviation between cohorts without a posterior under a flat prior"""
GRID, REACH = 400, 5.0
"""values of the deviation between cohorts, and how many spreads of the effects they reach to"""


@dataclass(frozen=True, kw_only=True)
class CohortEffect:
    """Effect on one cohort after shrinkage."""

    difference: float
    error: float

    @property
    def interval(self) -> Interval:
        """Return the interval of 95%."""
        reach = float(norm.ppf((1 + LEVEL) / 2)) * self.error
        return self.difference - reach, self.difference + reach


def shrunk_effects(effects: Mapping[str, Effect]) -> dict[str, CohortEffect]:
    """Return the posterior of each cohort's effect, cohorts taken as draws from a normal distribution of effects.

    Mean and deviation of that distribution have flat priors and are integrated over, the deviation on a grid, since a fixed
    estimate of it, often 0, makes intervals too short. Gelman et al., Bayesian Data Analysis, 3rd edition, section 5.4.
    """
    if len(effects) < MIN_COHORTS or any(one.error == 0 for one in effects.values()):
        raise DataError(
            f"{len(effects)} cohorts came; give at least {MIN_COHORTS}, each of users who differ, so that it has an error"
        )
    found = np.array([one.difference for one in effects.values()])
    noise = np.array([one.error**2 for one in effects.values()])
    between = np.linspace(0, REACH * (found.std() + np.sqrt(noise).max()), GRID)[:, None] ** 2
    weights, mean, mean_variance = _posterior_of_deviation(found, noise, between)
    own = between / (between + noise)
    means = mean + own * (found - mean)
    variances = own * noise + (1 - own) ** 2 * mean_variance
    centre = weights @ means
    errors = np.sqrt(weights @ (variances + (means - centre) ** 2))
    return {
        name: CohortEffect(difference=float(one), error=float(error))
        for name, one, error in zip(effects, centre, errors, strict=True)
    }


def _posterior_of_deviation(
    found: np.ndarray, noise: np.ndarray, between: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities [G] of the variances between cohorts [G, 1], and mean and variance [G, 1] of the common mean for each."""
    total = between + noise
    variance = 1 / (1 / total).sum(axis=1, keepdims=True)
    mean = variance * (found / total).sum(axis=1, keepdims=True)
    log = 0.5 * np.log(variance[:, 0]) - 0.5 * (np.log(total) + (found - mean) ** 2 / total).sum(axis=1)
    weights = np.exp(log - log.max())
    return weights / weights.sum(), mean, variance
