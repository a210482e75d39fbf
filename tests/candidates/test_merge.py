"""The vectorised merge against a slow dictionary, and its laws.

Shapes: B queries, K offers of a source, E excluded items, C candidates, S sources, P pairs of a query and an item.
"""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.candidates.candidate_source import RECENT_EVENTS
from recsys.candidates.candidate_union import unite
from recsys.candidates.merge import (
    MergedCandidates,
    merge,
)
from recsys.candidates.score_layout import ScoreLayout
from recsys.candidates.topk import top_k
from recsys.contracts import PAD

NUM_ITEMS = 12


@dataclass(frozen=True)
class Table:
    """A source whose opinion of every pair is written down."""

    rows: np.ndarray
    """[B, K]"""
    scores: np.ndarray
    """[B, NUM_ITEMS]"""

    def top_k(self, k):
        return self.rows[:, :k]

    def score(self, query, row):
        return self.scores[query, row]

    def event_scores(self, query, row):
        """Event e says e * 100 + row of a row."""
        return (np.arange(RECENT_EVENTS) * 100 + row[:, None]).astype(np.float32)


def merged_by(answers, nums, excluded, weights, total):
    return merge(answers, unite(answers, nums, excluded), weights, total)


@st.composite
def merges(draw):
    """Some sources that offer to some queries: distinct rows a query, PAD anywhere; few scores, so that many tie."""
    num_queries, num_sources = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    answers = []
    for _ in range(num_sources):
        rows = np.stack([generator.permutation(NUM_ITEMS) for _ in range(num_queries)])
        rows = rows[:, : draw(st.integers(0, NUM_ITEMS))]
        rows[generator.random(rows.shape) < 0.2] = PAD
        answers.append(Table(rows, generator.integers(-3, 4, (num_queries, NUM_ITEMS)).astype(np.float32)))
    nums = [draw(st.integers(1, 8)) for _ in answers]
    weights = [draw(st.sampled_from([0.0, 0.5, 1.0])) for _ in range(2 * num_sources)]
    excluded = generator.integers(PAD, NUM_ITEMS, (num_queries, draw(st.integers(0, 4))))
    return answers, nums, weights, excluded, draw(st.integers(1, 20))


def slow(answers, nums, weights, excluded, query):
    """{row: (merged score, sources that offered it)} of one query, and its rows in order."""
    found = {}
    for source, (answer, num) in enumerate(zip(answers, nums, strict=True)):
        offered = answer.top_k(num + excluded.shape[1])[query].tolist()
        allowed = [row for row in offered if row != PAD and row not in excluded[query]]
        for row in allowed[:num]:
            found.setdefault(row, set()).add(source)
    merged = {}
    for row, sources in found.items():
        total = np.float32(0)
        for weight, answer in zip(weights, answers, strict=False):
            total += np.float32(weight) * answer.scores[query, row]
        for source in sorted(sources):
            own = sorted(
                (one for one in found if source in found[one]), key=lambda one: order_of(answers[source], query, one)
            )
            total += np.float32(weights[len(answers) + source]) * np.float32(1 / math.log2(2 + own.index(row)))
        merged[row] = (total, sources)
    return merged, sorted(merged, key=lambda row: (-merged[row][0], row))


def order_of(answer, query, row):
    return -answer.scores[query, row], row


def merged_of(case):
    answers, nums, weights, excluded, total = case
    return merged_by(answers, nums, excluded, weights, total)


@settings(deadline=None, max_examples=200)
@given(merges())
def test_the_merge_equals_a_dictionary(case):
    answers, nums, weights, excluded, total = case
    got = merged_of(case)
    assert got.rows.shape == got.scores.shape == (len(excluded), total)
    assert got.full_scores.shape == got.offered.shape == got.source_scores.shape == (*got.rows.shape, len(answers))
    for query in range(len(excluded)):
        found, order = slow(answers, nums, weights, excluded, query)
        num = min(total, len(order))
        assert got.rows[query].tolist() == order[:num] + [PAD] * (total - num)
        for place, row in enumerate(order[:num]):
            score, sources = found[row]
            assert got.scores[query, place] == score, "summed in the same order"
            full = [answer.scores[query, row] for answer in answers]
            assert got.full_scores[query, place].tolist() == full
            expected = [one if source in sources else math.nan for source, one in enumerate(full)]
            np.testing.assert_array_equal(got.source_scores[query, place], np.float32(expected))
        assert np.isneginf(got.scores[query, num:]).all()
        assert np.isnan(got.source_scores[query, num:]).all()
        assert not got.full_scores[query, num:].any()


@settings(deadline=None, max_examples=100)
@given(merges())
def test_laws_of_the_merge(case):
    _, nums, _, excluded, _ = case
    got = merged_of(case)
    for own, out in zip(got.rows, excluded, strict=True):
        kept = own[own != PAD].tolist()
        assert len(set(kept)) == len(kept)
        assert not set(kept) & set(out.tolist())
    with np.errstate(invalid="ignore"):
        assert (np.nan_to_num(np.diff(got.scores, axis=1), nan=0) <= 0).all()
    assert (got.offered.sum(axis=1) <= nums).all()


def said(rows, scores):
    """A source that offers `rows` to one query; scores {row: score}, 0 for the rest."""
    table = np.zeros((1, NUM_ITEMS), dtype=np.float32)
    table[0, list(scores)] = list(scores.values())
    return Table(np.array([rows], dtype=np.int64), table)


NOTHING = np.full((1, 0), PAD)


def test_merge_known_answer():
    towers, lists = said([5, 3, 7], {5: 0.5, 3: 0.25, 7: 0.9}), said([3, 8], {3: 1.0, 5: 0.75, 8: 1.0})
    got = merged_by([towers, lists], [2, 2], np.array([[8, PAD]]), [1.0, 0.5], 4)
    assert got.rows.tolist() == [[5, 3, PAD, PAD]], "7 is beyond the quota, 8 is excluded"
    assert got.scores[0, :2].tolist() == [0.875, 0.75], "5 has the lists' score though they did not offer it"
    np.testing.assert_array_equal(got.source_scores[0, :2], np.float32([[0.5, np.nan], [0.25, 1.0]]))
    assert got.full_scores[0, :2].tolist() == [[0.5, 0.75], [0.25, 1.0]]


def test_an_excluded_item_does_not_use_up_the_quota():
    assert merged_by([said([5, 3, 7], {})], [2], np.array([[5]]), [1.0], 3).rows.tolist() == [[3, 7, PAD]]


def test_equal_scores_go_to_the_lower_row():
    assert merged_by([said([9, 2, 4], {4: -0.0})], [3], NOTHING, [1.0], 3).rows.tolist() == [[2, 4, 9]]


def test_nothing_offered_is_all_padding():
    got = merged_by([said([], {})], [3], NOTHING, [1.0], 2)
    assert (got.rows.tolist(), got.offered.any()) == ([[PAD, PAD]], False)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 12))
def test_the_best_of_a_row_equal_a_full_sort(seed, width, k):
    generator = np.random.default_rng(seed)
    values = np.float32([-np.inf, -1.5, -1e-30, -0.0, 0.0, 1e-30, 2.0])
    scores = generator.choice(values, (4, width))
    names = np.stack([generator.permutation(2**31 - 1 - np.arange(width)) for _ in scores])
    for row, own, got in zip(scores.tolist(), names.tolist(), top_k(scores, names, k).tolist(), strict=True):
        ordered = sorted(zip(row, own, strict=True), key=lambda one: (-one[0], one[1]))[:k]
        assert got == [PAD if score == -np.inf else name for score, name in ordered]


def test_score_features_known_answer():
    merged = MergedCandidates(
        rows=np.array([[4, 7, PAD]]),
        scores=np.float32([[0.5, 0.25, -np.inf]]),
        full_scores=np.float32([[[2, 8], [3, 1], [0, 0]]]),
        offered=np.array([[[True, False], [True, True], [False, False]]]),
        sources=(said([], {}), said([], {})),
    )
    layout = ScoreLayout(("towers", "lists"))
    found = layout.features(merged)
    second, first = 1 / math.log2(3), 1.0
    expected = [
        [0.5, first, 2, 8, 1, 0, second, 0, *[4, 104, 204, 304] * 2],
        [0.25, second, 3, 1, 1, 1, first, first, *[7, 107, 207, 307] * 2],
        [0] * 16,
    ]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    assert found.dtype == np.float32
    assert found.shape[-1] == layout.width
    names = layout.names
    assert len(names) == layout.width
    assert [names[column] for column in layout.columns_of([1])] == ["lists", "lists:offered", "lists:place"]
    assert dict(zip(names, found[0, 0], strict=True))["lists:event_2"] == 104


def test_what_newest_events_say_stands_beside_its_candidate_and_is_nothing_for_padding():
    towers, lists = said([4, 7], {}), said([9], {})
    found = merged_by([towers, lists], [2, 2], NOTHING, [1.0, 0.5], 5)
    assert (found.event_scores[found.rows == PAD] == 0).all()
    for row, events in zip(found.rows[0], found.event_scores[0], strict=True):
        assert row == PAD or events.tolist() == [[e * 100 + row for e in range(RECENT_EVENTS)]] * 2


@pytest.mark.parametrize("weight", [0.1, 0.7])
def test_weights_order_the_same_union_anew(weight):
    answers = [said([1, 2], {1: 1.0, 2: 0.5}), said([2], {2: 1.0})]
    assert merged_by(answers, [2, 1], NOTHING, [1.0, weight], 1).rows.tolist() == [[1 if weight < 0.5 else 2]]
