import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys.contracts import PAD
from recsys.evaluation.metrics import (
    Targets,
    bootstrap_interval,
    coverage,
    evaluate,
    hits,
    ndcg,
    paired_bootstrap,
    per_user,
    rank_scores,
    recall,
    summarise,
    top_k,
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
    assert coverage(ranking, num_items, k) == len(seen) / num_items


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
    nobody = [textbook_ranking(*row, set()) for row in zip(scores, [k] * len(scores), hidden, strict=True)]
    assert top_k(scores, k, excluded).tolist() == nobody


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
    scores = np.ones((5, 200), dtype=np.float32)
    targets = Targets.of([[0], [199], [3, 4, 5], [100], [50]])
    result = evaluate(rank_scores(scores, 100, nothing(scores), targets), targets, 200, seed=0)
    assert (result["recall@10"], result["recall@100"], result["ndcg@10"]) == (0, 0, 0)
    assert result["ci95"] == {name: [0.0, 0.0] for name in ("recall@10", "recall@100", "ndcg@10")}


def test_scores_that_differ_only_beyond_float32_tie_and_the_target_loses():
    scores = np.array([[1.0 + 1e-12, 1.0]])
    assert rank_scores(scores, 2, nothing(scores), Targets.of([[0]])).tolist() == [[1, 0]]


def test_an_excluded_target_cannot_be_hit():
    scores = np.array([[3.0, 2.0, 1.0]])
    targets = Targets.of([[0]])
    ranking = rank_scores(scores, 3, np.array([[True, False, False]]), targets)
    assert ranking.tolist() == [[1, 2, PAD]]
    assert not hits(ranking, targets).any()


def test_evaluate_is_the_mean_with_an_interval_around_it():
    generator = np.random.default_rng(0)
    ranking = generator.permuted(np.tile(np.arange(150), (300, 1)), axis=1)[:, :100]
    targets = Targets.of([[item] for item in generator.integers(0, 150, 300)])
    result = evaluate(ranking, targets, 150, seed=1)
    assert list(result) == ["recall@10", "recall@100", "ndcg@10", "coverage@10", "ci95", "users"]
    assert result == evaluate(ranking, targets, 150, seed=1)
    assert result == summarise(per_user(ranking, targets), coverage(ranking, 150, 10), seed=1)
    assert (result["users"], result["coverage@10"]) == (300, 1.0)
    for name, (low, high) in result["ci95"].items():
        assert result[name] == per_user(ranking, targets)[name].mean()
        assert low < result[name] < high


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
        (lambda: recall(np.zeros((1, 9), dtype=bool), np.ones(1), 10), "k is 10, the ranking has 9 places"),
        (lambda: evaluate(np.zeros((1, 10), dtype=np.int64), Targets.of([[2]]), 5, 0), "k is 100"),
        (lambda: coverage(np.array([[5]]), 5, 1), "catalogue row 5, the catalogue has 5"),
        (lambda: rank_scores(np.zeros((2, 3)), 1, np.zeros((2, 3), bool), Targets.of([[0]])), "2 rows, targets 1"),
        (lambda: top_k(np.zeros((2, 3)), 1, np.zeros((1, 3), bool)), r"excluded \(1, 3\)"),
        (lambda: top_k(np.zeros((2, 3)), 1, np.zeros((2, 3))), "float64; wanted bool"),
        (lambda: top_k(np.zeros((2, 3)), 0, np.zeros((2, 3), bool)), "the 0 best"),
        (lambda: bootstrap_interval(np.array([0.5, np.nan]), 0), "finite value"),
        (lambda: paired_bootstrap(np.zeros(2), np.zeros(3), 0), "the same users"),
    ],
)
def test_misuse_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
