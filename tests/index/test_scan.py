"""The kernels of the index on a GPU, as Triton's interpreter runs them here, against the oracle where they are sure.

Shapes: B queries, N items, D dim, K results.
"""

import numpy as np
import pytest
import torch

from recsys.index import device
from recsys.index.scores import oracle

scan = pytest.importorskip("recsys.index.scan", reason="Triton is there on Linux alone")
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device runs the kernels themselves"),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    few = scan.Shape(queries=16, warps=1, stages=1, programs=1)
    for name, value in {"BATCHES": (16, 32), "SMALL": few, "LARGE": few}.items():
        monkeypatch.setattr(scan, name, value)


def made(vectors, alive=None):
    exact = torch.from_numpy(vectors)
    alive = np.ones(len(vectors), dtype=bool) if alive is None else alive
    return scan.Scan(exact, device.norms(exact), torch.from_numpy(alive))


def drawn(num, dim, queries, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(size, dim)).astype(np.float32) for size in (num, queries)]


@pytest.mark.parametrize(("num", "dim", "k", "queries"), [(128 * 24, 16, 3, 2), (128 * 24 - 7, 20, 2, 20)])
def test_what_is_sure_is_the_oracle(num, dim, k, queries):
    vectors, asked = drawn(num, dim, queries)
    scores, rows, sure = made(vectors).search(asked, k, None)
    assert sure.all()
    expected = oracle(vectors, asked, k)
    np.testing.assert_array_equal(scores, expected[0])
    np.testing.assert_array_equal(rows, expected[1])


def test_equal_scores_come_by_the_lower_row():
    vectors, asked = drawn(128 * 16, 16, 2)
    vectors[[5, 900, 2000]] = 3 * asked[0]
    _, rows, sure = made(vectors).search(asked, 2, None)
    assert sure[0]
    assert rows[0].tolist() == [5, 900]


def test_removed_rows_and_masked_ones_are_not_found_and_a_mask_is_forgotten():
    vectors, asked = drawn(128 * 16, 16, 2)
    alive, mask = np.arange(len(vectors)) % 3 > 0, np.arange(len(vectors)) % 2 > 0
    scanned = made(vectors, alive)
    for own in (None, mask, None):
        scores, rows, sure = scanned.search(asked, 2, None if own is None else torch.from_numpy(own))
        expected = oracle(vectors, asked, 2, alive if own is None else alive & own)
        assert sure.all()
        np.testing.assert_array_equal(scores, expected[0])
        np.testing.assert_array_equal(rows, expected[1])


def test_more_rows_at_the_floor_than_there_is_room_for_are_not_sure():
    vectors, asked = drawn(128 * 16, 16, 2)
    vectors[:] = vectors[:1]
    assert not made(vectors).search(asked, 2, None)[2].any()


def test_nothing_allowed_is_not_sure():
    vectors, asked = drawn(128 * 16, 16, 2)
    nothing = torch.zeros(len(vectors), dtype=torch.bool)
    assert not made(vectors).search(asked, 2, nothing)[2].any()


def test_a_catalogue_must_be_large_for_what_is_asked():
    scanned = made(drawn(128 * 16, 16, 1)[0])
    assert scanned.fits(2)
    assert not scanned.fits(3)
