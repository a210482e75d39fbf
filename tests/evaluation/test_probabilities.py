"""Metrics of probabilities: known answers, and the libraries everybody compares with."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as their_log_loss
from sklearn.metrics import roc_auc_score

from recsys.errors import DataError
from recsys.evaluation.probabilities import (
    auc,
    auc_per_user,
    chance_error,
    log_loss,
    normalised_entropy,
    predicted_over_observed,
    reliability,
)


def drawn(seed, rows=200):
    rng = np.random.default_rng(seed)
    predicted = rng.integers(1, 20, rows) / 20  # with ties
    labels = (rng.random(rows) < predicted).astype(float)
    labels[:2] = 0, 1
    return labels, predicted, rng


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_auc_and_log_loss_are_those_of_scikit_learn(seed):
    labels, predicted, rng = drawn(seed)
    assert auc(labels, predicted) == pytest.approx(roc_auc_score(labels, predicted))
    counts = rng.integers(0, 3, len(labels))
    counts[:2] = 1
    assert auc(labels, predicted, counts) == pytest.approx(roc_auc_score(labels, predicted, sample_weight=counts))
    assert log_loss(labels, predicted) == pytest.approx(their_log_loss(labels, predicted))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_auc_per_user_equals_its_slow_twin(seed):
    labels, predicted, rng = drawn(seed)
    users = rng.integers(0, 40, len(labels)) * 7
    users[:2] = 1_000
    values = [
        roc_auc_score(labels[users == user], predicted[users == user])
        for user in np.unique(users)
        if len(set(labels[users == user])) == 2
    ]
    assert auc_per_user(labels, predicted, users) == pytest.approx(np.mean(values))


def test_known_answers():
    labels, predicted = np.array([0.0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
    assert (auc(labels, predicted), auc(labels, -predicted), auc(labels, np.ones(4))) == (1, 0, 0.5)
    assert predicted_over_observed(labels, predicted) == pytest.approx(0.45 / 0.5)
    assert normalised_entropy(labels, np.full(4, 0.5)) == pytest.approx(1)
    bins = reliability(labels, predicted, bins=2)
    np.testing.assert_allclose([bins.predicted, bins.observed], [[0.15, 0.75], [0, 1]])
    assert bins.error == pytest.approx((0.15 + 0.25) / 2)


def test_bins_of_unequal_size_count_by_their_rows():
    labels, predicted = np.array([0.0, 0, 1]), np.array([0.25, 0.25, 0.5])
    bins = reliability(labels, predicted, bins=2)
    assert bins.sizes.tolist() == [2, 1]
    assert bins.error == pytest.approx((2 * 0.25 + 0.5) / 3)
    assert reliability(labels, predicted, bins=20).sizes.tolist() == [2, 1]


def test_equal_predictions_share_a_bin_whatever_the_order_of_the_rows():
    labels, predicted = np.repeat([1.0, 0.0], 1_000), np.full(2_000, 0.5)
    assert reliability(labels, predicted).error == 0


def test_the_error_of_chance_is_what_right_predictions_show():
    rng = np.random.default_rng(1)
    predicted = rng.beta(2, 8, 3_000)
    shown = [reliability((rng.random(3_000) < predicted).astype(float), predicted).error for _ in range(50)]
    assert chance_error(predicted) == pytest.approx(np.mean(shown), rel=0.1)


def test_the_truth_is_calibrated():
    rng = np.random.default_rng(0)
    predicted = rng.random(200_000)
    labels = (rng.random(200_000) < predicted).astype(float)
    assert reliability(labels, predicted).error < 0.005
    assert reliability(labels, predicted**2).error > 0.1


@pytest.mark.parametrize("metric", [auc, normalised_entropy])
def test_labels_that_are_all_alike_are_refused(metric):
    with pytest.raises(DataError, match="all labels are alike"):
        metric(np.ones(3), np.array([0.1, 0.2, 0.3]))
    with pytest.raises(DataError, match="no user has both"):
        auc_per_user(np.array([0.0, 1]), np.array([0.1, 0.2]), np.array([0, 1]))


@pytest.mark.parametrize("rows", [1, 7, 240, 11_999])
def test_an_interval_holds_its_own_rate_also_where_it_is_0_or_1(rows):
    """Rounding moved the lower end of a rate of 0 above it, which error bars refuse."""
    for positives in {0, 1, rows // 3, rows}:
        labels = (np.arange(rows) < positives).astype(float)
        (low,), (high,) = (end.tolist() for end in reliability(labels, np.full(rows, 0.5)).interval)
        assert 0 <= low <= positives / rows <= high <= 1
        assert low < high
