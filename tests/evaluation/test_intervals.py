"""Bootstrap intervals against resampling user by user. B users."""

import numpy as np
import pytest

from recsys.evaluation.intervals import bootstrap_interval, holm, paired_bootstrap, paired_p_value, weighted_mean


def test_the_bootstrap_is_that_of_resampled_users():
    generator = np.random.default_rng(5)
    values = generator.choice([0.0, 0.25, 1.0], size=400, p=[0.7, 0.2, 0.1])
    drawn = values[generator.integers(0, 400, (20_000, 400))].mean(axis=1)
    np.testing.assert_allclose(
        bootstrap_interval(values, seed=0, samples=20_000), np.percentile(drawn, [2.5, 97.5]), atol=1.5e-3
    )
    assert bootstrap_interval(values, seed=0) == bootstrap_interval(values, seed=0)
    assert bootstrap_interval(values, seed=0) != bootstrap_interval(values, seed=1)


def test_the_bootstrap_of_equal_values_has_no_width():
    assert bootstrap_interval(np.full(9, 0.5), seed=0) == (0.5, 0.5)


def test_pairing_takes_out_what_users_have_in_common():
    generator = np.random.default_rng(2)
    easy = generator.random(500)
    difference, low, high = paired_bootstrap(easy + 0.01, easy, seed=0)
    assert (difference, low, high) == pytest.approx((0.01, 0.01, 0.01))
    noisy = easy + 0.01 * generator.standard_normal(500)
    _, low, high = paired_bootstrap(noisy, easy, seed=0)
    alone = bootstrap_interval(easy, seed=0)
    assert low < np.mean(noisy - easy) < high
    assert high - low < 0.1 * (alone[1] - alone[0])


def test_a_weighted_interval_resamples_users_with_their_weights():
    generator = np.random.default_rng(5)
    values = generator.choice([0.0, 0.25, 1.0], size=300, p=[0.7, 0.2, 0.1])
    weights = generator.choice([0.1, 1.0, 4.0], size=300)
    chosen = generator.integers(0, 300, (20_000, 300))
    drawn = (values * weights)[chosen].sum(axis=1) / weights[chosen].sum(axis=1)
    expected = np.percentile(drawn, [2.5, 97.5])
    np.testing.assert_allclose(bootstrap_interval(values, 0, weights, samples=20_000), expected, atol=2e-3)
    assert expected[0] < weighted_mean(values, weights) < expected[1]


def test_a_weighted_mean_known_answer():
    assert weighted_mean(np.array([0.0, 1.0]), np.array([1.0, 3.0])) == 0.75


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="finite value"):
        bootstrap_interval(np.array([0.5, np.nan]), 0)
    with pytest.raises(ValueError, match="the same users"):
        paired_bootstrap(np.zeros(2), np.zeros(3), 0)


def test_a_p_value_is_small_where_users_agree_and_uniform_where_nothing_differs():
    rng = np.random.default_rng(0)
    assert paired_p_value(np.full(50, 0.01), np.zeros(50), 0) == pytest.approx(2 / 1001)
    chances = [paired_p_value(rng.normal(size=100), np.zeros(100), seed) for seed in range(200)]
    assert 0.4 < np.mean(chances) < 0.6
    assert np.mean(np.array(chances) < 0.1) < 0.2
    with pytest.raises(ValueError, match="give both the same users"):
        paired_p_value(np.zeros(2), np.zeros(3), 0)


def test_holm_known_answer():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
