"""Two objectives against each other: how well an order by utility serves each, for many weights, from one pass.

Shapes: B requests, C candidates, T objectives, P weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys.contracts import PAD
from recsys.errors import DataError

K = 10
OUTCOMES = "outcomes.safetensors"
"""in a bundle: the ranker's validation, what it said of candidates and what became of them"""


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """Candidates of later requests than the ranker learnt from."""

    rows: np.ndarray
    """[B, C] catalogue rows, PAD where there is none"""
    probabilities: np.ndarray
    """[B, C, T] calibrated"""
    labels: np.ndarray
    """[B, C, T], NaN where unknown"""

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {"rows": self.rows, "probabilities": self.probabilities, "labels": self.labels}

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> "Outcomes":
        return Outcomes(**{name: arrays[name] for name in ("rows", "probabilities", "labels")})

    def ndcg(self, utilities: np.ndarray, objective: int) -> float:
        """NDCG@10 of the order by utilities [B, C], the mean over requests in which the objective is reached at all.

        DataError when it never is.
        """
        positive = (self.labels[..., objective] > 0) & (self.rows != PAD)
        asked = positive.any(axis=1)
        if not asked.any():
            raise DataError("the objective is reached by no candidate of the validation; give more events")
        shown = np.where((self.rows == PAD) | np.isnan(utilities), -np.inf, utilities)[asked]
        order = np.argsort(-shown, axis=1, kind="stable")[:, :K]
        gains = 1 / np.log2(2 + np.arange(order.shape[1]))
        found = np.take_along_axis(positive[asked], order, axis=1) @ gains
        most = np.minimum(positive[asked].sum(axis=1), order.shape[1])
        return float((found / np.cumsum(gains)[most - 1]).mean())


def on_front(points: np.ndarray) -> np.ndarray:
    """[P, 2], larger is better -> [P] bool: no other point is as good in both and better in one (Pareto)."""
    better = (points[None] >= points[:, None]).all(-1) & (points[None] > points[:, None]).any(-1)
    return ~better.any(axis=1)
