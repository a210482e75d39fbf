"""Measures of logged impressions against slow twins, and the intervals of their deciles."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import log_loss, roc_auc_score

from recsys.evaluation.impressions import ImpressionReport, impression_measures
from recsys.evaluation.probabilities import group_auc, reliability


def drawn(seed, rows=400):
    rng = np.random.default_rng(seed)
    predicted = rng.integers(1, 40, rows) / 40  # with ties
    labels = (rng.random(rows) < predicted).astype(np.float32)
    labels[:2] = 0, 1
    groups = rng.integers(-1, 30, rows)
    groups[:2] = 7
    return labels, predicted, groups


def twin_of_gauc(labels, predicted, groups):
    """Sum over groups of rows times AUC, over the rows of these groups."""
    total, rows = 0.0, 0
    for group in set(groups[groups >= 0].tolist()):
        own = groups == group
        if len(set(labels[own])) == 2:
            total += own.sum() * roc_auc_score(labels[own], predicted[own])
            rows += own.sum()
    return total / rows


@given(st.integers(0, 2**32 - 1))
def test_measures_equal_their_slow_twins(seed):
    labels, predicted, groups = drawn(seed)
    (found,) = impression_measures(labels[:, None], predicted[:, None], ["click"], {"user": groups}).values()
    assert found["auc"] == pytest.approx(roc_auc_score(labels, predicted))
    assert found["gauc/user"] == pytest.approx(twin_of_gauc(labels, predicted, groups))
    assert found["log_loss"] == pytest.approx(log_loss(labels, predicted))
    rate = labels.mean(dtype=float)
    assert found["normalised_entropy"] == pytest.approx(
        found["log_loss"] / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    )


def test_gauc_weighs_groups_by_their_rows_and_skips_those_with_one_label():
    labels = np.array([1.0, 0, 1, 0, 0, 0, 1, 1])
    predicted = np.array([0.9, 0.1, 0.2, 0.3, 0.1, 0.4, 0.5, 0.6])
    groups = np.array([1, 1, 2, 2, 2, 2, 3, 3])
    assert group_auc(labels, predicted, groups) == pytest.approx((2 * 1 + 4 * (1 / 3)) / 6)
    assert group_auc(labels[6:], predicted[6:], groups[6:]) is None


def test_deciles_hold_a_tenth_each_with_the_interval_of_scipy():
    rng = np.random.default_rng(0)
    predicted = rng.permutation(np.linspace(0.01, 0.99, 1_000))
    labels = (rng.random(1_000) < predicted).astype(float)
    bins = impression_measures(labels[:, None], predicted[:, None], ["click"], {})["click"]["reliability"]
    order = np.argsort(predicted)
    for number, part in enumerate(np.split(order, 10)):
        assert bins["rows"][number] == 100
        assert bins["predicted"][number] == pytest.approx(predicted[part].mean())
        assert bins["observed"][number] == pytest.approx(labels[part].mean())
        interval = binomtest(int(labels[part].sum()), 100).proportion_ci(method="wilson")
        assert (bins["low"][number], bins["high"][number]) == pytest.approx((interval.low, interval.high))


def test_an_interval_holds_the_rate_where_there_is_no_positive_at_all():
    bins = reliability(np.zeros(50), np.full(50, 0.01), 1)
    low, high = bins.interval
    assert low[0] == 0 < high[0] < 0.1


def test_unknown_labels_do_not_count_and_a_constant_one_is_left_out():
    labels, predicted, groups = drawn(3)
    unknown = np.where(np.arange(len(labels)) % 3 == 2, np.nan, labels)
    both = np.stack([unknown, np.ones(len(labels))], axis=1)
    found = impression_measures(both, np.stack([predicted, predicted], axis=1), ["click", "buy"], {"user": groups})
    known = ~np.isnan(unknown)
    alone = impression_measures(labels[known, None], predicted[known, None], ["click"], {"user": groups[known]})
    assert found == alone


def test_a_report_is_the_mean_over_seeds_with_its_spread(tmp_path):
    measured = [
        impression_measures(labels[:, None], predicted[:, None], ["click"], {"user": groups})
        for labels, predicted, groups in (drawn(1), drawn(2))
    ]
    report = ImpressionReport(
        name="clicks",
        protocol="split by time",
        rows={"training": 10},
        seeds=(0, 1),
        validation=measured,
        test=measured,
        target="click",
        served="",
        seconds=1.0,
        peak_memory_mib=1.0,
    )
    report.save(tmp_path)
    document = json.loads((tmp_path / "metrics.json").read_text())
    aucs = [one["click"]["auc"] for one in measured]
    assert document["test"]["click"]["auc"] == pytest.approx(np.mean(aucs))
    assert document["spread"]["test"]["click"]["gauc/user"] > 0
    assert document["by_seed"]["gauc/user"] == [one["click"]["gauc/user"] for one in measured]
    assert document["spread"]["test"]["click"]["auc"] == pytest.approx(np.std(aucs, ddof=1))
    assert (tmp_path / "reliability.png").stat().st_size > 1_000
    assert len(report.deciles().rows) == 10
