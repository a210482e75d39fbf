import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys.contracts import PAD
from recsys.evaluation.intervals import weighted_mean
from recsys.metrics import (
    METRICS,
    K,
    Targets,
    debiased_ndcg,
    hits,
    ideal_gains,
    inverse_propensities,
    ndcg,
    per_user,
    rank_scores,
    recall,
    score_hits,
    shown_items,
    weight_per_user,
)


def nothing(scores):
    return sparse.csr_array(scores.shape)


def textbook_recall(ranking, wanted, k):
    return len(set(ranking[:k]) & set(wanted)) / len(set(wanted))


def textbook_ndcg(ranking, wanted, k):
    gain = sum(1 / math.log2(rank + 1) for rank, item in enumerate(ranking[:k], start=1) if item in wanted)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
    return gain / ideal


def textbook_ranking(scores, k, excluded, wanted):
    def place(item):
        return -np.float32(scores[item]), item in wanted, item

    listed = [i for i in range(len(scores)) if i not in excluded and scores[i] > -np.inf]
    best = sorted(listed, key=place)[:k]
    return best + [PAD] * (k - len(best))


@st.composite
def rankings(draw):
    """Rankings with PAD at the end, and the targets of their users, over few items so that they meet."""
    num_users, num_items = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    catalogue = st.permutations(range(num_items))
    listed = [draw(catalogue)[: draw(st.integers(0, num_items))] for _ in range(num_users)]
    ranking = np.array([row + [PAD] * (12 - len(row)) for row in listed])
    wanted = [draw(catalogue)[: draw(st.integers(1, num_items))] for _ in range(num_users)]
    return ranking, wanted, num_items


@st.composite
def scored(draw):
    """Scores with many ties, zeros of both signs, NaN and infinities; excluded places; targets."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    values = st.sampled_from([-np.inf, -2.5, -1e-30, -0.0, 0.0, 1e-30, 0.5, 3e38, np.inf, np.nan])
    cells = shape[0] * shape[1]
    scores = np.array(draw(st.lists(values, min_size=cells, max_size=cells)), dtype=np.float32).reshape(shape)
    excluded = np.array(draw(st.lists(st.booleans(), min_size=cells, max_size=cells))).reshape(shape)
    one = st.lists(st.integers(0, shape[1] - 1), min_size=1, unique=True)
    return scores, excluded, [draw(one) for _ in range(shape[0])]


@settings(deadline=None)
@given(rankings(), st.integers(1, 12))
def test_metrics_equal_the_textbook(case, k):
    ranking, wanted, num_items = case
    targets = Targets.of(wanted)
    found = hits(ranking, targets)
    rows = list(zip(ranking.tolist(), wanted, strict=True))
    assert found.tolist() == [[item in row for item in ranked] for ranked, row in rows]
    np.testing.assert_allclose(recall(found, targets.num_targets, k), [textbook_recall(*row, k) for row in rows])
    np.testing.assert_allclose(ndcg(found, targets.num_targets, k), [textbook_ndcg(*row, k) for row in rows])
    seen = {item for ranked, _ in rows for item in ranked[:k]} - {PAD}
    assert np.flatnonzero(shown_items(ranking, num_items, k)).tolist() == sorted(seen)


@settings(deadline=None)
@given(scored(), st.integers(1, 12))
def test_ranking_equals_the_textbook_sort(case, k):
    scores, excluded, wanted = case
    hidden = [set(np.flatnonzero(row)) for row in excluded]
    expected = [textbook_ranking(*row[:1], k, *row[1:]) for row in zip(scores, hidden, wanted, strict=True)]
    targets = Targets.of(wanted)
    assert rank_scores(scores, k, excluded, targets).tolist() == expected
    assert rank_scores(scores, k, sparse.csr_array(excluded), targets).tolist() == expected
    assert rank_scores(scores, k, sparse.csr_matrix(excluded.astype(np.float32)), targets).tolist() == expected


def test_torchmetrics_agrees():
    torch = pytest.importorskip("torch")
    retrieval = pytest.importorskip("torchmetrics.retrieval")
    generator = np.random.default_rng(3)
    scores = generator.permuted(np.tile(np.arange(40, dtype=np.float32), (25, 1)), axis=1)
    wanted = [generator.choice(40, size=generator.integers(1, 15), replace=False).tolist() for _ in range(25)]
    relevant = np.zeros(scores.shape, dtype=bool)
    for user, row in enumerate(wanted):
        relevant[user, row] = True
    targets = Targets.of(wanted)
    found = hits(rank_scores(scores, 10, nothing(scores), targets), targets)
    users = torch.arange(25).repeat_interleave(40)
    flat = torch.from_numpy(scores.ravel()), torch.from_numpy(relevant.ravel())
    theirs = [
        metric(top_k=10)(*flat, indexes=users)
        for metric in (retrieval.RetrievalRecall, retrieval.RetrievalNormalizedDCG)
    ]
    ours = [metric(found, targets.num_targets, 10).mean() for metric in (recall, ndcg)]
    np.testing.assert_allclose(ours, [float(value) for value in theirs], rtol=1e-5)


def test_known_answer_of_one_user():
    targets = Targets.of([[7, 3]])
    found = hits(np.array([[5, 7, 1, 3]]), targets)
    assert found.tolist() == [[False, True, False, True]]
    assert recall(found, targets.num_targets, 2) == [0.5]
    assert ndcg(found, targets.num_targets, 4)[0] == pytest.approx(
        (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3))
    )


def test_a_constant_scorer_scores_zero():
    scores = np.ones((5, 1_000), dtype=np.float32)
    targets = Targets.of([[0], [999], [3, 4, 5], [100], [50]])
    values = per_user(rank_scores(scores, K, nothing(scores), targets), targets, np.ones(1_000))
    assert set(values) == set(METRICS)
    assert not any(value.any() for value in values.values())


def test_scores_that_differ_only_beyond_float32_tie_and_the_target_loses():
    scores = np.array([[1.0 + 1e-12, 1.0]])
    assert rank_scores(scores, 2, nothing(scores), Targets.of([[0]])).tolist() == [[1, 0]]


def test_an_excluded_target_cannot_be_hit():
    scores = np.array([[3.0, 2.0, 1.0]])
    targets = Targets.of([[0]])
    ranking = rank_scores(scores, 3, np.array([[True, False, False]]), targets)
    assert ranking.tolist() == [[1, 2, PAD]]
    assert not hits(ranking, targets).any()


def test_every_metric_of_a_user_known_answer():
    """Targets 5 and 6 stand at places 1 and 11, target 7 nowhere; 5 weighs as much as the others together."""
    ranking = np.full((1, K), PAD)
    ranking[0, [0, 10]] = [5, 6]
    weights = np.array([1.0] * 5 + [2.0, 1.0, 1.0])
    values = {name: value.item() for name, value in per_user(ranking, Targets.of([[5, 6, 7]]), weights).items()}
    third, half = 1 / math.log2(3), 1 / math.log2(4)
    expected = {"recall@10": 1 / 3, "ndcg@10": 1 / (1 + third + half), "recall@100": 2 / 3, "recall@500": 2 / 3}
    micro = {"micro_recall@10": 1 / 3, "micro_recall@100": 2 / 3}
    assert values == pytest.approx(expected | micro | {"debiased_ndcg@10": 2 / (2 + third + half)})


def test_users_weigh_alike_but_where_the_mean_is_over_targets():
    targets, weights = Targets.of([[0], [1, 2, 3]]), np.array([2.0, 1.0, 1.0, 1.0])
    assert weight_per_user("recall@10", targets, weights).tolist() == [1, 1]
    assert weight_per_user("micro_recall@100", targets, weights).tolist() == [1, 3]
    assert weight_per_user("debiased_ndcg@10", targets, weights) == pytest.approx([2, 1 + 1 / math.log2(3) + 0.5])


@settings(deadline=None)
@given(rankings(), st.lists(st.floats(0.1, 5), min_size=12, max_size=12), st.integers(1, 12))
def test_debiased_gains_equal_the_textbook(case, weights, k):
    ranking, wanted, _ = case
    weights, targets = np.array(weights), Targets.of(wanted)
    discounts = [1 / math.log2(rank + 1) for rank in range(1, k + 1)]
    ideal, gained = [], []
    for ranked, row in zip(ranking.tolist(), wanted, strict=True):
        heaviest = sorted(weights[row], reverse=True)
        ideal.append(sum(weight * discount for weight, discount in zip(heaviest, discounts, strict=False)))
        gains = [weights[item] if item in row else 0 for item in ranked[:k]]
        gained.append(sum(gain * discount for gain, discount in zip(gains, discounts, strict=True)))
    np.testing.assert_allclose(ideal_gains(targets, weights, k), ideal)
    np.testing.assert_allclose(debiased_ndcg(ranking, targets, weights, k), np.divide(gained, ideal), atol=1e-12)


@settings(deadline=None)
@given(rankings(), st.integers(1, 12))
def test_equal_weights_debias_nothing(case, k):
    ranking, wanted, _ = case
    targets = Targets.of(wanted)
    plain = ndcg(hits(ranking, targets), targets.num_targets, k)
    np.testing.assert_allclose(debiased_ndcg(ranking, targets, np.full(12, 3.0), k), plain)


def test_debiasing_undoes_how_easily_items_are_met():
    """An item met n^0.5 times as easily weighs as much less: figures of a biased log come back to the unbiased ones."""
    generator = np.random.default_rng(0)
    popularity = np.array([1, 100])
    asked = generator.choice(
        2, 40_000, p=np.array([1, 10]) / 11
    )  # both are liked alike, one is met ten times as easily
    ranking = np.tile([1, 0], (len(asked), 1))
    targets, weights = Targets.of([[item] for item in asked]), inverse_propensities(popularity)
    values = debiased_ndcg(ranking, targets, weights, 2)
    unbiased = (1 + 1 / math.log2(3)) / 2
    assert weighted_mean(values, ideal_gains(targets, weights, 2)) == pytest.approx(unbiased, abs=5e-3)
    assert ndcg(hits(ranking, targets), targets.num_targets, 2).mean() > unbiased + 0.1


def test_what_nobody_met_weighs_as_much_as_what_one_met():
    assert inverse_propensities(np.array([0, 1, 4])).tolist() == [1, 1, 0.5]


@settings(deadline=None)
@given(scored(), st.integers(1, 12))
def test_hits_of_scores_are_those_of_their_ranking(case, k):
    scores, excluded, wanted = case
    targets = Targets.of(wanted)
    expected = hits(rank_scores(scores, k, excluded, targets), targets)
    before = scores.copy()
    assert np.array_equal(score_hits(scores, k, excluded, targets), expected)
    assert np.array_equal(score_hits(scores, k, sparse.csr_array(excluded), targets), expected)
    assert np.array_equal(scores, before, equal_nan=True)


@settings(deadline=None)
@given(scored(), st.integers(1, 12), st.randoms(use_true_random=False))
def test_the_order_of_the_catalogue_leaks_nothing(case, k, random):
    scores, excluded, wanted = case
    order = random.sample(range(scores.shape[1]), scores.shape[1])
    places = np.argsort(order)
    targets, moved = Targets.of(wanted), Targets.of([[int(places[item]) for item in row] for row in wanted])
    here = hits(rank_scores(scores, k, excluded, targets), targets)
    there = hits(rank_scores(scores[:, order], k, excluded[:, order], moved), moved)
    assert np.array_equal(here, there)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True), min_size=1, max_size=6), st.data())
def test_some_of_the_targets(wanted, data):
    targets = Targets.of(wanted)
    kept = np.array([item % 2 == 0 for row in wanted for item in row])
    even = [[item for item in row if item % 2 == 0] for row in wanted]
    if kept.any():
        rows, left = targets.only(kept)
        assert rows.tolist() == [row for row, items in enumerate(even) if items]
        assert [part.tolist() for part in np.split(left.items, left.indptr[1:-1])] == [one for one in even if one]
    start = data.draw(st.integers(0, len(wanted) - 1))
    stop = data.draw(st.integers(start + 1, len(wanted)))
    part = targets.batch(slice(start, stop))
    assert [one.tolist() for one in np.split(part.items, part.indptr[1:-1])] == wanted[start:stop]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Targets.of([[1], []]), "user row 1 has no targets"),
        (lambda: Targets.of([]), "at least one user"),
        (lambda: Targets.of([[1, 1]]), "same target twice"),
        (lambda: Targets.of([[PAD]]), "negative item"),
        (lambda: Targets(indptr=np.array([0, 2]), items=np.array([4])), "from 0 to 1"),
        (lambda: hits(np.array([[2, 1, 2]]), Targets.of([[2]])), "lists an item twice"),
        (lambda: hits(np.array([[2], [1]]), Targets.of([[2]])), "one row a user"),
        (lambda: recall(np.zeros((1, 9), dtype=bool), np.ones(1), 10), "k is 10, the ranking has 9 positions"),
        (lambda: per_user(np.arange(10)[None], Targets.of([[2]]), np.ones(10)), "k is 100"),
        (lambda: shown_items(np.array([[5]]), 5, 1), "catalogue row 5, the catalogue has 5"),
        (lambda: rank_scores(np.zeros((2, 3)), 1, np.zeros((2, 3), bool), Targets.of([[0]])), "2 rows, targets 1"),
        (lambda: rank_scores(np.zeros((1, 3)), 1, np.zeros((1, 2), bool), Targets.of([[0]])), r"excluded \(1, 2\)"),
        (lambda: rank_scores(np.zeros((1, 3)), 1, np.zeros((1, 3)), Targets.of([[0]])), "float64; wanted bool"),
        (lambda: rank_scores(np.zeros((1, 3)), 0, np.zeros((1, 3), bool), Targets.of([[0]])), "the 0 best"),
    ],
)
def test_misuse_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
