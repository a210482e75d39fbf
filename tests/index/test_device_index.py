"""The torch index against the oracle; it runs on tensors of any device.

Shapes: B queries, N items, D dim, K results.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.index import ExactIndex
from recsys.index.gpu import device_index
from recsys.index.scores import oracle

KINDS = {
    "normal": lambda generator, shape: generator.normal(size=shape),
    "ties": lambda generator, shape: generator.integers(-2, 3, shape),
    "lengths": lambda generator, shape: generator.normal(size=shape) * np.exp(3 * generator.normal(size=(shape[0], 1))),
    "twins": lambda generator, shape: np.repeat(generator.normal(size=(1, shape[1])), shape[0], axis=0),
    "tiny": lambda generator, shape: generator.normal(size=shape) * 1e-19,
}


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@settings(deadline=None, max_examples=80)
@given(
    kind=st.sampled_from(list(KINDS)),
    num_items=st.integers(1, 600),
    dim=st.sampled_from([1, 3, 16, 64]),
    k=st.integers(1, 700),
    share=st.sampled_from([None, 0.0, 0.3]),
    each=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_the_torch_index_is_the_oracle(kind, num_items, dim, k, share, each, seed):
    generator = np.random.default_rng(seed)
    vectors = KINDS[kind](generator, (num_items, dim)).astype(np.float32)
    queries = KINDS[kind](generator, (3, dim)).astype(np.float32)
    allowed = None if share is None else generator.random((3, num_items) if each else num_items) < share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_index, "TILE_ROWS", 128)
        patch.setattr(device_index, "GROUP_BATCH", 3)
        found = ExactIndex(vectors).to("cpu").search(queries, k, allowed)
    assert_same(found, oracle(vectors, queries, k, allowed))


def test_removed_rows_are_not_taken_along():
    vectors = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    index = ExactIndex(vectors)
    index.remove(np.arange(0, 200, 2))
    assert_same(index.to("cpu").search(vectors[:4], 30), oracle(vectors, vectors[:4], 30, np.arange(200) % 2 == 1))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_is_the_oracle():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(300_000, 64)).astype(np.float32)
    queries = generator.normal(size=(33, 64)).astype(np.float32)
    allowed = generator.random(300_000) < 0.5
    on_gpu = ExactIndex(vectors).to("cuda")
    assert_same(on_gpu.search(queries, 100), oracle(vectors, queries, 100))
    assert_same(on_gpu.search(queries, 100, allowed), oracle(vectors, queries, 100, allowed))
