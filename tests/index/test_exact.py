"""The exact index against its slow twin, which is held against plain Python.

Shapes: B queries, N items, D dim, K results.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts import PAD
from recsys.errors import ConfigError, DataError
from recsys.index import ExactIndex
from recsys.index.exact import recall_against
from recsys.index.int8 import NO_SCORE, Int8Codes, _kth_largest
from recsys.index.scores import inner_products, oracle


def one_by_one(query, vector):
    """The folded sum in words: each product and each sum rounded to float32."""
    numbers = [np.float32(a) * np.float32(b) for a, b in zip(query, vector, strict=True)]
    while len(numbers) > 1:
        half = (len(numbers) + 1) // 2
        for place in range(len(numbers) - half):
            numbers[place] += numbers[half + place]
        numbers = numbers[:half]
    return numbers[0]


def drawn(generator, kind, shape):
    """Vectors of every kind that has ever broken a top-k."""
    plain = generator.normal(size=shape)
    match kind:
        case "normal":
            return plain
        case "ties":
            return generator.integers(-2, 3, shape)
        case "lengths":
            return plain * np.exp(3 * generator.normal(size=(shape[0], 1)))
        case "twins":
            return np.repeat(plain[:1], shape[0], axis=0)
        case "zeros":
            return plain * (generator.random((shape[0], 1)) < 0.3)
        case "tiny":
            return plain * 1e-19
    return plain * 1e14


KINDS = ("normal", "ties", "lengths", "twins", "zeros", "tiny", "huge")
CASES = {
    "kind": st.sampled_from(KINDS),
    "num_items": st.integers(1, 400),
    "dim": st.sampled_from([1, 2, 3, 16, 33, 64]),
    "k": st.integers(1, 450),
    "share": st.sampled_from([None, 0.0, 0.02, 0.5, 1.0]),
    "each": st.booleans(),
    "seed": st.integers(0, 10_000),
}


def case(kind, num_items, dim, share, each, seed, num_queries=3):
    """vectors, queries and a mask of what is allowed."""
    generator = np.random.default_rng(seed)
    vectors = drawn(generator, kind, (num_items, dim)).astype(np.float32)
    queries = drawn(generator, kind, (num_queries, dim)).astype(np.float32)
    shape = (num_queries, num_items) if each else (num_items,)
    return vectors, queries, None if share is None else generator.random(shape) < share


def assert_same(found, expected):
    for one, other, dtype in zip(found, expected, (np.float32, np.int64), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == dtype


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 8, 31, 64])
def test_a_folded_score_is_what_plain_python_sums_and_near_the_truth(dim):
    query, vectors = np.random.default_rng(dim).normal(size=(2, 20, dim)).astype(np.float32)
    scores = inner_products(query[0], vectors)
    assert scores.tolist() == [one_by_one(query[0], vector) for vector in vectors]
    exact = vectors.astype(np.float64) @ query[0].astype(np.float64)
    bound = (np.log2(dim) + 2) * 2.0**-24 * (np.abs(vectors) @ np.abs(query[0]))
    assert (np.abs(scores - exact) <= bound).all()


@pytest.mark.parametrize("share", [None, 0.3])
def test_the_oracle_is_a_full_sort(share):
    vectors, queries, allowed = case("ties", 60, 3, share, True, seed=1)
    scores, rows = oracle(vectors, queries, 40, allowed)
    for query, own_scores, own_rows, own in zip(
        queries, scores, rows, np.ones((3, 60), bool) if allowed is None else allowed, strict=True
    ):
        expected = sorted((-one_by_one(query, vectors[row]), row) for row in np.flatnonzero(own))[:40]
        num = len(expected)
        assert [(-score, row) for score, row in zip(own_scores[:num], own_rows[:num], strict=True)] == expected
        assert (own_rows[num:] == PAD).all()
        assert np.isneginf(own_scores[num:]).all()


@settings(deadline=None, max_examples=150)
@given(**CASES)
def test_the_exact_index_is_the_oracle(kind, num_items, dim, k, share, each, seed):
    vectors, queries, allowed = case(kind, num_items, dim, share, each, seed)
    assert_same(ExactIndex(vectors).search(queries, k, allowed), oracle(vectors, queries, k, allowed))


def test_it_is_the_oracle_where_the_scan_leaves_few_rows_of_many():
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(20, 48))
    vectors = (centres[generator.integers(0, 20, 30_000)] + 0.3 * generator.normal(size=(30_000, 48))).astype(
        np.float32
    )
    queries = vectors[::3_000]
    index = ExactIndex(vectors)
    assert_same(index.search(queries, 100), oracle(vectors, queries, 100))
    found = np.empty(100, np.float32), np.empty(100, np.int64)
    codes, allowed = Int8Codes.of(vectors), np.ones(30_000, dtype=bool)
    assert max(codes.search(query, allowed, vectors, found) for query in queries) < 300


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=60), st.integers(1, 60))
def test_the_floor_is_just_below_the_kth_largest(numbers, k):
    lower = np.array(numbers, dtype=np.float32)
    floor = _kth_largest(lower, k)
    if k >= len(lower):
        assert floor == NO_SCORE
    else:
        kth = np.sort(lower)[-k]
        assert kth - abs(kth) * 2.0**-12 - 1e-37 <= floor <= kth


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), num_added=st.integers(0, 40), kind=st.sampled_from(KINDS))
def test_adding_and_removing_is_rebuilding(seed, num_added, kind):
    vectors, queries, _ = case(kind, 90, 8, None, False, seed)
    generator = np.random.default_rng(seed)
    gone = generator.choice(90, 30, replace=False)
    index = ExactIndex(vectors[: 90 - num_added])
    index.remove(gone[gone < 90 - num_added])
    np.testing.assert_array_equal(index.add(vectors[90 - num_added :]), np.arange(90 - num_added, 90))
    index.remove(gone[gone >= 90 - num_added])
    assert_same(index.search(queries, 70), oracle(vectors, queries, 70, ~np.isin(np.arange(90), gone)))
    assert len(index) == 90


def test_allowed_rows_are_an_allowed_mask():
    vectors, queries, _ = case("normal", 200, 8, None, False, seed=3)
    rows = np.array([7, 3, 150, 3])
    mask = np.isin(np.arange(200), rows)
    assert_same(ExactIndex(vectors).search(queries, 5, rows), oracle(vectors, queries, 5, mask))
    assert (ExactIndex(vectors).search(queries, 5, np.array([], dtype=np.int64))[1] == PAD).all()


def test_vectors_of_rows_and_of_padding():
    vectors, _, _ = case("normal", 20, 4, None, False, seed=0)
    index = ExactIndex(vectors)
    index.remove(np.array([3]))
    expected = np.stack([[vectors[3], np.zeros(4)], [vectors[19], vectors[0]]])
    np.testing.assert_array_equal(index.vectors(np.array([[3, PAD], [19, 0]])), expected)


def test_an_empty_index_and_no_query():
    assert ExactIndex(np.empty((0, 4))).search(np.ones((2, 4)), 3)[1].shape == (2, 0)
    assert ExactIndex(np.ones((5, 4))).search(np.empty((0, 4)), 3)[1].shape == (0, 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e16])
def test_what_is_not_a_plain_number_is_refused(bad):
    broken = np.array([[1.0, bad], [0.0, 1.0]])
    for call in (
        lambda: ExactIndex(broken),
        lambda: ExactIndex(np.ones((2, 2))).search(broken, 1),
        lambda: ExactIndex(np.ones((2, 2))).add(broken),
    ):
        with pytest.raises(DataError, match="NaN, infinity or numbers above"):
            call()


def test_shapes_and_rows_that_do_not_fit_are_refused():
    index = ExactIndex(np.ones((5, 4)))
    with pytest.raises(DataError, match=r"give \[number, 4\]"):
        index.search(np.ones((1, 3)), 1)
    with pytest.raises(DataError, match="there are rows 0 to 4"):
        index.remove(np.array([5]))
    with pytest.raises(DataError, match="allowed has shape"):
        index.search(np.ones((1, 4)), 1, np.ones(6, dtype=bool))
    with pytest.raises(ConfigError, match="k is 0"):
        index.search(np.ones((1, 4)), 0)


def test_recall_known_answer():
    exact = np.array([[1, 2, 3], [4, 5, PAD]])
    assert recall_against(exact, exact) == 1
    assert recall_against(exact, np.array([[3, 9], [PAD, 4]])) == pytest.approx(2 / 5)
    assert recall_against(np.full((2, 1), PAD), np.full((2, 1), PAD)) == 0
