"""Shares of arms that follow what the arms earn, and effects that stay valid while shares change.

A share that follows the outcomes makes the pooled means of the arms biased: an arm that did badly by chance gets fewer users to
make up for it. Within a period of fixed shares arms are divided at random, so the difference of each period is unbiased, and so
is their mean with weights that do not depend on outcomes: a period counts by its users (as batched OLS, Zhang, Janson and
Murphy, Inference for batched bandits, NeurIPS 2020, with users who come again as clusters).

Shapes: U users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.errors import ConfigError, DataError
from recsys.experiments.effects import Effect

DRAWS, SEED = 20_000, 0
"""draws from the posterior of the arms, and their seed"""
DIGITS = 4
"""of a share"""


@dataclass(frozen=True, kw_only=True)
class PeriodUsers:
    """Users of one arm in one period of fixed shares."""

    users: np.ndarray
    """[U] ids"""
    x: np.ndarray
    """[U] numerator and `y` denominator of the metric"""
    y: np.ndarray


@dataclass(frozen=True, kw_only=True)
class ArmMean:
    """Figure of an arm over all periods."""

    value: float
    error: float
    users: int


def arm_mean(periods: Sequence[PeriodUsers], weights: Sequence[float]) -> ArmMean:
    """Return the weighted mean of the ratios of an arm over its periods; the error counts a user of several ones once.

    DataError for a period with fewer than two users of the arm.
    """
    value, parts = 0.0, []
    for one, weight in zip(periods, weights, strict=True):
        if len(one.x) < 2 or one.y.sum() <= 0:
            raise DataError(f"an arm has {len(one.x)} users in a period of its shares; wait for more")
        own = one.x.sum() / one.y.sum()
        value += weight * float(own)
        parts.append(weight * (one.x - own * one.y) / one.y.sum())
    _, user = np.unique(np.concatenate([one.users for one in periods]), return_inverse=True)
    by_user = np.bincount(user, np.concatenate(parts))
    return ArmMean(value=value, error=float(np.sqrt((by_user**2).sum())), users=len(by_user))


def period_weights(arms: Mapping[str, Sequence[PeriodUsers]]) -> list[float]:
    """Return the share of the users of all arms that came in each period."""
    counts = np.sum([[len(one.users) for one in periods] for periods in arms.values()], axis=0)
    return list((counts / counts.sum()).tolist())


def batched_effect(control: Sequence[PeriodUsers], treatment: Sequence[PeriodUsers]) -> Effect:
    """Compare two arms over periods [P] of fixed shares each."""
    weights = period_weights({"control": control, "treatment": treatment})
    one, other = (arm_mean(arm, weights) for arm in (control, treatment))
    return Effect(
        control=one.value,
        treatment=other.value,
        control_error=one.error,
        treatment_error=other.error,
        users=one.users + other.users,
    )


def best_probabilities(means: Mapping[str, ArmMean], *, less: bool = False) -> dict[str, float]:
    """Return the probability of each arm to be the best, by draws from normal posteriors (Thompson, Biometrika 1933).

    less: the smallest figure is the best
    """
    rng = np.random.default_rng(SEED)
    drawn = np.stack([rng.normal(one.value, one.error, DRAWS) for one in means.values()])
    best = (drawn.argmin(axis=0) if less else drawn.argmax(axis=0)).astype(np.int64)
    return dict(zip(means, (np.bincount(best, minlength=len(means)) / DRAWS).tolist(), strict=True))


def allocated_shares(probabilities: Mapping[str, float], least: float) -> dict[str, float]:
    """Return the next shares: `least` for each arm, and what is left by the probability to be the best; they add up to 1."""
    if not 0 < least * len(probabilities) <= 1:
        raise ConfigError(
            f"least_share is {least:g} of {len(probabilities)} arms; give more than 0 and at most {1 / len(probabilities):g}"
        )
    free = 1 - least * len(probabilities)
    shares = {name: round(least + free * one, DIGITS) for name, one in probabilities.items()}
    largest = max(shares, key=lambda name: shares[name])
    rest = sum(one for name, one in shares.items() if name != largest)
    return {**shares, largest: round(1 - rest, DIGITS)}
