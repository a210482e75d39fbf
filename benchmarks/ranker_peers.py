"""What the ranker is compared with: boosted trees on the same features, the rate of the item, rankers without their parts.

Shapes: B requests, C places of a slate, T objectives, L history, D dim.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightgbm
import numpy as np
import torch
from ranker_world import Examples, tabular
from torch import Tensor, nn

from recsys.features.spec import MISSING
from recsys.nn.blocks import Batch
from recsys.ranking import multi_objective
from recsys.ranking.multi_objective import RARE, MultiObjectiveRanker, TargetAttention
from recsys.training import ranking

ROUNDS = 300
PRIOR = 100.0
"""impressions of the mean that are added to those of an item"""


def boosted(examples: Examples, *, ranked: bool = False) -> np.ndarray:
    """[B, C, T] probabilities of LightGBM, one model an objective; `ranked`: scores of lambdarank within slates."""
    ids = examples.items.encoded["ids"].shape[1]
    parts = [tabular(one, examples.items, list(range(ids))) for one in (examples.train, examples.valid, examples.test)]
    groups = [np.full(len(one), one.candidate_rows.shape[1]) for one in (examples.train, examples.valid)]
    columns = []
    for objective in range(examples.probabilities.shape[-1]):
        train, valid = (one.labels[..., objective].ravel() for one in (examples.train, examples.valid))
        data = lightgbm.Dataset(parts[0], train, categorical_feature=list(range(ids)), group=groups[0])
        model = trees(data, lightgbm.Dataset(parts[1], valid, reference=data, group=groups[1]), ranked=ranked)
        columns.append(model.predict(parts[2], num_threads=1).reshape(examples.test.candidate_rows.shape))
    return np.stack(columns, axis=-1)


def trees(train: lightgbm.Dataset, valid: lightgbm.Dataset, *, ranked: bool, leaves: int = 63) -> lightgbm.Booster:
    """As many rounds as are best on `valid`."""
    knobs = {
        "objective": "lambdarank" if ranked else "binary",
        "metric": "ndcg" if ranked else "binary_logloss",
        "learning_rate": 0.1,
        "num_leaves": leaves,
        "num_threads": 1,
        "verbosity": -1,
        "seed": 0,
    }
    stop = lightgbm.early_stopping(20, verbose=False)
    return lightgbm.train(knobs, train, ROUNDS, valid_sets=[valid], callbacks=[stop])


def rates(examples: Examples) -> np.ndarray:
    """[B, C, T] how often each item reached an objective, towards the mean where it was rarely shown."""
    rows, labels = (
        examples.train.candidate_rows.ravel(),
        examples.train.labels.reshape(-1, len(examples.spec.objectives)),
    )
    shown = np.bincount(rows, minlength=len(examples.items))[:, None]
    reached = np.stack([np.bincount(rows, one, minlength=len(examples.items)) for one in labels.T], axis=1)
    return ((reached + PRIOR * labels.mean(axis=0)) / (shown + PRIOR))[examples.test.candidate_rows]


def _pooling(
    self: TargetAttention, candidates: Tensor, events: Tensor, present: Tensor, gaps: Tensor, shared: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The mean of the history in the place of attention."""
    mean = (events * present.unsqueeze(-1)).sum(1) / present.sum(1).clamp(min=1)[:, None]
    wide = mean[:, None].expand(-1, candidates.shape[1], -1)
    return wide.repeat(1, 1, self.num_heads), _silence(self, candidates)


def _crossing(self: MultiObjectiveRanker, batch: Batch, request: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """No gates: every expert, which is linear, counts the same."""
    joined, scores = self._join(batch, request)
    crossed, num = self.cross(joined), self.num_shared + 1
    gates = crossed.new_full((*crossed.shape[:2], len(self.parents), num), 1 / num)
    return [expert(crossed) for expert in self.experts], gates, scores


def _silence(attention: TargetAttention, candidates: Tensor) -> Tensor:
    """For what the history says of a candidate, nothing."""
    return candidates.new_zeros(*candidates.shape[:2], attention.width - attention.num_heads * candidates.shape[-1])


class TwoTowers(MultiObjectiveRanker):
    """An inner product of the request with its mean event and the candidate, one an objective: two towers' score alone."""

    def __init__(self, **knobs: Any) -> None:
        super().__init__(**knobs)
        self.asking = nn.Linear(self.request_width + self.dim, len(self.parents) * (self.dim + 1))
        self.offered = nn.Linear(self.dim, len(self.parents) * (self.dim + 1))

    def _logits(self, said: Sequence[Tensor], gates: Tensor, scores: Tensor, batch: Batch) -> Tensor:
        present = (batch["history_ids"][..., :1] != MISSING).float()
        mean = (self.item_encoder(batch, "history") * present).sum(1) / present.sum(1).clamp(min=1)
        asking = self.asking(torch.cat([self.request(batch), mean], dim=-1)).unflatten(-1, (-1, self.dim + 1))
        offered = self.offered(self.item_encoder(batch, "candidate")).unflatten(-1, (-1, self.dim + 1))
        met = (asking[:, None, :, 1:] * offered[..., 1:]).sum(-1) / self.dim**0.5
        return self._placed(met + asking[:, None, :, 0] + offered[..., 0] + RARE, batch)


POOLED, CROSSED, TOWERS = "history pooled, no attention", "DCN-V2 alone", "two towers' score alone"
Altered = Mapping[tuple[Any, str], Callable[..., Any]]
ALTERED: dict[str, Altered] = {
    TOWERS: {(ranking, "MultiObjectiveRanker"): TwoTowers},
    POOLED: {(TargetAttention, "forward"): _pooling},
    CROSSED: {
        (TargetAttention, "forward"): _pooling,
        (MultiObjectiveRanker, "_said"): _crossing,
        (multi_objective, "_expert"): lambda width, dim, dropout: nn.Sequential(nn.Linear(width, dim)),
    },
}
"""system -> what takes the place of which part of the ranker"""


@contextmanager
def as_peer(system: str) -> Iterator[None]:
    """Every ranker that is made, trained and asked inside is this system, see ALTERED; any other name changes nothing."""
    altered = ALTERED.get(system, {})
    own = {(where, name): getattr(where, name) for where, name in altered}
    try:
        for (where, name), other in altered.items():
            setattr(where, name, other)
        yield
    finally:
        for (where, name), part in own.items():
            setattr(where, name, part)
