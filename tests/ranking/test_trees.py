"""Trees as a module and as a node of a graph against LightGBM and a recursion over its dump.

Shapes: R rows, F features, T targets.
"""

import math
import warnings
from pathlib import Path

import lightgbm
import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from recsys.ranking.trees import ZERO, TreeEnsemble, float32_threshold

F, T = 4, 2
OPTIONS = {
    "objective": "cross_entropy",
    "boost_from_average": False,
    "min_data_in_leaf": 2,
    "min_data_in_bin": 1,
    "num_leaves": 9,
    "num_threads": 1,
    "verbosity": -1,
}


def rows_of(seed, num, missing):
    """Few values, so that rows meet thresholds; some NaN, infinity and values that no training row has."""
    random = np.random.default_rng(seed)
    rows = np.round(random.normal(size=(num, F)), 1).astype(np.float32)
    rows[random.random(rows.shape) < missing] = np.nan
    return rows


def boosters(missing):
    rows = rows_of(0, 400, missing)
    random = np.random.default_rng(1)
    known = np.nan_to_num(rows, nan=0.7)
    for target in range(T):
        chance = 1 / (1 + np.exp(-known[:, target] * known[:, 2] - known[:, 3]))
        data = lightgbm.Dataset(rows, (random.random(400) < chance).astype(float), params=OPTIONS)
        yield lightgbm.train(OPTIONS, data, 12)


@pytest.fixture(scope="module", params=[0.0, 0.2], ids=["trained without NaN", "trained with NaN"])
def trained(request):
    return list(boosters(request.param))


def ensemble_of(trained, base=(0.25, -1.5)):
    ensemble = TreeEnsemble(T)
    ensemble.set_trees([one.dump_model()["tree_info"] for one in trained], base)
    return ensemble


def thresholds(trained):
    found = []

    def visit(node):
        if "split_feature" in node:
            found.append(node["threshold"])
            visit(node["left_child"])
            visit(node["right_child"])

    for one in trained:
        for tree in one.dump_model()["tree_info"]:
            visit(tree["tree_structure"])
    return found


def as_read(value):
    return 0.0 if abs(value) <= ZERO else float(value)


def leaf_twin(node, row):
    """The value of the leaf that one row reaches, by LightGBM's rules, in doubles."""
    if "split_feature" not in node:
        return node["leaf_value"]
    value = as_read(row[node["split_feature"]])
    if math.isnan(value) and node["missing_type"] == "NaN":
        left = node["default_left"]
    else:
        left = (0.0 if math.isnan(value) else value) <= node["threshold"]
    return leaf_twin(node["left_child" if left else "right_child"], row)


def hard_rows(trained, seed, num):
    """Random rows, rows at thresholds and at the float32 on either side of them, with NaN and infinity."""
    rows = rows_of(seed, num, 0.2)
    at = np.array(thresholds(trained), dtype=np.float32)
    random = np.random.default_rng(seed)
    drawn = at[random.integers(len(at), size=rows.shape)]
    sides = [drawn, np.nextafter(drawn, np.float32(np.inf)), np.nextafter(drawn, np.float32(-np.inf))]
    infinite = np.where(random.random(rows.shape) < 0.1, np.float32(np.inf) * random.choice([-1, 1]), rows)
    return np.concatenate([rows, *sides, infinite.astype(np.float32)])


def exported(ensemble, path: Path):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(
            ensemble.eval(),
            (torch.zeros(3, F),),
            input_names=["rows"],
            output_names=["sums"],
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            opset_version=20,
            dynamo=True,
            verbose=False,
        )
    program.save(path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_sums_equal_lightgbm_and_a_recursion_over_its_dump(trained, seed):
    rows = hard_rows(trained, seed, 10)
    found = ensemble_of(trained)(torch.from_numpy(rows)).numpy()
    for target, booster in enumerate(trained):
        base = (0.25, -1.5)[target]
        np.testing.assert_allclose(found[:, target], base + booster.predict(rows, raw_score=True), rtol=0, atol=1e-6)
        trees = [one["tree_structure"] for one in booster.dump_model()["tree_info"]]
        twin = [base + sum(leaf_twin(tree, row) for tree in trees) for row in rows]
        np.testing.assert_allclose(found[:, target], twin, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_node_of_the_graph_takes_the_same_leaves(trained, tmp_path):
    """Leaves are replaced by powers of two, whose sums are exact: one wrong leaf is another number."""
    ensemble = ensemble_of(trained, base=(0.0, 0.0))
    random = np.random.default_rng(0)
    ensemble.value = torch.from_numpy(np.exp2(random.integers(0, 12, len(ensemble.value))).astype(np.float32))
    ensemble.load_state_dict(ensemble.state_dict())  # the attributes of the node follow
    graph = exported(ensemble, tmp_path / "trees.onnx")
    for seed in range(20):
        rows = hard_rows(trained, seed, 50)
        (found,) = graph.run(None, {"rows": rows})
        assert (found == ensemble(torch.from_numpy(rows)).numpy()).all()


@settings(max_examples=200, deadline=None)
@given(
    threshold=st.floats(allow_nan=False, allow_infinity=False) | st.floats(-2e-35, 2e-35),
    value=st.floats(width=32, allow_nan=False),
)
def test_no_float32_is_on_another_side_of_a_rounded_threshold(threshold, value):
    down = np.float32(float32_threshold(threshold))
    assert float(down) == float32_threshold(threshold)
    for own in (np.float32(value), down, np.nextafter(down, np.float32(np.inf)), np.float32(-threshold % 1e-34)):
        if abs(own) < 3e38:
            assert (as_read(own) <= threshold) == (own <= down)


def test_without_trees_a_row_has_the_base(tmp_path):
    ensemble = TreeEnsemble(T)
    ensemble.set_trees([[], []], [0.5, -2.0])
    assert ensemble(torch.zeros(3, F)).tolist() == [[0.5, -2.0]] * 3


def test_trees_of_one_leaf_are_a_constant(tmp_path):
    ensemble = TreeEnsemble(T)
    ensemble.set_trees([[{"tree_structure": {"leaf_value": 0.25}}] * 2, []], [0.5, -2.0])
    assert ensemble(torch.zeros(3, F)).tolist() == [[1.0, -2.0]] * 3


def test_saved_trees_are_loaded_into_an_ensemble_of_any_size(trained):
    ensemble = ensemble_of(trained)
    again = TreeEnsemble(T)
    again.load_state_dict(load(save(ensemble.state_dict())))
    rows = torch.from_numpy(rows_of(3, 50, 0.2))
    assert torch.equal(again(rows), ensemble(rows))
    assert again.attributes == ensemble.attributes
