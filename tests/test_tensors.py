"""Batches and the tensors that they declare."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts import RANKED, RETRIEVED, CandidateBatch
from recsys.features.batches import RequestBatch
from recsys.pipeline import through
from recsys.tensors import VARIABLE, TensorSpec

C, S, T = 3, 2, 1


def candidates(flags: tuple[tuple[str, ...], ...], ranked: int) -> CandidateBatch:
    """ranked: how many of the ranker's outputs there are"""
    rng, shape = np.random.default_rng(0), (len(flags), C)
    outputs = [rng.random((*shape, T)).astype(np.float32) for _ in range(ranked)]
    return CandidateBatch(
        rows=rng.integers(0, 9, shape),
        scores=rng.random(shape).astype(np.float32),
        source_scores=rng.random((*shape, S)).astype(np.float32),
        degraded=flags,
        **dict(zip(RANKED, outputs, strict=False)),
    )


def check(tensor: TensorSpec, array: np.ndarray, size: int) -> None:
    """An array of `size` requests is as declared."""
    assert array.shape[0] == size
    assert array.dtype == (np.object_ if tensor.dtype == "bytes" else tensor.dtype), tensor
    assert len(array.shape) == 1 + len(tensor.shape), tensor
    assert all(wanted in (VARIABLE, found) for wanted, found in zip(tensor.shape, array.shape[1:], strict=True)), tensor


@given(st.lists(st.lists(st.text(max_size=3)).map(tuple), min_size=1, max_size=4).map(tuple), st.integers(0, 2))
def test_candidates_are_the_same_after_their_tensors(flags: tuple[tuple[str, ...], ...], ranked: int) -> None:
    batch = candidates(flags, ranked)
    tensors = batch.tensors()
    specs = CandidateBatch.specs({"sources": S, "objectives": T}, (*RETRIEVED, *RANKED[:ranked]))
    assert list(tensors) == [tensor.name for tensor in specs]
    for tensor in specs:
        check(tensor, tensors[tensor.name], len(flags))
    found = CandidateBatch.of({**tensors, "other": np.zeros(1)})
    assert found.degraded == flags
    for name in ("rows", "scores", "source_scores", *RANKED[:ranked]):
        np.testing.assert_array_equal(getattr(found, name), getattr(batch, name))
    assert all(getattr(found, name) is None for name in RANKED[ranked:])
    with pytest.raises(TypeError, match="scores"):
        CandidateBatch.of({name: array for name, array in tensors.items() if name != "merged_scores"})


def test_a_table_lacks_the_tensors_of_parts_that_it_has_not() -> None:
    sizes = {"history": 4, "objectives": T, "items_ids": 2, "items_vectors": 5, "context_numbers": 3}
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in RequestBatch.specs(sizes)] == [
        ("history_ids", "int64", (4, 2)),
        ("history_vectors", "float32", (4, 5)),
        ("history_labels", "float32", (4, T)),
        ("history_gaps", "float32", (4,)),
        ("context_numbers", "float32", (3,)),
    ]
    batch = RequestBatch(
        history={"ids": np.array([[[0, 0], [0, 0], [2, 3], [0, 0]], [[0, 0], [0, 0], [0, 0], [4, 0]]])},
        labels=np.arange(8.0).reshape(2, 4, T),
        gaps=np.arange(8.0).reshape(2, 4),
        profile={},
        context={"numbers": np.zeros((2, 3))},
    )
    tensors = batch.tensors()
    assert list(tensors) == ["history_ids", "history_labels", "history_gaps", "context_numbers"]
    assert list(RequestBatch.of(tensors).tensors()) == list(tensors)
    trimmed = RequestBatch.of(tensors).without_padding()
    assert trimmed.history["ids"].tolist() == [[[2, 3], [0, 0]], [[0, 0], [4, 0]]]
    assert trimmed.gaps.tolist() == [[2, 3], [6, 7]]
    assert trimmed.labels[..., 0].tolist() == [[2, 3], [6, 7]]


@pytest.mark.parametrize("size", [1, 3])
def test_what_a_stage_answers_is_what_it_declares(trained: Any, size: int) -> None:
    queries = [replace(query, k=5) for query in trained.replay.queries(range(size), k=1)]
    tensors: dict[str, Any] = {"QUERY": queries}
    for stage in trained.stages[:-1]:
        answer = stage(tensors)
        assert list(answer) == [tensor.name for tensor in stage.outputs]
        for tensor in stage.outputs:
            check(tensor, answer[tensor.name], size)
        tensors |= answer
    assert len(through({"QUERY": queries}, trained.stages)["SLATE"]) == size
