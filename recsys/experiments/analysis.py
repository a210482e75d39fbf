"""Analysis of a running experiment: effects on its metrics, whether they can be trusted, and what to do.

Of several metrics the p-values are adjusted so that at most 5% of the found effects are false (Benjamini and Hochberg, JRSS B
1995). The verdict rests on the intervals of the primary metric and of the guardrails, not on those p-values.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from scipy.stats import false_discovery_control

from recsys.errors import ConfigError
from recsys.experiments.design import RATIO_ALARM, sample_ratio_p_value
from recsys.experiments.effects import ArmUsers, Effect, effect
from recsys.experiments.mean_intervals import Interval

CONTROL, TREATMENT = "control", "treatment"
VERDICTS = {
    "invalid": "the arms do not have the users that their shares say: find out why, and trust no figure",
    "stop": "treatment is worse: end the experiment and keep control",
    "ship": "treatment is better and no guardrail is hurt: it can be rolled out",
    "wait": "nothing is decided yet: let it run on to its planned end, then keep control",
}
"""verdict -> what to do"""


@dataclass(frozen=True, kw_only=True)
class ExperimentPlan:
    """Plan of an experiment, made before its start; raises ConfigError for a metric of two roles."""

    primary: str
    """metric that decides; more is better unless `less` names it"""
    guardrails: Collection[str] = ()
    """metrics that may not get worse"""
    less: Collection[str] = ()
    """metrics of which less is better"""
    shares: Mapping[str, float]
    """share of the users in CONTROL and TREATMENT"""
    users: int
    """planned number of both arms"""
    peeking: bool = True
    """it may be looked at before its end: intervals are always valid ones"""

    def __post_init__(self) -> None:
        if self.primary in self.guardrails:
            raise ConfigError(f"{self.primary!r} is the primary metric and a guardrail; name it once")
        if self.shares.keys() != {CONTROL, TREATMENT}:
            raise ConfigError(f"shares are of {', '.join(self.shares)}; give those of {CONTROL} and {TREATMENT}")


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """Effect on one metric."""

    effect: Effect
    interval: Interval
    """of the difference: always valid where the plan allows peeking"""
    adjusted_p_value: float
    """for one look, adjusted for the number of metrics"""


@dataclass(frozen=True, kw_only=True)
class ExperimentResult:
    """Effects on all metrics, and the verdict."""

    verdict: str
    """key of VERDICTS"""
    metrics: Mapping[str, MetricResult]
    sample_ratio_p_value: float

    def excludes(self, metric: str, effect: float) -> bool:
        """Return whether the interval of a metric holds no effect of this size, of either sign."""
        return max(map(abs, self.metrics[metric].interval)) < abs(effect)


def analyse(plan: ExperimentPlan, metrics: Mapping[str, Mapping[str, ArmUsers]]) -> ExperimentResult:
    """Compare the arms. metrics: metric -> CONTROL and TREATMENT -> their users, all users of the arm in the primary metric."""
    for name in (plan.primary, *plan.guardrails):
        if name not in metrics:
            raise ConfigError(
                f"the plan names the metric {name!r}, which is not measured; known are {', '.join(metrics)}"
            )
    counts = {arm: len(users.x) for arm, users in metrics[plan.primary].items()}
    return judged(plan, {name: effect(arms[CONTROL], arms[TREATMENT]) for name, arms in metrics.items()}, counts)


def judged(plan: ExperimentPlan, effects: Mapping[str, Effect], counts: Mapping[str, int]) -> ExperimentResult:
    """Return the verdict on effects by metric. counts: CONTROL and TREATMENT -> number of users."""
    adjusted = false_discovery_control([one.p_value for one in effects.values()])
    results = {
        name: MetricResult(
            effect=one,
            interval=one.always_valid(plan.users) if plan.peeking else one.interval,
            adjusted_p_value=float(p_value),
        )
        for (name, one), p_value in zip(effects.items(), adjusted, strict=True)
    }
    ratio = sample_ratio_p_value(counts, plan.shares)
    return ExperimentResult(verdict=_verdict(plan, results, ratio), metrics=results, sample_ratio_p_value=ratio)


def _verdict(plan: ExperimentPlan, results: Mapping[str, MetricResult], ratio: float) -> str:
    if ratio < RATIO_ALARM:
        return "invalid"
    if any(_is_worse(plan, name, results[name]) for name in (plan.primary, *plan.guardrails)):
        return "stop"
    return "ship" if _is_better(plan, plan.primary, results[plan.primary]) else "wait"


def _is_better(plan: ExperimentPlan, name: str, result: MetricResult) -> bool:
    low, high = result.interval
    return high < 0 if name in plan.less else low > 0


def _is_worse(plan: ExperimentPlan, name: str, result: MetricResult) -> bool:
    low, high = result.interval
    return low > 0 if name in plan.less else high < 0
