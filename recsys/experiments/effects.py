"""Effect of an arm against control on a metric that is a ratio of two sums over users (recsys.experiments.ratios).

A plain mean is the ratio with y = 1. Users are the units: each is in one arm.
Shapes: U users of an arm.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm

from recsys.errors import DataError
from recsys.experiments.mean_intervals import LEVEL, Interval, standard_error
from recsys.experiments.ratios import linearised
from recsys.experiments.sequential import normal_mixture_factor


@dataclass(frozen=True, kw_only=True, eq=False)
class ArmUsers:
    """Sums of the users of one arm, [U] each; raises DataError for sums that give no ratio."""

    x: np.ndarray
    y: np.ndarray
    before: tuple[np.ndarray, np.ndarray] | None = None
    """the same sums before the experiment, 0 of users who were not there"""

    def __post_init__(self) -> None:
        if len(self.x) < 2 or self.y.sum() <= 0:
            raise DataError(
                f"an arm has {len(self.x)} users and a denominator of {self.y.sum():g}; wait for more users"
            )


@dataclass(frozen=True, kw_only=True)
class Effect:
    """Difference of an arm to control."""

    control: float
    treatment: float
    """figures of the arms, adjusted where `theta` is not 0"""
    control_error: float
    treatment_error: float
    """their standard errors"""
    users: int
    """of both arms"""
    theta: float = 0.0
    """coefficient of the covariate of CUPED"""
    covariance: float = 0.0
    """of both figures, 0 where no user is in both arms"""

    @property
    def error(self) -> float:
        """Return the standard error of the difference."""
        return float(np.sqrt(max(0.0, self.control_error**2 + self.treatment_error**2 - 2 * self.covariance)))

    @property
    def difference(self) -> float:
        return self.treatment - self.control

    @property
    def p_value(self) -> float:
        """Two-sided, for one look at an end that was fixed before the start."""
        if self.error == 0:
            return 1.0 if self.difference == 0 else 0.0
        return float(2 * norm.sf(abs(self.difference) / self.error))

    @property
    def interval(self) -> Interval:
        """Return the interval of 95% for one look at an end that was fixed before the start."""
        return self._within(float(norm.ppf((1 + LEVEL) / 2)))

    def always_valid(self, tuned_for: int) -> Interval:
        """Return an interval of 95% that may be looked at any number of times, narrowest at `tuned_for` users.

        It is asymptotic, and for users whose sums are final; where sums still grow, as click counts over days do, it holds in
        simulation (benchmarks.claims.measurement.experiments).
        """
        return self._within(normal_mixture_factor(self.users, 1 - LEVEL, tuned_for))

    def relative(self) -> Interval | None:
        """Return Fieller's interval of treatment / control - 1 for one look; None where control may be 0."""
        z = float(norm.ppf((1 + LEVEL) / 2))
        slack = z * z * self.control_error**2
        if self.control**2 <= slack:
            return None
        centre = self.treatment * self.control - z * z * self.covariance
        spread = z * np.sqrt(
            self.control_error**2 * self.treatment**2
            + self.treatment_error**2 * self.control**2
            - 2 * self.covariance * self.treatment * self.control
            - z * z * (self.control_error**2 * self.treatment_error**2 - self.covariance**2)
        )
        low, high = ((centre + sign * spread) / (self.control**2 - slack) - 1 for sign in (-1, 1))
        return float(low), float(high)

    def _within(self, factor: float) -> Interval:
        return self.difference - factor * self.error, self.difference + factor * self.error


def effect(control: ArmUsers, treatment: ArmUsers) -> Effect:
    """Compare two arms; adjusted by CUPED where both have sums of before."""
    values = [linearised(arm.x, arm.y) for arm in (control, treatment)]
    theta = 0.0
    if control.before is not None and treatment.before is not None:
        values, theta = cuped(values, _covariates(control.before, treatment.before))
    return _of_contributions(*values, users=sum(map(len, values)), theta=theta)


def paired(control: ArmUsers, treatment: ArmUsers) -> Effect:
    """Compare two arms of which every user is in both: what a user does at all drops out of the difference."""
    values = [linearised(arm.x, arm.y) for arm in (control, treatment)]
    covariance = float(np.cov(values[0], values[1])[0, 1] / len(values[0]))
    return _of_contributions(*values, users=len(values[0]), covariance=covariance)


def _of_contributions(control: np.ndarray, treatment: np.ndarray, **others: Any) -> Effect:
    return Effect(
        control=float(control.mean()),
        treatment=float(treatment.mean()),
        control_error=standard_error(control),
        treatment_error=standard_error(treatment),
        **others,
    )


def cuped(values: list[np.ndarray], covariates: list[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Return contributions of two arms less theta (covariate - its mean over both arms), and theta = cov / var within arms.

    The variance falls by the factor 1 - correlation^2. Deng, Xu, Kohavi and Walker, Improving the sensitivity of online
    controlled experiments by utilizing pre-experiment data, WSDM 2013.
    """
    centred = [(one - one.mean(), z - z.mean()) for one, z in zip(values, covariates, strict=True)]
    variance = sum(float(z @ z) for _, z in centred)
    theta = sum(float(one @ z) for one, z in centred) / variance if variance > 0 else 0.0
    middle = np.concatenate(covariates).mean()
    return [one - theta * (z - middle) for one, z in zip(values, covariates, strict=True)], theta


def _covariates(*before: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """x - R y of the users of each arm, R the ratio of before over both arms; 0 for users who were not there."""
    x, y = (np.concatenate(part) for part in zip(*before, strict=True))
    estimate = x.sum() / y.sum() if y.sum() > 0 else 0.0
    return [x - estimate * y for x, y in before]
