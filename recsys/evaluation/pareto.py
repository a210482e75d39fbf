"""Pareto front of two objectives: NDCG of each under many weights, computed from one pass of the ranker.

Shapes: B requests, C candidates, T objectives, P points, G goals.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys.contracts import PAD
from recsys.errors import DataError

K = 10
OUTCOMES = "outcomes.safetensors"
"""file in a bundle: probabilities and labels of the ranker's validation requests"""


@dataclass(frozen=True, kw_only=True)
class ValidationOutcomes:
    """Candidates of validation requests, later than those of training, with probabilities and labels."""

    rows: np.ndarray
    """[B, C] catalogue rows, PAD where there is none"""
    probabilities: np.ndarray
    """[B, C, T] calibrated"""
    labels: np.ndarray
    """[B, C, T], NaN where unknown"""

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {"rows": self.rows, "probabilities": self.probabilities, "labels": self.labels}

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> "ValidationOutcomes":
        return ValidationOutcomes(**{name: arrays[name] for name in ("rows", "probabilities", "labels")})

    def ndcg(self, utilities: np.ndarray, objective: int) -> float:
        """Return NDCG@10 of the order by utilities [B, C], the mean over requests with a positive of the objective.

        DataError when there is none.
        """
        positive = (self.labels[..., objective] > 0) & (self.rows != PAD)
        reached = positive.any(axis=1)
        if not reached.any():
            raise DataError("the objective is reached by no candidate of the validation; give more events")
        shown = np.where((self.rows == PAD) | np.isnan(utilities), -np.inf, utilities)[reached]
        order = np.argsort(-shown, axis=1, kind="stable")[:, :K]
        gains = 1 / np.log2(2 + np.arange(order.shape[1]))
        found = np.take_along_axis(positive[reached], order, axis=1) @ gains
        most = np.minimum(positive[reached].sum(axis=1), order.shape[1])
        return float((found / np.cumsum(gains)[most - 1]).mean())


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Return [P] bool, the points [P, G] that no other dominates; larger is better."""
    better = (points[None] >= points[:, None]).all(-1) & (points[None] > points[:, None]).any(-1)
    return ~better.any(axis=1)
