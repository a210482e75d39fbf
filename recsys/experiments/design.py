"""Size and duration of an experiment before its start, and checks that its assignment worked.

Shapes: U users.
"""

import math
from collections.abc import Mapping

import numpy as np
from scipy.stats import chisquare, norm

from recsys.errors import ConfigError, check_ranges
from recsys.experiments.effects import ArmUsers, effect
from recsys.experiments.mean_intervals import LEVEL
from recsys.experiments.ratios import linearised

POWER = 0.8
RATIO_ALARM = 0.001
"""p-value of the sample-ratio test below which an assignment is broken; tests are many, broken ones must not be rare alarms"""


def users_needed(deviation: float, effect: float, *, share: float = 0.5, power: float = POWER) -> int:
    """Return how many users both arms need together for this power to find an absolute effect, at one look of 95%.

    deviation: standard deviation of a user's contribution; share: of the users who get the treatment
    """
    check_ranges("experiment", share=(share, 0.001, 0.999), power=(power, 0.01, 0.9999))
    if not deviation > 0 or not 1e-12 <= abs(effect) <= 1e12:
        raise ConfigError(
            f"the deviation is {deviation:g} and the effect {effect:g}; give finite numbers that are not 0"
        )
    quantiles = float(norm.ppf((1 + LEVEL) / 2) + norm.ppf(power))
    return math.ceil((quantiles * deviation / effect) ** 2 / (share * (1 - share)))


def days_needed(users: int, new_users_a_day: float, shares: float) -> int:
    """Return the days until so many users have come; shares: of the traffic that takes part."""
    if new_users_a_day * shares <= 0:
        raise ConfigError(
            f"{new_users_a_day:g} users a day, of whom {shares:g} take part, never suffice; let more take part"
        )
    return math.ceil(users / (new_users_a_day * shares))


def sample_ratio_p_value(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Return the p-value of the arms' users under their shares (chi-squared): below RATIO_ALARM no figure can be trusted."""
    if counts.keys() != shares.keys():
        raise ConfigError(
            f"users are of the arms {', '.join(counts)}, shares of {', '.join(shares)}; give the same arms"
        )
    total = sum(counts.values()) / sum(shares.values())
    return float(chisquare([*counts.values()], [share * total for share in shares.values()]).pvalue)


def a_a_false_positives(x: np.ndarray, y: np.ndarray, *, splits: int, seed: int) -> float:
    """Return the share of random halvings of users [U] that a test calls different: about .05 for a sound metric."""
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(splits):
        half = rng.permutation(len(x)) < len(x) // 2
        found += effect(ArmUsers(x=x[half], y=y[half]), ArmUsers(x=x[~half], y=y[~half])).p_value < 1 - LEVEL
    return found / splits


def deviation(x: np.ndarray, y: np.ndarray) -> float:
    """Return the standard deviation of users' contributions [U] to sum x / sum y, for `users_needed`."""
    return float(linearised(x, y).std(ddof=1))
