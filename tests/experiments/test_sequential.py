"""Intervals that hold at all times: against their definition, and on simulated sequences that are looked at all the time."""

import numpy as np
import pytest

from recsys.errors import DataError
from recsys.experiments.sequential import bernstein_sequence, normal_mixture_factor


def test_the_normal_mixture_is_narrowest_where_it_is_tuned():
    grid = [normal_mixture_factor(1_000, 0.05, tuned) for tuned in np.geomspace(50, 20_000, 200).astype(int)]
    assert normal_mixture_factor(1_000, 0.05, 1_000) == pytest.approx(min(grid), rel=1e-3)
    assert 2.5 < normal_mixture_factor(1_000, 0.05, 1_000) < 3.1  # one look takes 1.96


def test_the_normal_mixture_is_the_boundary_of_the_mixture_martingale():
    """Where the mean lies on the boundary, the mixture over N(0, rho^2) of the likelihood ratios is 1 / alpha."""
    count, alpha, tuned = 400, 0.05, 1_000
    rho2 = (-2 * np.log(alpha) + np.log(-2 * np.log(alpha)) + 1) / tuned
    total = normal_mixture_factor(count, alpha, tuned) * count**0.5
    drifts = np.linspace(-8, 8, 200_001) * rho2**0.5
    density = np.exp(-(drifts**2) / (2 * rho2)) / np.sqrt(2 * np.pi * rho2)
    assert np.exp(drifts * total - drifts**2 * count / 2) @ density * (drifts[1] - drifts[0]) == pytest.approx(
        1 / alpha, rel=1e-4
    )


def test_few_sequences_ever_leave_the_normal_mixture_and_many_leave_a_fixed_interval():
    rng = np.random.default_rng(0)
    sums = rng.normal(size=(400, 2_000)).cumsum(axis=1)
    looks = np.arange(100, 2_001, 50)
    away = np.abs(sums[:, looks - 1]) / np.sqrt(looks)
    always = np.array([normal_mixture_factor(int(look), 0.05, 1_000) for look in looks])
    assert (away > always).any(axis=1).mean() <= 0.05
    assert (away > 1.96).any(axis=1).mean() > 0.2


def test_the_bernstein_sequence_holds_skewed_means_from_the_start():
    rng = np.random.default_rng(0)
    values = (rng.random((300, 1_500)) < 0.05) * rng.random((300, 1_500))
    low, high = bernstein_sequence(values, 0.05)
    assert ((low <= 0.025) & (high >= 0.025)).all(axis=1).mean() >= 0.95
    assert (high - low)[:, -1].mean() < 0.05
    assert (np.diff(high - low, axis=1) <= 1e-12).all()


def test_the_bernstein_sequence_is_that_of_its_definition():
    values = np.array([0.2, 0.9, 0.4, 0.0, 0.7])
    low, high = bernstein_sequence(values[None], 0.1)
    mean, variance, lows, highs = 0.5, 0.25, [], []
    weighted = weights = spent = 0.0
    for t, x in enumerate(values, 1):
        weight = min((2 * np.log(20) / (variance * t * np.log(1 + t))) ** 0.5, 0.5)
        weighted, weights = weighted + weight * x, weights + weight
        spent += 4 * (x - mean) ** 2 * (-np.log(1 - weight) - weight) / 4
        width = (np.log(20) + spent) / weights
        lows.append(max(weighted / weights - width, 0))
        highs.append(min(weighted / weights + width, 1))
        mean = (0.5 + values[:t].sum()) / (t + 1)
        means = [(0.5 + values[:i].sum()) / (i + 1) for i in range(1, t + 1)]
        variance = (0.25 + sum((values[i] - means[i]) ** 2 for i in range(t))) / (t + 1)
    assert low[0] == pytest.approx(np.maximum.accumulate(lows))
    assert high[0] == pytest.approx(np.minimum.accumulate(highs))


def test_values_beyond_the_bounds_are_refused():
    with pytest.raises(DataError, match="divide them"):
        bernstein_sequence(np.array([[0.5, 2.0]]), 0.05)
