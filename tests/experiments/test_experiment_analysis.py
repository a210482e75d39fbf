"""Size, checks and verdict of an experiment: known answers and planted errors."""

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.experiments.analysis import CONTROL, TREATMENT, ExperimentPlan, analyse
from recsys.experiments.design import (
    RATIO_ALARM,
    a_a_false_positives,
    days_needed,
    deviation,
    sample_ratio_p_value,
    users_needed,
)
from recsys.experiments.effects import ArmUsers

EVEN = {CONTROL: 0.5, TREATMENT: 0.5}


def users(mean, count=4_000, seed=0):
    values = np.random.default_rng(seed).normal(mean, 1, count)
    return ArmUsers(x=values, y=np.ones(count))


def result(primary, guardrail=0.0, counts=(4_000, 4_000), **changes):
    plan = ExperimentPlan(**{"primary": "click", "guardrails": ("wait",), "shares": EVEN, "users": 8_000} | changes)
    metrics = {
        "click": {CONTROL: users(0, counts[0], 1), TREATMENT: users(primary, counts[1], 2)},
        "wait": {CONTROL: users(5, seed=3), TREATMENT: users(5 + guardrail, seed=4)},
    }
    return analyse(plan, metrics)


def test_users_and_days_by_the_formula_of_two_proportions():
    assert users_needed(0.3, 0.01) == pytest.approx(2 * 2 * 7.849 * 0.09 / 0.01**2, rel=1e-3)
    assert users_needed(0.3, 0.01, share=0.1) == pytest.approx(users_needed(0.3, 0.01) * 0.25 / 0.09, rel=1e-4)
    assert days_needed(28_000, 2_000, 0.5) == 28
    assert deviation(np.array([0.0, 1.0]), np.ones(2)) == pytest.approx(0.5**0.5)
    with pytest.raises(ConfigError, match="not 0"):
        users_needed(0.3, 0.0)
    with pytest.raises(ConfigError, match="never suffice"):
        days_needed(10, 0, 1)


def test_the_planned_number_of_users_finds_the_effect_as_often_as_planned():
    num = users_needed(1.0, 0.2) // 2
    rng = np.random.default_rng(0)
    control, treatment = rng.normal(0, 1, (2_000, num)), rng.normal(0.2, 1, (2_000, num))
    z = (treatment.mean(axis=1) - control.mean(axis=1)) / np.sqrt(2 / num)
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.8, abs=0.03)


def test_a_planted_split_of_52_to_48_is_found():
    assert sample_ratio_p_value({CONTROL: 5_200, TREATMENT: 4_800}, EVEN) < RATIO_ALARM
    assert sample_ratio_p_value({CONTROL: 5_030, TREATMENT: 4_970}, EVEN) > 0.5
    assert sample_ratio_p_value({CONTROL: 900, TREATMENT: 100}, {CONTROL: 0.9, TREATMENT: 0.1}) == 1
    with pytest.raises(ConfigError, match="same arms"):
        sample_ratio_p_value({"a": 1}, EVEN)


def test_halves_of_the_same_users_rarely_differ():
    rng = np.random.default_rng(0)
    y = rng.integers(1, 20, 600)
    share = a_a_false_positives(rng.binomial(y, 0.1).astype(float), y.astype(float), splits=300, seed=0)
    assert 0.02 < share < 0.09


@pytest.mark.parametrize(
    ("case", "verdict"),
    [
        ({"primary": 0.2}, "ship"),
        ({"primary": -0.2}, "stop"),
        ({"primary": 0.0}, "wait"),
        ({"primary": 0.2, "guardrail": -0.2}, "stop"),
        ({"primary": 0.2, "guardrail": 0.2, "less": ("wait",)}, "stop"),
        ({"primary": 0.2, "counts": (4_400, 4_000)}, "invalid"),
    ],
)
def test_the_verdict_follows_from_the_intervals(case, verdict):
    assert result(**case).verdict == verdict


def test_looking_early_costs_width_and_several_metrics_raise_p_values():
    peeking, once = result(0.05), result(0.05, peeking=False)
    widths = [high - low for low, high in (one.metrics["click"].interval for one in (peeking, once))]
    assert widths[0] > 1.2 * widths[1]
    for one in once.metrics.values():
        assert one.effect.p_value <= one.adjusted_p_value <= 2 * one.effect.p_value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"guardrails": ("click",)}, "name it once"),
        ({"shares": {"a": 1.0}}, "shares are of a"),
        ({"primary": "x"}, "'x'"),
    ],
)
def test_a_plan_that_fits_nothing_is_refused(changes, words):
    both = {CONTROL: users(0), TREATMENT: users(0)}
    with pytest.raises(ConfigError, match=words):
        analyse(ExperimentPlan(**{"primary": "click", "shares": EVEN, "users": 10} | changes), {"click": both})
