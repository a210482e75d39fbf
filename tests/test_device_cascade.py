"""The whole cascade over an index on a device gives the slates of the CPU's, live items included.

Without a device: tiles on the CPU, and the kernels of a large catalogue interpreted.
"""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from recsys.contracts import PAD
from recsys.index import GuardedDeviceIndex, IndexChoice
from recsys.index.gpu import device_index, triton_scan
from recsys.index.guarded_device import ON_CPU
from recsys.items.store import Edit, ItemStore
from recsys.pipeline import recommend
from recsys.stages import load_retrieve, load_stages, read_overlay

NUM = 250
ON_DEVICE = IndexChoice(kind="device", device="cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def queries(trained):
    rows = range(0, trained.dataset.num_events, trained.dataset.num_events // NUM)
    return [
        replace(query, request_id=f"r{number}")
        for number, query in enumerate(trained.replay.queries(list(rows)[:NUM], k=10))
    ]


@pytest.fixture(params=["tiles", "kernels"])
def on_device(request, monkeypatch):
    """Both ways in which a device searches; a small catalogue would never meet the kernels."""
    scans = []

    def interpreted(vectors, norms, alive):
        scans.append(triton_scan.TritonScan(vectors, norms, torch.from_numpy(alive)))
        return scans[-1]

    if request.param == "kernels":
        monkeypatch.setattr(device_index, "_make_scan", interpreted)
    yield ON_DEVICE
    assert bool(scans) == (request.param == "kernels")


def test_slates_over_a_device_are_those_over_the_cpu(trained, queries, on_device):
    expected = recommend(queries, load_stages(trained.bundle))
    assert recommend(queries, load_stages(trained.bundle, index=on_device)) == expected
    assert recommend(queries, load_stages(trained.bundle, index=IndexChoice(kind="exact"))) == expected


def test_items_that_come_and_go_are_found_over_a_device_as_over_the_cpu(trained, queries, on_device, tmp_path):
    schema = read_overlay(trained.bundle).schema
    store = ItemStore(tmp_path / "items")

    def slates():
        """Slates over either index, by stages that have read the store as it is now."""
        kinds = (IndexChoice(), on_device)
        return [
            recommend(queries, load_stages(trained.bundle, items_store=tmp_path / "items", index=one)) for one in kinds
        ]

    before = slates()
    assert before[0] == before[1]
    shown = {item.item for slate in before[0] for item in slate.items}
    gone = sorted(shown)[:5]
    twin = trained.dataset.items.row(by_predicate=pl.col("item") == gone[0], named=True)
    columns = {name: value for name, value in twin.items() if name in schema.kinds}
    store.put(schema, [Edit(item=one, withdrawn=True) for one in gone], who="feed")
    store.put(schema, [Edit(item="new", columns=columns)], who="feed")
    after = slates()
    assert after[0] == after[1] != before[0]
    assert not {item.item for slate in after[1] for item in slate.items} & set(gone)
    store.put(schema, [Edit(item=one, withdrawn=False) for one in gone], who="feed")
    again = slates()
    assert again[0] == again[1]


def test_a_lost_device_is_named_in_the_slates(trained, queries, monkeypatch):
    stages = load_stages(trained.bundle, index=ON_DEVICE)
    expected = recommend(queries[:8], stages)

    def fail(*_):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(device_index.DeviceIndex, "search", fail)
    recommend(queries[:1], stages)
    found = recommend(queries[:8], stages)
    assert all(ON_CPU in slate.degraded for slate in found)
    assert [slate.items for slate in found] == [slate.items for slate in expected]
    assert not any(ON_CPU in slate.degraded for slate in expected)


def test_k_beyond_the_living_ends_in_padding(trained, on_device):
    retrieve = load_retrieve(trained.bundle, on_device)
    index = retrieve.sources.index
    assert isinstance(index, GuardedDeviceIndex)
    query = np.zeros((1, index.dim), dtype=np.float32)
    scores, rows = index.search(query, len(index) + 5, np.array([0, 2]))
    assert rows[0, :3].tolist() == [0, 2, PAD]
    assert scores[0, 2] == -np.inf
