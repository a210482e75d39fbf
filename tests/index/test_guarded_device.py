"""An index on a device: the same answers, the CPU's where the device is lost or full, and the device's when it is back."""

import logging

import numpy as np
import pytest
import torch

from recsys.errors import ConfigError
from recsys.index import ExactIndex, FaissIndex, GuardedDeviceIndex, IndexBuilder, IndexChoice, PatchedIndex, choice
from recsys.index.gpu import device_index
from recsys.index.guarded_device import ON_CPU, RETRY_S

N, DIM, B = 300, 16, 7


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32)


@pytest.fixture
def queries():
    return np.random.default_rng(1).normal(size=(B, DIM)).astype(np.float32)


@pytest.fixture
def trained(vectors):
    index, _ = IndexBuilder(factory="Flat", nprobe=1, ef_search=1, k_factor=1, min_recall=0.9, recall_at=10).build(
        vectors
    )
    index.remove(np.array([3, 5]))
    return index


def same(found, expected):
    return all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["faiss", "exact", "device", "auto"])
def test_every_kind_finds_the_same_rows_and_scores(kind, trained, queries, vectors):
    index = IndexChoice(kind=kind, device="cpu").of(trained)
    oracle = ExactIndex(vectors)
    oracle.remove(np.array([3, 5]))
    allowed = np.arange(0, N, 3)
    for k in (1, 10, N):
        assert same(index.search(queries, k), oracle.search(queries, k))
        assert same(index.search(queries, k, allowed), oracle.search(queries, k, allowed))
    assert np.array_equal(index.vectors(np.array([0, -1, 7])), oracle.vectors(np.array([0, -1, 7])))
    assert (len(index), index.dim, index.degraded) == (N, DIM, ())


def test_live_items_are_found_beside_a_device_as_beside_the_cpu(trained, queries):
    new = np.random.default_rng(2).normal(size=(4, DIM)).astype(np.float32)
    rows, hidden = np.array([1, 8, N, N + 1]), np.array([0, 2, N + 1])
    on_device, on_cpu = (
        PatchedIndex(below, rows, new, hidden) for below in (GuardedDeviceIndex(trained, "cpu"), trained)
    )
    assert same(on_device.search(queries, 50), on_cpu.search(queries, 50))
    assert on_device.degraded == ()


def test_a_lost_device_is_said_and_the_cpu_answers_until_it_is_back(trained, queries, monkeypatch, caplog):
    clock = Clock()
    index = GuardedDeviceIndex(trained, "cpu", clock=clock)
    expected = trained.search(queries, 10)
    patched = PatchedIndex(index, np.array([], dtype=np.int64), np.empty((0, DIM), np.float32), np.array([], np.int64))
    lost = (
        torch.AcceleratorError("CUDA error: unspecified launch failure") if hasattr(torch, "AcceleratorError") else None
    )

    def fail(*_):
        raise lost or RuntimeError("CUDA error: unspecified launch failure")

    with monkeypatch.context() as broken, caplog.at_level(logging.WARNING):
        broken.setattr(device_index.DeviceIndex, "search", fail)
        assert same(index.search(queries, 10), expected)
        assert index.degraded == patched.degraded == (ON_CPU,)
        assert "candidates are found on the CPU, since cpu does not: CUDA error" in caplog.text
    assert same(index.search(queries, 10), expected)
    assert index.degraded == (ON_CPU,)  # not tried again yet
    clock.now = RETRY_S
    assert same(index.search(queries, 10), expected)
    assert index.degraded == ()


def test_a_device_without_room_is_not_filled(trained, queries, monkeypatch, caplog):
    monkeypatch.setattr(device_index, "free_bytes", lambda _: 1_000)
    with caplog.at_level(logging.WARNING):
        index = GuardedDeviceIndex(trained, "cpu", clock=Clock())
    assert "MiB are needed, 0 are free" in caplog.text
    assert index.degraded == (ON_CPU,)
    assert same(index.search(queries, 5), trained.search(queries, 5))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_a_device_that_is_not_there_leaves_the_cpu(trained, queries):
    index = GuardedDeviceIndex(trained, "cuda")
    assert index.degraded == (ON_CPU,)
    assert same(index.search(queries, 5), trained.search(queries, 5))


def test_auto_takes_a_device_for_a_large_catalogue_where_there_is_one(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(choice, "DEVICE_ITEMS", N)
    monkeypatch.setattr(choice, "DRIVER", tmp_path)
    assert isinstance(IndexChoice(kind="auto", device="cpu").of(trained), GuardedDeviceIndex)
    monkeypatch.setattr(choice, "DEVICE_ITEMS", N + 1)
    assert isinstance(IndexChoice(kind="auto").of(trained), FaissIndex)
    monkeypatch.setattr(choice, "DEVICE_ITEMS", N)
    monkeypatch.setattr(choice, "DRIVER", tmp_path / "none")
    assert isinstance(IndexChoice(kind="auto").of(trained), FaissIndex)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="index is 'gpu'; choose one of faiss, exact, device, auto"):
        IndexChoice(kind="gpu")
    with pytest.raises(ConfigError, match="device is 'gpu'; write cuda, cuda:1 or cpu"):
        IndexChoice(kind="device", device="gpu")
