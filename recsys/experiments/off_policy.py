"""Off-policy evaluation: estimators of the reward of another policy from a bandit log.

Each estimator gives one contribution per round; the estimate is their mean. For ratios of sums the contributions are
linearised (delta method), so that their mean is still the estimate and their standard deviation gives its standard error.

Shapes: R rounds, A actions. Names: w weight, pi / p of the shown action; q the reward model; e residual, r - q.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recsys.data.bandit import BanditLog, check_numbers, first_true
from recsys.errors import DataError
from recsys.experiments.mean_intervals import Interval, skew_corrected, standard_error

TOLERANCE = 1e-6
"""allowed deviation of a sum of probabilities from 1"""
GRID = tuple(float(2**power) for power in np.arange(0, 11, 0.5))
"""candidates for the threshold and, squared, the shrinkage"""


@dataclass(frozen=True, kw_only=True)
class OffPolicyData:
    """Log, evaluated policy and reward model; raises DataError where they do not fit together.

    The policy must not choose actions that the log could not show (`possible`). It may choose actions that the log by
    chance did not show; `Estimate.unseen` is their share.
    """

    log: BanditLog
    policy: np.ndarray
    """[R, A] probability of each action under the evaluated policy"""
    predicted: np.ndarray
    """[R, A] rewards predicted by a model that was not fitted on the round"""

    def __post_init__(self) -> None:
        shape = (len(self.log), self.log.num_actions)
        for name in ("policy", "predicted"):
            if (values := getattr(self, name)).shape != shape:
                raise DataError(f"{name} has the shape {values.shape}; wanted {shape}, rounds and actions of the log")
            check_numbers(name, values)
        _check_distribution(self.policy)
        _check_support(self.log, self.policy)

    @cached_property
    def weights(self) -> np.ndarray:
        """Return w, [R]."""
        return self._shown(self.policy) / self.log.propensities

    @cached_property
    def residuals(self) -> np.ndarray:
        """Return e, [R]."""
        return self.log.rewards - self._shown(self.predicted)

    @cached_property
    def expected(self) -> np.ndarray:
        """Return the sum over a of pi(a) q(a), [R]."""
        return np.einsum("ra,ra->r", self.policy, self.predicted)

    def _shown(self, values: np.ndarray) -> np.ndarray:
        return values[np.arange(len(values)), self.log.actions]


def _check_distribution(policy: np.ndarray) -> None:
    if (negative := policy < 0).any():
        row, action = first_true(negative)
        raise DataError(f"policy is {policy[row, action]:g} for action {action} in round {row}; wanted 0 to 1")
    sums = policy.sum(axis=1)
    wrong = np.flatnonzero(np.abs(sums - 1) > TOLERANCE)
    if len(wrong):
        raise DataError(f"policy adds up to {sums[wrong[0]]:g} in round {wrong[0]}; divide each round by its sum")


def _check_support(log: BanditLog, policy: np.ndarray) -> None:
    if log.possible is not None and (never := (policy > 0) & ~log.possible).any():
        row, action = first_true(never)
        raise DataError(
            f"policy wants action {action} in round {row} (probability {policy[row, action]:g}), which the log could "
            "not show there; take it out of the policy or ask a log that explores it"
        )


def direct(data: OffPolicyData) -> np.ndarray:
    """Direct method: sum over a of pi(a) q(a), [R]. Beygelzimer and Langford, The offset tree, KDD 2009."""
    return data.expected


def ips(data: OffPolicyData) -> np.ndarray:
    """Inverse propensity score: w r, [R]. Horvitz and Thompson, JASA 1952."""
    return data.weights * data.log.rewards


def snips(data: OffPolicyData) -> np.ndarray:
    """Self-normalised: V = sum w r / sum w, linearised V + w (r - V) / mean w, [R].

    Swaminathan and Joachims, The self-normalized estimator for counterfactual learning, NeurIPS 2015.
    """
    return _self_normalised(data, data.log.rewards)


def doubly_robust(data: OffPolicyData) -> np.ndarray:
    """direct + w e, [R]. Dudik, Langford and Li, Doubly robust policy evaluation and learning, ICML 2011."""
    return data.expected + data.weights * data.residuals


def self_normalised_dr(data: OffPolicyData) -> np.ndarray:
    """direct + sum w e / sum w, its second part linearised as in snips, [R].

    Thomas and Brunskill, Data-efficient off-policy policy evaluation, ICML 2016 (weighted doubly robust, horizon 1).
    """
    return data.expected + _self_normalised(data, data.residuals)


def _self_normalised(data: OffPolicyData, values: np.ndarray) -> np.ndarray:
    weights = data.weights
    _check_overlap(weights)
    mean = weights @ values / weights.sum()
    return mean + weights * (values - mean) / weights.mean()


def _check_overlap(weights: np.ndarray) -> None:
    if not weights.any():
        raise DataError(
            "the policy has probability 0 for every action of the log: nothing is known of it; ask a log that shares "
            "actions with it"
        )


def switch(data: OffPolicyData, threshold: float) -> np.ndarray:
    """direct + w e where w <= threshold, else direct alone, [R]. Infinity is doubly robust, 0 is direct.

    Wang, Agarwal and Dudik, Optimal and adaptive off-policy evaluation in contextual bandits, ICML 2017.
    """
    kept = np.where(data.weights <= threshold, data.weights, 0.0)
    return data.expected + kept * data.residuals


def shrinkage(data: OffPolicyData, strength: float) -> np.ndarray:
    """direct + l w / (w^2 + l) e with l the strength, [R]. Infinity is doubly robust, 0 is direct.

    Su, Dimakopoulou, Krishnamurthy and Dudik, Doubly robust off-policy evaluation with shrinkage, ICML 2020.
    """
    return data.expected + shrunk(data.weights, strength) * data.residuals


def shrunk(weights: np.ndarray, strength: float) -> np.ndarray:
    """l w / (w^2 + l), [R]: at most sqrt(l) / 2 and never above w."""
    return weights / (1 + weights**2 / strength) if strength > 0 else np.zeros_like(weights)


def adaptive_switch(data: OffPolicyData) -> np.ndarray:
    """switch at the threshold of least variance + bound of the squared bias, [R].

    The bound is that of Wang et al. 2017: rewards lie in [0, b], so the part switched off contributes at most b times
    mean(w where w > threshold). b is the greatest reward.
    """
    grid = [*GRID, np.inf]
    greatest = float(np.abs(data.log.rewards).max())
    candidates = [switch(data, one) for one in grid]
    bias = [greatest * float(np.mean(np.where(data.weights > one, data.weights, 0.0))) for one in grid]
    return _least_error(candidates, bias)


def adaptive_shrinkage(data: OffPolicyData) -> np.ndarray:
    """shrinkage at the strength of least variance + bound of the squared bias, [R].

    As in Su, Dimakopoulou et al. 2020 the bias is read from the log, mean((w' - w) e) for the shrunk weights w', and
    bounded by its size and two standard errors.
    """
    candidates = [shrinkage(data, one) for one in (np.inf, *(one**2 for one in GRID[::-1]))]
    lost = [one - candidates[0] for one in candidates]
    return _least_error(candidates, [abs(float(one.mean())) + 2 * standard_error(one) for one in lost])


def _least_error(candidates: Sequence[np.ndarray], bias: Sequence[float]) -> np.ndarray:
    errors = [standard_error(one) ** 2 + bound**2 for one, bound in zip(candidates, bias, strict=True)]
    return candidates[int(np.argmin(errors))]


def slope_shrinkage(data: OffPolicyData) -> np.ndarray:
    """Return shrinkage at the strength that SLOPE chooses, down to the direct method, [R]."""
    return slope([shrinkage(data, one) for one in (np.inf, *(one**2 for one in GRID[::-1]), 0.0)])


def slope(candidates: Sequence[np.ndarray]) -> np.ndarray:
    """Return the last of several contributions [R], least biased first, whose 2-SE interval overlaps all before it.

    Su, Srinath and Krishnamurthy, Adaptive estimator selection for off-policy evaluation, ICML 2020. Variance should
    decrease along the list.
    """
    low, high, chosen = -np.inf, np.inf, candidates[0]
    for one in candidates:
        mean, error = float(one.mean()), standard_error(one)
        low, high = max(low, mean - 2 * error), min(high, mean + 2 * error)
        if low > high:
            break
        chosen = one
    return chosen


Estimator = Callable[[OffPolicyData], np.ndarray]
ESTIMATORS: Mapping[str, Estimator] = {
    "DM": direct,
    "IPS": ips,
    "SNIPS": snips,
    "DR": doubly_robust,
    "SN-DR": self_normalised_dr,
    "Switch-DR": adaptive_switch,
    "DR-os": adaptive_shrinkage,
    "DR-os, SLOPE": slope_shrinkage,
}
DEFAULT = "SN-DR"
"""chosen in simulations of known truth, benchmarks/claims/policy/off_policy.py: intervals that cover, then least error"""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimated mean reward of a policy with diagnostics."""

    value: float
    low: float
    high: float
    """upper end of the 95% interval"""
    effective_rounds: float
    """effective sample size (sum w)^2 / sum w^2 (Kish 1965)"""
    mean_weight: float
    """close to 1; otherwise the logged propensities are wrong or the policy leaves the log's support"""
    max_weight: float
    clipped: float
    """share of rounds with a weight above CLIP, few of which dominate the estimate"""
    unseen: float
    """share of the policy on actions that the log never showed, estimated by the reward model alone"""


CLIP = 10.0


def evaluate(
    data: OffPolicyData, estimator: str = DEFAULT, interval: Callable[[np.ndarray], Interval] = skew_corrected
) -> Estimate:
    """Return the estimate with interval and diagnostics; DataError for a name not in ESTIMATORS.

    DataError also where policy and log share no action, by every estimator but the direct method: IPS would answer 0 with an
    interval of no width, doubly robust would be the direct method.
    """
    if estimator not in ESTIMATORS:
        raise DataError(f"there is no estimator {estimator!r}; choose one of {', '.join(ESTIMATORS)}")
    if estimator != "DM":
        _check_overlap(data.weights)
    contributions, weights = ESTIMATORS[estimator](data), data.weights
    low, high = interval(contributions)
    return Estimate(
        value=float(contributions.mean()),
        low=low,
        high=high,
        effective_rounds=float(weights.sum() ** 2 / max(np.square(weights).sum(), np.finfo(float).tiny)),
        mean_weight=float(weights.mean()),
        max_weight=float(weights.max()),
        clipped=float(np.mean(weights > CLIP)),
        unseen=_unseen(data),
    )


def _unseen(data: OffPolicyData) -> float:
    shown = np.bincount(data.log.actions, minlength=data.log.num_actions) > 0
    return float(data.policy[:, ~shown].sum(axis=1).mean())
