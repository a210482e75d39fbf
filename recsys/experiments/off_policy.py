"""What would another policy have earned? Estimators from a bandit's log.

Each estimator gives one contribution a round; the estimate is their mean. Where a sum is divided by another, the
contributions are linearised (the delta method), so that their mean is still the estimate and their spread its standard
error.

Shapes: R rounds, A actions. Names: w weight, pi / p of the action shown; q the reward model; e residual, r - q.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recsys.data.bandit import BanditLog, check_numbers, first_place
from recsys.errors import DataError
from recsys.experiments.mean_intervals import Interval, skew_corrected, standard_error

TOLERANCE = 1e-6
"""by which probabilities may miss a sum of 1"""
GRID = tuple(float(2**power) for power in np.arange(0, 11, 0.5))
"""weights from which the threshold and, squared, the shrinkage are chosen"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A log, the policy that is asked about and a reward model; raises DataError where they do not fit together.

    An action that the log could not show (`possible`) may not be wanted by the policy. One that by chance it did not
    show may be; `Estimate.unseen` says how much of the policy that is.
    """

    log: BanditLog
    policy: np.ndarray
    """[R, A] probability of each action under the policy that is asked about"""
    predicted: np.ndarray
    """[R, A] rewards of a model that has not seen the round"""

    def __post_init__(self) -> None:
        wanted = (len(self.log), self.log.num_actions)
        for name in ("policy", "predicted"):
            if (values := getattr(self, name)).shape != wanted:
                raise DataError(f"{name} has the shape {values.shape}; wanted {wanted}, rounds and actions of the log")
            check_numbers(name, values)
        _check_distribution(self.policy)
        _check_support(self.log, self.policy)

    @cached_property
    def weights(self) -> np.ndarray:
        """w, [R]"""
        return self._shown(self.policy) / self.log.propensities

    @cached_property
    def residuals(self) -> np.ndarray:
        """e, [R]"""
        return self.log.rewards - self._shown(self.predicted)

    @cached_property
    def expected(self) -> np.ndarray:
        """sum over a of pi(a) q(a), [R]"""
        return np.einsum("ra,ra->r", self.policy, self.predicted)

    def _shown(self, values: np.ndarray) -> np.ndarray:
        return values[np.arange(len(values)), self.log.actions]


def _check_distribution(policy: np.ndarray) -> None:
    if (negative := policy < 0).any():
        row, action = first_place(negative)
        raise DataError(f"policy is {policy[row, action]:g} for action {action} in round {row}; wanted 0 to 1")
    sums = policy.sum(axis=1)
    wrong = np.flatnonzero(np.abs(sums - 1) > TOLERANCE)
    if len(wrong):
        raise DataError(f"policy adds up to {sums[wrong[0]]:g} in round {wrong[0]}; divide each round by its sum")


def _check_support(log: BanditLog, policy: np.ndarray) -> None:
    if log.possible is not None and (never := (policy > 0) & ~log.possible).any():
        row, action = first_place(never)
        raise DataError(
            f"policy wants action {action} in round {row} (probability {policy[row, action]:g}), which the log could "
            "not show there; take it out of the policy or ask a log that explores it"
        )


def direct(question: Question) -> np.ndarray:
    """Direct method: sum over a of pi(a) q(a), [R]. Beygelzimer and Langford, The offset tree, KDD 2009."""
    return question.expected


def ips(question: Question) -> np.ndarray:
    """Inverse propensity score: w r, [R]. Horvitz and Thompson, JASA 1952."""
    return question.weights * question.log.rewards


def snips(question: Question) -> np.ndarray:
    """Self-normalised: V = sum w r / sum w, linearised V + w (r - V) / mean w, [R].

    Swaminathan and Joachims, The self-normalized estimator for counterfactual learning, NeurIPS 2015.
    """
    return _self_normalised(question, question.log.rewards)


def doubly_robust(question: Question) -> np.ndarray:
    """direct + w e, [R]. Dudik, Langford and Li, Doubly robust policy evaluation and learning, ICML 2011."""
    return question.expected + question.weights * question.residuals


def self_normalised_dr(question: Question) -> np.ndarray:
    """direct + sum w e / sum w, its second part linearised as in snips, [R].

    Thomas and Brunskill, Data-efficient off-policy policy evaluation, ICML 2016 (weighted doubly robust, horizon 1).
    """
    return question.expected + _self_normalised(question, question.residuals)


def _self_normalised(question: Question, values: np.ndarray) -> np.ndarray:
    weights = question.weights
    if not weights.any():
        raise DataError(
            "the policy has probability 0 for every action of the log: nothing is known of it; ask a log that shares "
            "actions with it"
        )
    mean = weights @ values / weights.sum()
    return mean + weights * (values - mean) / weights.mean()


def switch(question: Question, threshold: float) -> np.ndarray:
    """direct + w e where w <= threshold, else direct alone, [R]. Infinity is doubly robust, 0 is direct.

    Wang, Agarwal and Dudik, Optimal and adaptive off-policy evaluation in contextual bandits, ICML 2017.
    """
    kept = np.where(question.weights <= threshold, question.weights, 0.0)
    return question.expected + kept * question.residuals


def shrinkage(question: Question, strength: float) -> np.ndarray:
    """direct + l w / (w^2 + l) e with l the strength, [R]. Infinity is doubly robust, 0 is direct.

    Su, Dimakopoulou, Krishnamurthy and Dudik, Doubly robust off-policy evaluation with shrinkage, ICML 2020.
    """
    return question.expected + shrunk(question.weights, strength) * question.residuals


def shrunk(weights: np.ndarray, strength: float) -> np.ndarray:
    """l w / (w^2 + l), [R]: at most sqrt(l) / 2 and never above w."""
    return weights / (1 + weights**2 / strength) if strength > 0 else np.zeros_like(weights)


def adaptive_switch(question: Question) -> np.ndarray:
    """switch at the threshold of least variance + bound of the squared bias, [R].

    The bound is that of Wang et al. 2017: rewards lie in [0, b], so what is switched off is worth at most b times
    mean(w where w > threshold). b is the greatest reward.
    """
    grid = [*GRID, np.inf]
    greatest = float(np.abs(question.log.rewards).max())
    candidates = [switch(question, one) for one in grid]
    bias = [greatest * float(np.mean(np.where(question.weights > one, question.weights, 0.0))) for one in grid]
    return _least_error(candidates, bias)


def adaptive_shrinkage(question: Question) -> np.ndarray:
    """shrinkage at the strength of least variance + bound of the squared bias, [R].

    As in Su, Dimakopoulou et al. 2020 the bias is read from the log, mean((w' - w) e) for the shrunk weights w', and
    bounded by its size and two standard errors.
    """
    candidates = [shrinkage(question, one) for one in (np.inf, *(one**2 for one in GRID[::-1]))]
    lost = [one - candidates[0] for one in candidates]
    return _least_error(candidates, [abs(float(one.mean())) + 2 * standard_error(one) for one in lost])


def _least_error(candidates: Sequence[np.ndarray], bias: Sequence[float]) -> np.ndarray:
    errors = [standard_error(one) ** 2 + bound**2 for one, bound in zip(candidates, bias, strict=True)]
    return candidates[int(np.argmin(errors))]


def slope_shrinkage(question: Question) -> np.ndarray:
    """shrinkage at the strength that SLOPE chooses, down to the direct method, [R]."""
    return slope([shrinkage(question, one) for one in (np.inf, *(one**2 for one in GRID[::-1]), 0.0)])


def slope(candidates: Sequence[np.ndarray]) -> np.ndarray:
    """Of contributions [R] each, least biased first: the last whose interval of two standard errors meets all before it.

    Su, Srinath and Krishnamurthy, Adaptive estimator selection for off-policy evaluation, ICML 2020. Variance is meant
    to fall along the list.
    """
    low, high, chosen = -np.inf, np.inf, candidates[0]
    for one in candidates:
        mean, error = float(one.mean()), standard_error(one)
        low, high = max(low, mean - 2 * error), min(high, mean + 2 * error)
        if low > high:
            break
        chosen = one
    return chosen


Estimator = Callable[[Question], np.ndarray]
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
"""chosen by benchmarks/off_policy.py, in worlds of known truth: intervals that cover in all of them, then least error"""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a policy would have earned a round, and how far that can be trusted."""

    value: float
    low: float
    high: float
    """ends of the interval of 95%"""
    effective_rounds: float
    """(sum w)^2 / sum w^2: rounds of the policy itself that would say as much (Kish 1965)"""
    mean_weight: float
    """1 but for chance; far from it, the logged propensities are wrong or the policy left the log's support"""
    max_weight: float
    clipped: float
    """share of rounds whose weight is above CLIP: a few such rounds speak for the policy alone"""
    unseen: float
    """share of the policy on actions that the log never showed: nothing but the reward model speaks for them"""


CLIP = 10.0


def evaluate(
    question: Question, estimator: str = DEFAULT, interval: Callable[[np.ndarray], Interval] = skew_corrected
) -> Estimate:
    """The estimate with its interval and diagnostics; DataError for an estimator that is not one of ESTIMATORS."""
    if estimator not in ESTIMATORS:
        raise DataError(f"there is no estimator {estimator!r}; choose one of {', '.join(ESTIMATORS)}")
    contributions, weights = ESTIMATORS[estimator](question), question.weights
    low, high = interval(contributions)
    return Estimate(
        value=float(contributions.mean()),
        low=low,
        high=high,
        effective_rounds=float(weights.sum() ** 2 / max(np.square(weights).sum(), np.finfo(float).tiny)),
        mean_weight=float(weights.mean()),
        max_weight=float(weights.max()),
        clipped=float(np.mean(weights > CLIP)),
        unseen=_unseen(question),
    )


def _unseen(question: Question) -> float:
    shown = np.bincount(question.log.actions, minlength=question.log.num_actions) > 0
    return float(question.policy[:, ~shown].sum(axis=1).mean())
