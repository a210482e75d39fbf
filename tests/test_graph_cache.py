"""The cache of exported graphs: a second export gives the same bytes, and each graph equals its module."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from recsys.graphs import cache as graph_cache
from recsys.graphs import export as graphs
from recsys.stages import OnnxModel
from recsys.tensors import TensorSpec

pytestmark = pytest.mark.slow

INPUTS = (
    TensorSpec(name="number", dtype="float32", shape=(3,)),
    TensorSpec(name="candidate_number", dtype="float32", shape=(-1, 3)),
)


class Scaled(nn.Module):
    """Products of request and candidates, scaled by an attribute that is no weight."""

    def __init__(self, scale, hidden=4):
        super().__init__()
        self.scale = scale
        self.unseen = [complex(scale or 0)]
        self.first, self.second = nn.Linear(3, hidden), nn.Linear(3, hidden)

    def score(self, batch):
        scale = self.unseen[0].real if self.scale is None else self.scale
        return scale * torch.einsum("bd,bcd->bc", self.first(batch["number"]), self.second(batch["candidate_number"]))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty cache; how often a module is traced is counted."""
    monkeypatch.setattr(graph_cache, "_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def traced(monkeypatch):
    modules, trace = [], graphs._trace
    monkeypatch.setattr(graphs, "_trace", lambda named, *rest: modules.append(named) or trace(named, *rest))
    return modules


def scaled(seed=0, scale=2.0, hidden=4):
    torch.manual_seed(seed)
    return Scaled(scale, hidden)


def export(module, path):
    graphs._export(module, module.score, INPUTS, ("scores",), path)
    return path.read_bytes()


@torch.no_grad()
def equal(module, path):
    arrays = graphs.random_inputs(INPUTS, 5, 7)
    wanted = module.score({name: torch.from_numpy(one) for name, one in arrays.items()})
    np.testing.assert_allclose(OnnxModel(path, INPUTS)(arrays), wanted.numpy(), rtol=1e-5, atol=1e-5)


def test_the_second_export_is_not_traced_and_has_the_same_bytes(tmp_path, traced):
    first, second = (export(scaled(), tmp_path / f"{number}.onnx") for number in range(2))
    assert first == second
    assert len(traced) == 1


def test_other_weights_fill_the_same_structure(tmp_path, traced):
    before = export(scaled(), tmp_path / "a.onnx")
    other = scaled(seed=1)
    assert export(other, tmp_path / "b.onnx") != before
    equal(other, tmp_path / "b.onnx")
    assert len(traced) == 1


class Neutral(nn.Module):
    """Weights that an optimiser would fold: the products of two of them, equal ones, a factor of 1, a summand of 0."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        start = torch.ones if seed == 0 else torch.rand
        self.first, self.second = nn.Parameter(start(3, 3)), nn.Parameter(start(3, 3))
        self.factor, self.summand = nn.Parameter(start(())), nn.Parameter(start(3) - start(3))

    def score(self, batch):
        mixed = batch["number"] @ (self.first @ self.second) * self.factor + self.summand
        return torch.einsum("bd,bcd->bc", mixed, batch["candidate_number"] @ self.second.T)


def test_a_filled_graph_has_the_bytes_of_one_that_was_traced_with_the_same_weights(tmp_path, folder, traced):
    export(Neutral(0), tmp_path / "a.onnx")
    filled = export(Neutral(1), tmp_path / "b.onnx")
    assert len(traced) == 1
    shutil.rmtree(folder)
    assert export(Neutral(1), tmp_path / "c.onnx") == filled
    assert len(traced) == 2
    equal(Neutral(1), tmp_path / "b.onnx")


def test_only_a_traced_graph_is_optimised(tmp_path, monkeypatch):
    export(scaled(), tmp_path / "a.onnx")
    monkeypatch.setattr(graphs, "_optimized", None)
    export(scaled(seed=1), tmp_path / "b.onnx")


class Looked(nn.Module):
    """A vector of a table for each candidate."""

    def __init__(self, rows):
        super().__init__()
        self.table = nn.Embedding(rows, 3)

    def score(self, batch):
        return (self.table(batch["candidate_ids"]) * batch["number"].unsqueeze(1)).sum(-1)


def test_a_table_that_grew_fills_the_same_structure(tmp_path, traced):
    inputs = (INPUTS[0], TensorSpec(name="candidate_ids", dtype="int64", shape=(-1,)))
    for rows in (5, 50):
        module = Looked(rows)
        graphs._export(module, module.score, inputs, ("scores",), tmp_path / "a.onnx")
    arrays = {"number": np.ones((1, 3), np.float32), "candidate_ids": np.array([[49, 0]])}
    wanted = module.table.weight[[49, 0]].sum(1).detach().numpy()
    np.testing.assert_allclose(OnnxModel(tmp_path / "a.onnx", inputs)(arrays)[0], wanted, rtol=1e-5)
    assert len(traced) == 1


@pytest.mark.parametrize("changed", [{"scale": 3.0}, {"hidden": 5}])
def test_another_attribute_or_size_is_traced(tmp_path, traced, changed):
    export(scaled(), tmp_path / "a.onnx")
    module = scaled(**changed)
    export(module, tmp_path / "b.onnx")
    equal(module, tmp_path / "b.onnx")
    assert len(traced) == 2


def test_what_the_key_does_not_see_is_found_by_the_comparison(tmp_path, traced):
    first, second = scaled(scale=None).eval(), scaled(scale=None).eval()
    first.unseen, second.unseen = [complex(2.0)], [complex(5.0)]
    export(first, tmp_path / "a.onnx")
    assert graph_cache.graph_key(first, INPUTS, ("s",)) == graph_cache.graph_key(second, INPUTS, ("s",))
    export(second, tmp_path / "b.onnx")
    equal(second, tmp_path / "b.onnx")
    assert len(traced) == 2


@pytest.mark.parametrize("damage", [b"", b"\xff\xff\xff no graph", None])
def test_a_damaged_or_unwritable_cache_costs_time_alone(tmp_path, folder, traced, damage):
    if damage is None:
        folder.write_text("a file in the place of the folder")
    else:
        export(scaled(), tmp_path / "a.onnx")
        for file in folder.glob("*.onnx"):
            file.write_bytes(damage)
    module = scaled(seed=2)
    export(module, tmp_path / "b.onnx")
    equal(module, tmp_path / "b.onnx")
    assert len(traced) == (1 if damage is None else 2)
    assert not [one for one in (folder.iterdir() if folder.is_dir() else ()) if one.name.startswith(".")]


def test_no_weight_is_in_the_cache(tmp_path, folder):
    module = scaled()
    export(module, tmp_path / "a.onnx")
    (file,) = folder.glob("*.onnx")
    assert module.first.weight.detach().numpy().tobytes() not in file.read_bytes()
