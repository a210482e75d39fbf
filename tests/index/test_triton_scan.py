"""The kernels of the index on a GPU, as Triton's interpreter runs them here, against the oracle where they are sure.

Shapes: B queries, N items, D dim, K results.
"""

import numpy as np
import pytest
import torch

from recsys.index.gpu import device_index, torch_scores
from recsys.index.scores import oracle

scan = pytest.importorskip("recsys.index.gpu.triton_scan", reason="Triton is there on Linux alone")
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device runs the kernels themselves"),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    few = scan.LaunchShape(queries=16, warps=1, stages=1, programs=1)
    for name, value in {"QUERY_BUCKETS": (16, 32), "SMALL_BATCH": few, "LARGE_BATCH": few}.items():
        monkeypatch.setattr(scan, name, value)


def made(vectors, alive=None):
    exact = torch.from_numpy(vectors)
    alive = np.ones(len(vectors), dtype=bool) if alive is None else alive
    return scan.TritonScan(exact, torch_scores.norm_bounds(exact), torch.from_numpy(alive))


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
    assert scanned.supports(2)
    assert not scanned.supports(3)


LOST, GAINED = 1 + 2.0**-8, 1 + 2.0**-8 + 2.0**-16
"""rounding to bfloat16 takes 2^-8 from the one and adds nearly as much to the other"""


def against_rounding(num):
    """A query, and rows: the best one is rounded down, three are a little worse and rounded up, all others are far off."""
    query = np.repeat([LOST, GAINED], 8).astype(np.float32)
    best, other = np.zeros((2, 16), dtype=np.float32)
    best[:8], other[8:] = LOST, GAINED
    other[15] = (8 * LOST**2 - 7 * GAINED**2 - 1e-4) / GAINED
    vectors = np.random.default_rng(0).normal(0, 0.1, (num, 16)).astype(np.float32)
    vectors[:3], vectors[num // 3] = other, best
    return vectors, query[None]


def test_rounding_at_its_worst_loses_no_row():
    vectors, query = against_rounding(128 * 16)
    expected = oracle(vectors, query, 1)
    assert expected[1].tolist() == [[128 * 16 // 3]]
    index = device_index.DeviceIndex(vectors, np.ones(len(vectors), dtype=bool), "cpu")
    assert_same(index.search(query, 1), expected)
    index._scan = made(vectors)
    assert index._scan.search(query, 1, None)[2].all()
    assert_same(index.search(query, 1), expected)


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_the_kernels_are_not_sure_of_is_asked_for_again():
    vectors, asked = drawn(128 * 24, 16, 20)
    vectors[: 128 * 12] = np.abs(asked[3]) * np.sign(asked[3])
    index = device_index.DeviceIndex(vectors, np.ones(len(vectors), dtype=bool), "cpu")
    index._scan = made(vectors)
    assert not index._scan.search(asked, 3, None)[2].all()
    assert_same(index.search(asked, 3), oracle(vectors, asked, 3))


def test_stages_are_as_many_as_shared_memory_holds():
    shape = scan.LaunchShape(queries=64, warps=4, stages=4, programs=1)
    assert [one and one.stages for one in (scan.fit_stages(shape, dim, 232_448) for dim in (64, 128, 256, 1024))] == [
        4,
        4,
        2,
        None,
    ]


def test_plans_are_forgotten():
    scanned, asked = made(drawn(128 * 60, 16, 1)[0]), drawn(1, 16, 1)[1]
    scan_plans = [scanned._plan((16, k, True)) for k in (1, 2, 3)]
    assert len({id(one) for one in scan_plans}) == 3
    for k in range(4, 4 + scan.MAX_PLANS):
        scanned._plan((16, k, True))
    assert len(scanned._plans) == scan.MAX_PLANS
    assert (16, 1, True) not in scanned._plans
    assert scanned.search(asked, 1, None)[2].all()
