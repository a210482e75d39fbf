"""faiss against the exact index, and the exact index against a full sort.

Shapes: B queries, N items, D dim, K results.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts import PAD
from recsys.errors import ConfigError
from recsys.index import ExactIndex, FaissIndex, exact
from recsys.index.ann import IndexBuilder
from recsys.index.exact import recall_against, search_tile

N, D = 300, 8


def unit(shape, seed):
    vectors = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def vectors():
    return unit((N, D), 0)


@pytest.fixture(scope="module")
def queries():
    return unit((40, D), 1)


def builder(**knobs):
    return IndexBuilder(**{"factory": "Flat", "nprobe": 1, "min_recall": 0.0, "recall_at": 10, **knobs})


def full_sort(queries, vectors, k):
    """The slow twin: every score, larger first, ties to the lower row."""
    scores = queries @ vectors.T
    rows = np.array([sorted(range(len(vectors)), key=lambda row, own=own: (-own[row], row))[:k] for own in scores])
    return np.take_along_axis(scores, rows, axis=1), rows


@pytest.mark.parametrize("k", [1, 10, N, N + 50])
def test_flat_equals_exact_equals_a_full_sort(queries, vectors, k):
    flat, recall = builder(min_recall=1.0).build(vectors)
    found, oracle, slow = (
        flat.search(queries, k),
        ExactIndex(vectors).search(queries, k),
        full_sort(queries, vectors, k),
    )
    assert recall == 1
    for scores, rows in (found, oracle):
        np.testing.assert_array_equal(rows, slow[1])
        np.testing.assert_allclose(scores, slow[0], rtol=0, atol=1e-5)
        assert (scores.dtype, rows.dtype) == (np.float32, np.int64)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 9), st.integers(0, 1_000))
def test_tiles_change_nothing_and_ties_go_to_the_lower_row(num_items, k, tile, seed):
    generator = np.random.default_rng(seed)
    vectors = generator.integers(-2, 3, (num_items, 2)).astype(np.float32)
    queries = generator.integers(-2, 3, (4, 2)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "TILE", tile)
        scores, rows = ExactIndex(vectors).search(queries, k)
    expected = full_sort(queries, vectors, k)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_array_equal(scores, expected[0])


def test_more_neighbours_than_items_gives_all_items(queries, vectors):
    assert builder().build(vectors[:3])[0].search(queries, 9)[1].shape == (40, 3)
    assert ExactIndex(vectors[:3]).search(queries, 9)[1].shape == (40, 3)


@pytest.mark.parametrize("k", [0, -1])
def test_no_neighbour_at_all_is_refused(queries, vectors, k):
    for index in (ExactIndex(vectors), builder().build(vectors)[0]):
        with pytest.raises(ConfigError, match=f"k is {k}"):
            index.search(queries, k)


def test_an_index_that_finds_too_little_is_refused(vectors):
    with pytest.raises(ConfigError, match=r"index\.min_recall asks for 0\.99") as refused:
        builder(factory="IVF7,Flat", min_recall=0.99, recall_at=50).build(vectors)
    assert "'IVF7,Flat' finds 0." in str(refused.value)


def test_more_cells_find_more_and_all_cells_everything(vectors):
    recalls = [builder(factory="IVF7,Flat", nprobe=nprobe).build(vectors)[1] for nprobe in (1, 3, 7)]
    assert recalls[0] < recalls[1] < recalls[2] == 1


def test_an_unknown_factory_is_refused(vectors):
    with pytest.raises(ConfigError, match=r"index\.factory 'Flatt' is not known to faiss"):
        builder(factory="Flatt").build(vectors)


@pytest.mark.parametrize(
    ("knobs", "key"),
    [({"min_recall": 1.5}, "min_recall"), ({"min_recall": -0.1}, "min_recall"), ({"nprobe": 0}, "nprobe")]
    + [({"recall_at": 0}, "recall_at")],
)
def test_a_knob_out_of_range_is_refused_by_name(knobs, key):
    with pytest.raises(ConfigError, match=key):
        builder(**knobs)


@pytest.mark.parametrize("factory", ["Flat", "IVF7,Flat"])
def test_an_index_that_was_written_reads_back_the_same(tmp_path, queries, vectors, factory):
    built, _ = builder(factory=factory, nprobe=3).build(vectors)
    built.write(tmp_path / "index.faiss")
    for before, after in zip(
        built.search(queries, 10), FaissIndex.read(tmp_path / "index.faiss").search(queries, 10), strict=True
    ):
        np.testing.assert_array_equal(before, after)


def test_places_that_faiss_leaves_empty_are_padding(vectors, queries):
    rows = builder(factory="IVF7,Flat", nprobe=1).build(vectors)[0].search(queries, N)[1]
    assert rows.min() == PAD
    assert all(len(set(own[own != PAD])) == (own != PAD).sum() for own in rows)


def test_recall_known_answer():
    oracle = np.array([[1, 2, 3], [4, 5, PAD]])
    assert recall_against(oracle, oracle) == 1
    assert recall_against(oracle, np.array([[3, 9], [PAD, 4]])) == pytest.approx(2 / 5)
    assert recall_against(np.full((2, 1), PAD), np.full((2, 1), PAD)) == 0


def test_one_tile_known_answer():
    scores, rows = search_tile(np.array([[1.0, 3, 3, 2]]), np.array([[7, 6, 5, 4]]), 3)
    assert (scores.tolist(), rows.tolist()) == ([[3, 3, 2]], [[5, 6, 4]])
