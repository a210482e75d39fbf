"""Distances against slow twins, the jackknife by its properties, and bins by hand.

Shapes: G groups, B bins.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from recsys.measurement.drift.bins import MAX_VALUES, BinnedColumn
from recsys.measurement.drift.effects import (
    FLOOR,
    effects_of,
    jackknife,
    jensen_shannon,
    population_stability,
    wasserstein,
)
from recsys.measurement.drift.served import GROUPS, counts_of

COUNTS = st.lists(st.integers(0, 500), min_size=4, max_size=9).filter(lambda counts: sum(counts[1:]) > 0)


def shares(counts):
    return np.array(counts) / sum(counts)


@given(COUNTS, st.data())
def test_distances_equal_their_slow_twins_over_what_is_not_missing(live, data):
    other = data.draw(st.lists(st.integers(1, 500), min_size=len(live), max_size=len(live)))
    p, q = shares(live[1:]), shares(other[1:])
    psi = sum(
        (max(a, FLOOR) - max(b, FLOOR)) * math.log(max(a, FLOOR) / max(b, FLOOR)) for a, b in zip(p, q, strict=True)
    )
    assert population_stability(shares(live), shares(other)) == pytest.approx(psi)
    assert jensen_shannon(shares(live), shares(other)) == pytest.approx(jensenshannon(p, q, base=2), abs=1e-7)
    centres = tuple(float(number**2) for number in range(len(p)))
    column = BinnedColumn(name="x", kind="number", centres=centres, scale=2.5)
    expected = wasserstein_distance(centres, centres, p, q) / 2.5
    assert wasserstein(shares(live), shares(other), column) == pytest.approx(expected, abs=1e-12)


def test_bins_of_numbers_have_equal_counts_and_hold_what_is_missing_apart():
    column = BinnedColumn.fit("x", "number", [*range(100), None])
    assert len(column.edges) == 19
    counts = counts_of(column, [*range(100), None, math.nan, "7", True, 1e9], np.zeros(105, dtype=np.int64), 1)[0]
    assert counts[0] == 3  # None, NaN and a word are missing
    assert counts[1:].tolist() == [6, *[5] * 18, 6]  # True is 1, and above the largest number is the last bin
    assert column.labels[:2] == ("missing", "to 4")
    assert column.scale == pytest.approx(np.std(range(100)))


def test_a_column_of_one_number_has_one_bin():
    column = BinnedColumn.fit("x", "number", [3.0, 3.0])
    assert (column.labels, column.edges, column.scale) == (("missing", "any"), (), 1.0)


def test_bins_of_categories_are_the_frequent_values_and_one_for_the_others():
    column = BinnedColumn.fit("x", "category", ["b", "a", "b", None, ["a", "c", "b"], []])
    assert column.labels == ("missing", "other", "b", "a", "c")
    counts = counts_of(column, [None, [], "d", ["a", "b"], "b", 7], np.array([0, 0, 0, 1, 1, 1]), 2)
    assert counts.tolist() == [[2, 1, 0, 0, 0], [0, 1, 2, 1, 0]]
    many = BinnedColumn.fit("x", "category", [str(number) for number in range(MAX_VALUES + 9)])
    assert len(many.values) == MAX_VALUES


@pytest.mark.parametrize("kind", ["number", "category"])
def test_a_column_without_any_value_has_no_bins(kind):
    assert BinnedColumn.fit("x", kind, [None, None]) is None


def test_bins_survive_their_document():
    for column in (BinnedColumn.fit("x", "number", [1.0, 2.0, 9.5]), BinnedColumn.fit("y", "category", ["a", "b"])):
        assert BinnedColumn.from_document(column.to_document()) == column


def test_the_jackknife_of_a_mean_is_the_mean_with_its_standard_error():
    values = np.array([1.0, 4.0, 2.0, 9.0])
    without = (values.sum() - values) / 3
    effect = jackknife(values.mean(), without)
    assert effect.value == pytest.approx(values.mean())
    assert effect.error == pytest.approx(values.std(ddof=1) / 2)


def test_the_jackknife_takes_the_bias_of_a_square_away():
    """The square of a mean is too large by the variance of the mean: known exactly."""
    values = np.array([1.0, 4.0, 2.0, 9.0])
    without = ((values.sum() - values) / 3) ** 2
    expected = values.mean() ** 2 - values.var(ddof=1) / 4
    assert jackknife(values.mean() ** 2, without).value == pytest.approx(expected)


def test_equal_distributions_have_effects_of_about_zero_also_where_users_come_again():
    """400 worlds: each user has 20 requests with one value, so that the requests look like 20 times more evidence."""
    column = BinnedColumn(name="x", kind="category", values=("a", "b", "c"))
    generator, beyond, estimates = np.random.default_rng(0), 0, []
    for _ in range(400):
        users = generator.multinomial(10, [0.2, 0.5, 0.3], size=GROUPS)
        live = np.concatenate([np.zeros((GROUPS, 2), dtype=np.int64), 20 * users], axis=1)
        effect = effects_of(column, live, np.tile([0, 0, 0.2, 0.5, 0.3], (GROUPS, 1)))["psi"]
        estimates.append(effect.value)
        beyond += effect.above(0.0, 3.0)
    assert (
        abs(np.mean(estimates)) < 0.0005
    )  # the plain index would be .003 on average, (B - 1) / users, and .06 / 20 here
    assert beyond <= 20


def test_a_column_that_is_missing_altogether_is_missing_and_nothing_else():
    column = BinnedColumn(name="x", kind="category", values=("a",))
    live = np.zeros((GROUPS, 3), dtype=np.int64)
    live[:, 0] = 10
    effects = effects_of(column, live, np.tile([0.1, 0.0, 0.9], (GROUPS, 1)))
    assert list(effects) == ["missing"]
    assert effects["missing"].value == pytest.approx(0.9)
