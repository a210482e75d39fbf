"""Shares that follow the outcomes: where they go, and effects that are right while they do. Known answers and many worlds."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from recsys.experiments.allocation import (
    ArmMean,
    PeriodUsers,
    allocated_shares,
    arm_mean,
    batched_effect,
    best_probabilities,
)
from recsys.experiments.effects import ArmUsers, effect


def period(users, x, y=None):
    x = np.asarray(x, dtype=float)
    return PeriodUsers(users=np.asarray(users), x=x, y=np.ones(len(x)) if y is None else np.asarray(y, dtype=float))


def test_one_period_is_the_plain_comparison():
    rng = np.random.default_rng(0)
    y = rng.integers(1, 5, (2, 300)).astype(float)
    x = y * rng.random((2, 300))
    found = batched_effect(*([period(np.arange(300) + 1_000 * arm, x[arm], y[arm])] for arm in range(2)))
    plain = effect(*(ArmUsers(x=x[arm], y=y[arm]) for arm in range(2)))
    assert found.difference == pytest.approx(plain.difference)
    assert found.error == pytest.approx(plain.error, rel=0.01)


def test_periods_count_by_their_users_known_answer():
    control = [period([1, 2], [0, 2]), period([3, 4, 5, 6], [4, 4, 2, 2])]
    treatment = [period([7, 8, 9, 10, 11, 12], [3] * 6), period([13, 14], [6, 4])]
    found = batched_effect(control, treatment)  # 8 users in the first period, 6 in the second
    assert found.control == pytest.approx((8 * 1 + 6 * 3) / 14)
    assert found.treatment == pytest.approx((8 * 3 + 6 * 5) / 14)
    assert found.users == 14


def test_a_user_who_comes_again_is_one_user():
    """The same values twice say no more than once; of other users they do."""
    values = [0.0, 1.0, 4.0, 2.0]
    again = arm_mean([period([1, 2, 3, 4], values)] * 2, [0.5, 0.5])
    others = arm_mean([period([1, 2, 3, 4], values), period([5, 6, 7, 8], values)], [0.5, 0.5])
    assert again.error == pytest.approx(others.error * np.sqrt(2))
    assert (again.users, others.users) == (4, 8)


def test_a_period_without_users_of_an_arm_is_refused():
    with pytest.raises(DataError, match="an arm has 1 users in a period of its shares; wait for more"):
        batched_effect([period([1], [1.0])], [period([2, 3], [1.0, 2.0])])


def test_the_better_arm_is_probably_the_best():
    means = {"control": ArmMean(value=1.0, error=0.1, users=9), "other": ArmMean(value=1.2, error=0.1, users=9)}
    found = best_probabilities(means)
    assert found["other"] == pytest.approx(0.9214, abs=0.01)  # normal probability of .2 / (.1 sqrt 2)
    assert sum(found.values()) == pytest.approx(1)
    assert best_probabilities(means, less=True)["control"] == pytest.approx(found["other"], abs=0.01)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda ones: sum(ones) > 0), st.floats(0.01, 1))
def test_shares_add_up_to_1_and_none_is_below_the_least(weights, part):
    probabilities = {f"arm{number}": one / sum(weights) for number, one in enumerate(weights)}
    least = part / len(weights)
    shares = allocated_shares(probabilities, least)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-9)
    assert min(shares.values()) >= least - 5e-4
    order = sorted(probabilities, key=probabilities.get)
    # the largest takes what the others, five at most, lost by rounding to four digits
    assert all(shares[one] <= shares[other] + 6.1 * 0.5e-4 for one, other in pairwise(order))


@pytest.mark.parametrize("least", [0.0, 0.6, -1.0])
def test_a_least_share_that_no_division_has_is_refused(least):
    with pytest.raises(ConfigError, match="least_share is"):
        allocated_shares({"a": 0.5, "b": 0.5}, least)


def bandit(rng, difference, num_users=400, num_periods=8):
    """Two arms whose shares follow what they earned; each user has a taste of their own and comes on half of the periods."""
    taste, point = rng.normal(1, 0.5, num_users), rng.random(num_users)
    share, arms = 0.5, {"control": [], "treatment": []}
    pooled = {name: np.zeros((2, num_users)) for name in arms}
    for _ in range(num_periods):
        active = rng.random(num_users) < 0.5
        treated = point < share
        values = taste + difference * treated + rng.normal(0, 1, num_users)
        for name, own in (("control", active & ~treated), ("treatment", active & treated)):
            arms[name].append(period(np.flatnonzero(own), values[own]))
            pooled[name] += np.stack([np.where(own, values, 0), own])
        weights = [1 / len(arms["control"])] * len(arms["control"])
        means = {name: arm_mean(periods, weights) for name, periods in arms.items()}
        share = allocated_shares(best_probabilities(means), 0.1)["treatment"]
    return arms, pooled


def test_effects_of_moving_shares_hold_the_truth_where_pooled_means_are_biased():
    """400 worlds in which both arms earn 1: 95% intervals hold the difference, and the figures of the arms are right."""
    rng, inside, found, naive = np.random.default_rng(3), 0, [], []
    for _ in range(400):
        arms, pooled = bandit(rng, 0.0)
        one = batched_effect(arms["control"], arms["treatment"])
        inside += one.interval[0] <= 0 <= one.interval[1]
        found.append((one.control + one.treatment) / 2 - 1)
        naive.append(np.mean([x.sum() / y.sum() for x, y in pooled.values()]) - 1)
    assert 0.93 <= inside / 400 <= 0.98
    assert abs(np.mean(found)) < 3 * np.std(found) / 20
    assert np.mean(naive) < -3 * np.std(naive) / 20


def test_shares_go_to_the_better_arm():
    rng, last = np.random.default_rng(4), []
    for _ in range(20):
        arms, _ = bandit(rng, 0.5)
        last.append(
            len(arms["treatment"][-1].users) / (len(arms["treatment"][-1].users) + len(arms["control"][-1].users))
        )
    assert np.mean(last) > 0.8
