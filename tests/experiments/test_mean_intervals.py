"""Intervals of a mean: by hand, by their definition, and against a slow bootstrap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.experiments.mean_intervals import (
    INTERVALS,
    empirical_bernstein,
    normal,
    resamples,
    skew_corrected,
    standard_error,
    studentised_bootstrap,
)

NUMBERS = st.lists(st.floats(-100, 100), min_size=5, max_size=50).map(np.array).filter(lambda one: one.std() > 1e-3)
CLICKS = np.repeat([0.0, 1.0], [990, 10])


def test_the_standard_error_and_the_normal_interval_by_hand():
    assert standard_error(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx((5 / 3 / 4) ** 0.5)
    assert normal(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx((2.5 - 1.26516, 2.5 + 1.26516), abs=1e-4)


@given(NUMBERS)
def test_the_ends_of_the_skew_corrected_interval_are_where_the_transform_is_a_normal_quantile(numbers):
    mean, error = numbers.mean(), numbers.std(ddof=1) / len(numbers) ** 0.5
    g = np.mean(((numbers - mean) / numbers.std()) ** 3) / len(numbers) ** 0.5
    for end, quantile in zip(skew_corrected(numbers), (1.959964, -1.959964), strict=True):
        t = (mean - end) / error
        assert t + g * t**2 / 3 + g**2 * t**3 / 27 + g / 6 == pytest.approx(quantile, abs=1e-4)


def test_symmetric_contributions_need_no_correction():
    numbers = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    assert skew_corrected(numbers) == pytest.approx(normal(numbers))


def test_rare_clicks_reach_further_up_than_down():
    low, high = skew_corrected(CLICKS)
    assert high - CLICKS.mean() > CLICKS.mean() - low > 0
    assert low > normal(CLICKS)[0]
    assert high > normal(CLICKS)[1]


@pytest.mark.parametrize("interval", INTERVALS.values(), ids=list(INTERVALS))
@pytest.mark.parametrize("scale", [3.0, -2.0])
def test_an_interval_moves_and_turns_with_its_contributions(interval, scale):
    numbers = np.random.default_rng(0).exponential(size=200)
    moved = sorted(scale * end + 7 for end in interval(numbers))
    assert interval(scale * numbers + 7) == pytest.approx(tuple(moved), rel=1e-5)


@pytest.mark.parametrize("interval", INTERVALS.values(), ids=list(INTERVALS))
def test_what_never_varies_has_no_width(interval):
    assert interval(np.full(50, 0.1)) == pytest.approx((0.1, 0.1), abs=1e-12)


def test_the_studentised_bootstrap_is_that_of_its_slow_twin():
    numbers = np.random.default_rng(1).exponential(size=40)
    counts = resamples(40, seed=2)
    studentised = []
    for row in counts.astype(int):
        one = np.repeat(numbers, row)
        studentised.append((one.mean() - numbers.mean()) / (one.std() / len(one) ** 0.5))
    low, high = np.quantile(studentised, [0.025, 0.975])
    error = numbers.std(ddof=1) / 40**0.5
    expected = (numbers.mean() - error * high, numbers.mean() - error * low)
    assert studentised_bootstrap(numbers, counts) == pytest.approx(expected, rel=1e-4)
    assert studentised_bootstrap(numbers) == studentised_bootstrap(numbers, resamples(40, seed=0))


def test_empirical_bernstein_by_hand():
    numbers, log = np.array([0.0, 0.0, 0.0, 1.0]), np.log(80)
    width = 0.5 * np.sqrt(2 * log / 4) + 7 * log / 9
    assert empirical_bernstein(numbers) == pytest.approx((0.25 - width, 0.25 + width))


@pytest.mark.parametrize("interval", INTERVALS.values(), ids=list(INTERVALS))
def test_one_round_has_no_interval(interval):
    with pytest.raises(DataError, match="at least two rounds, the log has 1; collect more"):
        interval(np.array([1.0]))
