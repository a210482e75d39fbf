"""Effects of arms: by hand, by simulation with known truth, and by library functions that do the same otherwise."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from recsys.errors import DataError
from recsys.experiments.effects import ArmUsers, cuped, effect, paired


def arm(x, y=None, before=None):
    x = np.asarray(x, dtype=float)
    return ArmUsers(x=x, y=np.ones(len(x)) if y is None else np.asarray(y, dtype=float), before=before)


def test_the_difference_of_means_is_that_of_welch():
    rng = np.random.default_rng(0)
    control, treatment = rng.normal(1, 1, 3_000), rng.normal(1.1, 2, 4_000)
    found = effect(arm(control), arm(treatment))
    welch = ttest_ind(treatment, control, equal_var=False)
    assert found.difference == pytest.approx(treatment.mean() - control.mean())
    assert found.p_value == pytest.approx(welch.pvalue, rel=0.05)
    assert found.interval == pytest.approx(tuple(welch.confidence_interval()), rel=0.01)


def test_a_ratio_counts_users_and_not_their_requests():
    """Copies of every request of each user change neither the effect nor its error."""
    rng = np.random.default_rng(1)
    y = rng.integers(1, 9, (2, 500))
    x = rng.binomial(y, rng.beta(2, 5, (2, 500)))
    once, tenfold = (effect(arm(n * x[0], n * y[0]), arm(n * x[1], n * y[1])) for n in (1, 10))
    assert (once.difference, once.error) == pytest.approx((tenfold.difference, tenfold.error))
    naive = np.sqrt(sum(p * (1 - p) / n for p, n in ((once.control, y[0].sum()), (once.treatment, y[1].sum()))))
    assert once.error > 1.1 * naive


def test_cuped_narrows_by_the_correlation_and_moves_no_mean():
    rng = np.random.default_rng(2)
    before = rng.normal(size=(2, 20_000))
    after = 0.8 * before + 0.6 * rng.normal(size=(2, 20_000)) + np.array([[0.0], [0.05]])
    ones = np.ones(20_000)
    plain = effect(arm(after[0]), arm(after[1]))
    adjusted = effect(arm(after[0], before=(before[0], ones)), arm(after[1], before=(before[1], ones)))
    assert adjusted.theta == pytest.approx(0.8, abs=0.02)
    assert adjusted.error / plain.error == pytest.approx((1 - 0.8**2) ** 0.5, rel=0.02)
    assert abs(adjusted.difference - 0.05) < 3 * adjusted.error


def test_a_covariate_without_variance_changes_nothing():
    values = [np.array([1.0, 2.0, 4.0]), np.array([0.0, 5.0, 1.0])]
    same, theta = cuped(values, [np.zeros(3), np.zeros(3)])
    assert theta == 0
    assert all(np.array_equal(*pair) for pair in zip(same, values, strict=True))


def test_the_relative_effect_holds_the_ratio_and_is_refused_near_a_control_of_0():
    rng = np.random.default_rng(3)
    low, high = effect(arm(rng.normal(10, 1, 2_000)), arm(rng.normal(11, 1, 2_000))).relative()
    assert low < 0.1 < high
    assert high - low < 0.02
    assert effect(arm(rng.normal(0, 1, 200)), arm(rng.normal(1, 1, 200))).relative() is None


def test_an_arm_of_one_user_is_refused():
    with pytest.raises(DataError, match="wait for more users"):
        arm([1.0])


def test_paired_users_are_compared_with_themselves():
    """What a user does at all varies by far more than what the arms change: 95% intervals hold the truth, and are narrow."""
    rng, inside, widths = np.random.default_rng(0), [], []
    for _ in range(400):
        users = rng.gamma(0.5, 4.0, 300)
        control, treatment = (ArmUsers(x=rng.poisson(users * one).astype(float), y=np.ones(300)) for one in (0.5, 0.55))
        found = paired(control, treatment)
        low, high = found.interval
        inside.append(low <= 0.05 * 2.0 <= high)
        widths.append((high - low) / np.diff(effect(control, treatment).interval)[0])
    assert 0.92 <= np.mean(inside) <= 0.98
    assert np.mean(widths) < 0.6
    assert found.users == 300


def test_the_relative_interval_of_paired_users_holds_the_truth():
    rng, inside = np.random.default_rng(1), []
    for _ in range(400):
        users = rng.gamma(0.5, 4.0, 400)
        low, high = paired(
            *(ArmUsers(x=rng.poisson(users * one).astype(float), y=np.ones(400)) for one in (0.5, 0.6))
        ).relative()
        inside.append(low <= 0.2 <= high)
    assert 0.92 <= np.mean(inside) <= 0.98
