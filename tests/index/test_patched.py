"""A patched index finds what an index of all its vectors finds, and leaves the one below as it was.

Shapes: B queries, N items, D dim.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts import PAD
from recsys.index import ExactIndex, FaissIndex, IndexBuilder, PatchedIndex
from recsys.index.scores import oracle

DIM = 6
BUILDER = IndexBuilder(factory="Flat", nprobe=1, ef_search=1, k_factor=1.0, min_recall=1.0, recall_at=3)


def random_vectors(num: int, seed: int, kind: str) -> np.ndarray:
    """For the exact index small whole numbers, so that ties are many; faiss does not order those that it leaves out."""
    generator = np.random.default_rng(seed)
    numbers = generator.integers(-2, 3, (num, DIM)) if kind == "exact" else generator.normal(size=(num, DIM))
    return numbers.astype(np.float32)


def below(kind: str, vectors: np.ndarray) -> ExactIndex | FaissIndex:
    return ExactIndex(vectors) if kind == "exact" else BUILDER.build(vectors)[0]


@st.composite
def patches(draw: st.DrawFn) -> tuple[int, int, list[int], list[int], int]:
    """Rows below, new rows, rows below with another vector, hidden rows, results."""
    num, new = draw(st.integers(4, 30)), draw(st.integers(0, 8))
    changed = draw(st.lists(st.integers(0, num - 1), unique=True, max_size=6))
    hidden = draw(st.lists(st.integers(0, num + new - 1), unique=True, max_size=num + new))
    return num, new, sorted(changed), hidden, draw(st.integers(1, num + new + 3))


@settings(max_examples=60, deadline=None)
@given(patches(), st.sampled_from(["exact", "flat"]))
def test_it_finds_what_a_search_of_all_vectors_finds(
    patch: tuple[int, int, list[int], list[int], int], kind: str
) -> None:
    num, new, changed, hidden, k = patch
    own, rows = random_vectors(num, 1, kind), np.array([*changed, *range(num, num + new)], dtype=np.int64)
    given_vectors, queries = random_vectors(len(rows), 2, kind), random_vectors(3, 3, kind)
    found = PatchedIndex(below(kind, own), rows, given_vectors, np.array(hidden, dtype=np.int64))
    whole = np.concatenate([own, np.zeros((new, DIM), np.float32)])
    whole[rows] = given_vectors
    shown = np.ones(num + new, dtype=bool)
    shown[hidden] = False
    for mine, wanted in zip(found.search(queries, k), oracle(whole, queries, k, shown), strict=True):
        np.testing.assert_array_equal(mine, wanted)
    everything = np.array([[PAD, *range(num + new)]])
    np.testing.assert_array_equal(found.vectors(everything)[0, 1:], whole)
    assert not found.vectors(everything)[0, 0].any()
    assert len(found) == num + new


@pytest.mark.parametrize("kind", ["exact", "flat"])
def test_the_index_below_goes_on_as_it_was(kind: str) -> None:
    own, queries = random_vectors(20, 1, kind), random_vectors(4, 2, kind)
    index = below(kind, own)
    before = index.search(queries, 5)
    PatchedIndex(index, np.array([0, 20]), random_vectors(2, 3, kind), np.arange(10)).search(queries, 5)
    for mine, wanted in zip(index.search(queries, 5), before, strict=True):
        np.testing.assert_array_equal(mine, wanted)
    assert len(index) == 20
