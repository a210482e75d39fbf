"""Boosted trees as a module: sums of leaves, compiled here and one node of an exported graph.

Shapes: R rows, F features, N nodes of all trees, M trees, T targets.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys.jit import compiled

LEAF = -1
"""left child of a leaf"""
ZERO = np.float32(1e-35)
"""absolute value up to which LightGBM reads a feature as 0"""
NODE_PARTS = {
    "feature": torch.int64,
    "threshold": torch.float32,
    "missing_left": torch.bool,
    "left": torch.int64,
    "right": torch.int64,
    "value": torch.float32,
}
"""buffers [N]; a row goes left where its feature is at most the threshold, children are numbers of nodes"""
TREE_PARTS = {"root": torch.int64, "target": torch.int64}
"""buffers [M]"""
Node = tuple[int, float, bool, int, int, float]


class TreeEnsemble(nn.Module):
    """Sum of the leaves that a row reaches, for each target, beside a constant; nothing of it is learnt by gradients."""

    base: Tensor
    feature: Tensor
    threshold: Tensor
    missing_left: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    root: Tensor
    target: Tensor

    def __init__(self, num_targets: int) -> None:
        super().__init__()
        self.register_buffer("base", torch.zeros(num_targets))
        for name, dtype in (NODE_PARTS | TREE_PARTS).items():
            self.register_buffer(name, torch.zeros(0, dtype=dtype))
        self.attributes: dict[str, Any] = {}
        """of the node in a graph, which cannot read buffers"""

    def set_trees(self, trees: Sequence[Sequence[Mapping[str, Any]]], base: Sequence[float]) -> None:
        """Take the trees of each target, in the form of `tree_info` of a dumped LightGBM model."""
        nodes: list[Node] = []
        roots = [_append(tree["tree_structure"], nodes) for tree in chain.from_iterable(trees)]
        targets = [number for number, own in enumerate(trees) for _ in own]
        columns = zip(*nodes, strict=True) if nodes else ([] for _ in NODE_PARTS)
        self.base = torch.tensor(base, dtype=torch.float32)
        for (name, dtype), column in zip(NODE_PARTS.items(), columns, strict=True):
            setattr(self, name, torch.tensor(column, dtype=dtype))
        self.root, self.target = torch.tensor(roots, dtype=torch.int64), torch.tensor(targets, dtype=torch.int64)
        self.attributes = self._attributes()

    def forward(self, rows: Tensor) -> Tensor:
        """[R, F] -> [R, T]"""
        if not self.attributes:
            return self.base.expand(rows.shape[0], -1)
        if torch.compiler.is_exporting():
            return torch.onnx.ops.symbolic(
                "ai.onnx.ml::TreeEnsembleRegressor",
                (rows,),
                self.attributes,
                dtype=torch.float32,
                shape=(rows.shape[0], self.base.shape[0]),
                version=3,
            )
        parts = [getattr(self, name).numpy() for name in (*NODE_PARTS, *TREE_PARTS)]
        return torch.from_numpy(_sum_leaves(rows.numpy(), self.base.numpy(), *parts))

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        """Load trees of any number."""
        for name in self.state_dict():
            if (loaded := state_dict.get(f"{prefix}{name}")) is not None:
                setattr(self, name, torch.empty_like(loaded))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.attributes = self._attributes()

    def _attributes(self) -> dict[str, Any]:
        """Return the attributes of a TreeEnsembleRegressor (ai.onnx.ml 3); empty without trees."""
        if not len(self.root):
            return {}
        left, right, first = (one.numpy() for one in (self.left, self.right, self.root))
        tree = np.searchsorted(first, np.arange(len(left)), side="right") - 1
        number, leaf = np.arange(len(left)) - first[tree], left == LEAF
        children = {"true": left, "false": right}
        return {
            "nodes_treeids": tree.tolist(),
            "nodes_nodeids": number.tolist(),
            "nodes_featureids": self.feature.tolist(),
            "nodes_values": self.threshold.tolist(),
            "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
            "nodes_missing_value_tracks_true": self.missing_left.int().tolist(),
            **{f"nodes_{way}nodeids": np.where(leaf, 0, own - first[tree]).tolist() for way, own in children.items()},
            "target_treeids": tree[leaf].tolist(),
            "target_nodeids": number[leaf].tolist(),
            "target_ids": self.target.numpy()[tree[leaf]].tolist(),
            "target_weights": self.value.numpy()[leaf].tolist(),
            "n_targets": len(self.base),
            "base_values": self.base.tolist(),
        }


def _append(node: Mapping[str, Any], nodes: list[Node]) -> int:
    """Append a node and those below it, itself first; return its number."""
    number = len(nodes)
    nodes.append((0, 0.0, False, LEAF, LEAF, float(node.get("leaf_value", 0.0))))
    if "split_feature" in node:
        left, right = _append(node["left_child"], nodes), _append(node["right_child"], nodes)
        # a model that saw no missing value reads one as 0
        missing_left = node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0.0
        nodes[number] = (node["split_feature"], float32_threshold(node["threshold"]), missing_left, left, right, 0.0)
    return number


def float32_threshold(threshold: float) -> float:
    """Return the threshold that sends each float32 to the side on which LightGBM has it, which compares doubles."""
    if abs(threshold) <= ZERO:
        return float(ZERO if threshold >= 0 else np.nextafter(-ZERO, np.float32(-np.inf)))
    near = np.float32(min(max(threshold, -3e38), 3e38))
    return float(near if near <= threshold else np.nextafter(near, np.float32(-np.inf)))


@compiled()
def _sum_leaves(rows, base, feature, threshold, missing_left, left, right, value, root, target):
    """[R, F] -> [R, T]"""
    found = np.empty((len(rows), len(base)), np.float32)
    for r in range(len(rows)):
        sums = base.astype(np.float64)
        for tree in range(len(root)):
            node = root[tree]
            while left[node] != LEAF:
                own = rows[r, feature[node]]
                goes_left = missing_left[node] if np.isnan(own) else own <= threshold[node]
                node = left[node] if goes_left else right[node]
            sums[target[tree]] += value[node]
        found[r] = sums
    return found
