"""The vectorised merge against a slow dictionary, and its laws.

Shapes: B queries, K offers of a source, E excluded items, C candidates, S sources.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.candidates.linear import ItemItem
from recsys.candidates.merge import SMOOTHING, Quota, merge, num_score_features, score_features
from recsys.candidates.popular import Popular
from recsys.candidates.sources import CandidateSources, Sources
from recsys.contracts import PAD
from recsys.errors import ConfigError
from recsys.index import ExactIndex

NUM_ITEMS = 12


@st.composite
def merges(draw):
    """Offers of some sources to some queries: distinct rows a query, best first, PAD anywhere."""
    num_queries, num_sources = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    offers = []
    for _ in range(num_sources):
        k = draw(st.integers(1, NUM_ITEMS))
        rows = np.stack([generator.permutation(NUM_ITEMS)[:k] for _ in range(num_queries)])
        rows[generator.random(rows.shape) < 0.2] = PAD
        scores = -np.sort(-generator.integers(0, 4, rows.shape), axis=1).astype(np.float32)
        offers.append((np.where(rows == PAD, -np.inf, scores).astype(np.float32), rows))
    quotas = [
        Quota(name=str(source), num=draw(st.integers(1, 8)), weight=draw(st.sampled_from([0.0, 0.5, 1.0])))
        for source in range(num_sources)
    ]
    excluded = generator.integers(PAD, NUM_ITEMS, (num_queries, draw(st.integers(0, 4))))
    return offers, quotas, excluded, draw(st.integers(1, 20))


def slow(offers, quotas, excluded, query):
    """{row: (fused score, {source: score})} of one query, and its rows in order."""
    found = {}
    for source, ((scores, rows), quota) in enumerate(zip(offers, quotas, strict=True)):
        kept = [
            (row, score)
            for row, score in zip(rows[query].tolist(), scores[query].tolist(), strict=True)
            if row != PAD and row not in excluded[query]
        ]
        for place, (row, score) in enumerate(kept[: quota.num]):
            fused, by_source = found.setdefault(row, (0.0, {}))
            found[row] = (fused + quota.weight / (SMOOTHING + place + 1), {**by_source, source: score})
    return found, sorted(found, key=lambda row: (-found[row][0], row))


@settings(deadline=None, max_examples=200)
@given(merges())
def test_the_merge_equals_a_dictionary(case):
    offers, quotas, excluded, total = case
    rows, scores, source_scores = merge(offers, quotas, excluded, total)
    assert (rows.shape, source_scores.shape) == (scores.shape, (len(excluded), total, len(offers)))
    for query in range(len(excluded)):
        found, order = slow(offers, quotas, excluded, query)
        num = min(total, len(order))
        assert rows[query].tolist() == order[:num] + [PAD] * (total - num)
        for place, row in enumerate(order[:num]):
            fused, by_source = found[row]
            assert scores[query, place] == pytest.approx(fused, rel=1e-6)
            expected = [by_source.get(source, math.nan) for source in range(len(offers))]
            np.testing.assert_array_equal(source_scores[query, place], np.float32(expected))
        assert np.isneginf(scores[query, num:]).all()
        assert np.isnan(source_scores[query, num:]).all()


@settings(deadline=None, max_examples=100)
@given(merges())
def test_laws_of_the_merge(case):
    offers, quotas, excluded, total = case
    rows, scores, source_scores = merge(offers, quotas, excluded, total)
    for own, out in zip(rows, excluded, strict=True):
        kept = own[own != PAD].tolist()
        assert len(set(kept)) == len(kept)
        assert not set(kept) & set(out.tolist())
    with np.errstate(invalid="ignore"):
        assert (np.nan_to_num(np.diff(scores, axis=1), nan=0) <= 0).all()
    for source, quota in enumerate(quotas):
        assert ((~np.isnan(source_scores[:, :, source])).sum(1) <= quota.num).all()


def quota(name="a", num=2, weight=1.0):
    return Quota(name=name, num=num, weight=weight)


def offer(*rows):
    return np.array([[9.0 - place for place in range(len(rows))]], dtype=np.float32), np.array([rows])


def test_merge_known_answer():
    rows, scores, source_scores = merge(
        [offer(5, 3, 7), offer(3, 8)], [quota(), quota("b", 2, 0.5)], np.array([[8, PAD]]), 4
    )
    assert rows.tolist() == [[3, 5, PAD, PAD]], "7 is beyond the quota, 8 is excluded"
    np.testing.assert_allclose(scores[0, :2], [1 / 62 + 0.5 / 61, 1 / 61], rtol=1e-6)
    np.testing.assert_array_equal(source_scores[0, :2], np.float32([[8, 9], [9, np.nan]]))


def test_an_excluded_item_does_not_use_up_the_quota():
    assert merge([offer(5, 3, 7)], [quota()], np.array([[5]]), 3)[0].tolist() == [[3, 7, PAD]]


def test_equal_scores_go_to_the_lower_row():
    assert merge([offer(9), offer(2)], [quota(), quota("b")], np.full((1, 0), PAD), 2)[0].tolist() == [[2, 9]]


def test_score_features_known_answer():
    scores = np.array([[0.5, 0.25, -np.inf]], dtype=np.float32)
    source_scores = np.array([[[2.0, np.nan], [3.0, 1.0], [np.nan, np.nan]]], dtype=np.float32)
    found = score_features(scores, source_scores)
    second, first = 1 / math.log2(3), 1.0
    expected = [
        [0.5 * SMOOTHING, 2, 0, 1, 0, second, 0],
        [0.25 * SMOOTHING, 3, 1, 1, 1, first, first],
        [0] * 7,
    ]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    assert found.dtype == np.float32
    assert found.shape[-1] == num_score_features(2)


@pytest.mark.parametrize("knobs", [{"num": 0}, {"weight": -0.1}])
def test_a_quota_out_of_range_is_refused_by_name(knobs):
    with pytest.raises(ConfigError, match=r"candidates\.a\.(num|weight) is"):
        quota(**knobs)


@pytest.fixture
def sources():
    generator = np.random.default_rng(0)
    fitted = CandidateSources(
        total=8,
        two_tower={"num": 4, "weight": 1.0},
        item_item=ItemItem(num=3, weight=1.0, neighbours=5, shrinkage=1.0, decay=0.9),
        popular=Popular(num=2, weight=0.5, days=10.0, kept=6),
    )
    users, items = generator.integers(0, 9, 60), generator.integers(0, NUM_ITEMS, 60)
    index = ExactIndex(generator.normal(size=(NUM_ITEMS, 4)))
    return fitted.fit(users, items, np.arange(60.0), NUM_ITEMS, index)


def test_all_sources_offer_what_their_quotas_allow_and_nothing_excluded(sources):
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(5, 4)).astype(np.float32)
    history, excluded = generator.integers(PAD, NUM_ITEMS, (5, 3)), generator.integers(PAD, NUM_ITEMS, (5, 4))
    rows, _, source_scores = sources.search(vectors, history, excluded)
    assert sources.names == ("two_tower", "item_item", "popular")
    assert ((~np.isnan(source_scores)).sum(1)[:, [0, 2]] == [4, 2]).all(), "these two always can"
    assert ((~np.isnan(source_scores)).sum(1)[:, 1] <= 3).all()
    assert not any(set(own[own != PAD]) & set(out) for own, out in zip(rows, excluded, strict=True))


def test_sources_survive_their_documents(sources):
    again = Sources.from_documents(*sources.to_documents(), sources.index)
    vectors, history = np.ones((2, 4), np.float32), np.array([[PAD, 1], [2, 3]])
    for before, after in zip(
        sources.search(vectors, history, history), again.search(vectors, history, history), strict=True
    ):
        np.testing.assert_array_equal(before, after)
