"""Precision, MRR, MAP, novelty, serendipity, coverage and entropy against slow twins and known answers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsys.contracts import PAD
from recsys.evaluation.further_metrics import (
    CatalogueShares,
    novelty,
    self_information,
    serendipity,
    unexpected,
)
from recsys.evaluation.intervals import jackknife_interval
from recsys.metrics import OF_HITS, Targets, hits

NUM_ITEMS, LISTED = 12, 4


@st.composite
def cases(draw):
    """Pages of a few users with empty positions, and their targets and removed items, none of which is listed."""
    pages, targets, removed = [], [], []
    for _ in range(draw(st.integers(1, 5))):
        items = draw(st.permutations(range(NUM_ITEMS)))
        num = draw(st.integers(0, LISTED))
        pages.append([*items[:num], *[PAD] * (LISTED - num)])
        targets.append(draw(st.lists(st.sampled_from(items[: LISTED + 4]), min_size=1, unique=True)))
        removed.append(draw(st.lists(st.sampled_from(items[LISTED + 4 :]), unique=True)))
    return np.array(pages), targets, removed


def discount(rank):
    return 1 / math.log2(1 + rank)


def slow_hits(page, targets, k):
    """Metrics of a page by their textbook formulas."""
    right = [rank for rank, item in enumerate(page[:k].tolist(), start=1) if item in targets]
    precisions = [sum(other <= rank for other in right) / rank for rank in right]
    return {
        "recall": len(right) / len(targets),
        "ndcg": sum(map(discount, right)) / sum(map(discount, range(1, 1 + min(k, len(targets))))),
        "precision": len(right) / k,
        "hit_rate": float(bool(right)),
        "mrr": 1 / right[0] if right else 0.0,
        "map": sum(precisions) / min(k, len(targets)),
    }


@given(cases(), st.integers(1, LISTED))
def test_metrics_of_hits_equal_their_formulas(case, k):
    pages, targets, _ = case
    rows = Targets.of(targets)
    found = hits(pages, rows)
    for name, metric in OF_HITS.items():
        wanted = [slow_hits(page, own, k)[name] for page, own in zip(pages, targets, strict=True)]
        assert metric(found, rows.num_targets, k) == pytest.approx(wanted)


@given(cases(), st.lists(st.integers(0, 9), min_size=NUM_ITEMS, max_size=NUM_ITEMS))
def test_serendipity_counts_targets_that_the_most_popular_items_do_not_hold(case, popularity):
    pages, targets, removed = case
    matrix = sparse.lil_array((len(pages), NUM_ITEMS))
    wanted, others = [], []
    for user, (page, own, barred) in enumerate(zip(pages.tolist(), targets, removed, strict=True)):
        matrix[user, barred] = 1.0
        showable = [item for item in range(NUM_ITEMS) if item not in barred]
        expected = sorted(showable, key=lambda item: (-popularity[item], item))[:LISTED]
        others.append([item != PAD and item not in expected for item in page])
        wanted.append(sum(item in own and item not in expected for item in page if item != PAD) / LISTED)
    fresh = unexpected(pages, np.array(popularity), matrix.tocsr())
    assert fresh.tolist() == others
    assert serendipity(hits(pages, Targets.of(targets)), fresh) == pytest.approx(wanted)


def test_novelty_known_answer():
    information = self_information(np.array([8, 2, 1, 0]), 8)
    assert information.tolist() == [0, 2, 3, 3]
    pages = np.array([[0, 1, PAD], [2, 3, 0], [PAD, PAD, PAD]])
    assert novelty(pages, information).tolist() == [1, 2, 0]


def slow_shares(pages):
    """Coverage and entropy of the items of some pages, by counting."""
    items = [item for page in pages for item in page if item != PAD]
    rates = [items.count(item) / len(items) for item in set(items)]
    return len(rates) / NUM_ITEMS, -sum(rate * math.log2(rate) for rate in rates)


@given(cases(), st.data())
def test_coverage_and_entropy_with_and_without_each_user_equal_counting(case, data):
    """A user may have several pages: one of each split."""
    pages = case[0].tolist()
    users = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(pages), max_size=len(pages))))
    users = np.unique(users, return_inverse=True)[1]
    found = CatalogueShares.of(case[0], users, NUM_ITEMS)
    assert (found.coverage, found.entropy) == pytest.approx(slow_shares(pages), abs=1e-12)
    left = [[page for page, own in zip(pages, users, strict=True) if own != user] for user in range(users.max() + 1)]
    coverage, entropy = zip(*map(slow_shares, left), strict=True)
    assert found.coverage_without == pytest.approx(coverage)
    assert found.entropy_without == pytest.approx(entropy, abs=1e-12)


def test_even_exposure_has_the_entropy_of_the_catalogue():
    pages = np.arange(8).reshape(4, 2)
    shares = CatalogueShares.of(pages, np.arange(4), 16)
    assert (shares.coverage, shares.entropy) == (0.5, pytest.approx(3))


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).random(200)
    without = (values.sum() - values) / 199
    low, high = jackknife_interval(values.mean(), without)
    half = 1.959964 * values.std(ddof=1) / math.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half))


def test_the_interval_of_coverage_holds_what_other_users_would_cover():
    """Coverage of other samples of as many users lies within the interval of one about as often as it says."""
    rng, chances = np.random.default_rng(0), np.arange(1, 301) ** -1.0
    drawn = [rng.choice(300, (150, 10), p=chances / chances.sum()) for _ in range(60)]
    found = [CatalogueShares.of(one, np.arange(150), 300) for one in drawn]
    truth = np.mean([one.coverage for one in found])
    inside = [low <= truth <= high for low, high in (jackknife_interval(s.coverage, s.coverage_without) for s in found)]
    assert np.mean(inside) > 0.88
