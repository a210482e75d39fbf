"""Inputs of the models, encoded: requests, candidates and items."""

from dataclasses import dataclass, field, replace

import numpy as np

from recsys.features.spec import MISSING
from recsys.tensors import VARIABLE, Arrays, TensorBatch, table, tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestBatch(TensorBatch):
    """Input of user towers and rankers.

    Shapes: B requests, L history length of the models, T objectives.
    """

    history: Arrays = field(metadata=table("history", "items", "history"))
    """[B, L, ...] features of the items of the newest events, padding in front"""
    labels: np.ndarray = field(metadata=tensor("history_labels", "float32", "history", "objectives"))
    """[B, L, T] of these events"""
    gaps: np.ndarray = field(metadata=tensor("history_gaps", "float32", "history"))
    """[B, L] log(1 + seconds) to the next event, of the newest to now"""
    profile: Arrays = field(metadata=table("profile", "profile"))
    context: Arrays = field(metadata=table("context", "context"))

    def without_padding(self) -> "RequestBatch":
        """Return the batch without the leading history columns that are padding in all rows."""
        spare = int((self.history["ids"][..., 0] == MISSING).all(axis=0).sum())
        return replace(
            self,
            history={part: array[:, spare:] for part, array in self.history.items()},
            labels=self.labels[:, spare:],
            gaps=self.gaps[:, spare:],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateFeatures(TensorBatch):
    """Input of a ranker beside the requests: C candidates each."""

    items: Arrays = field(metadata=table("candidate", "items", VARIABLE))
    scores: np.ndarray = field(metadata=tensor("candidate_scores", "float32", VARIABLE, "scores"))
    """columns of recsys.candidates.score_layout.ScoreLayout"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemBatch(TensorBatch):
    """Input of the item tower."""

    items: Arrays = field(metadata=table("item", "items"))
