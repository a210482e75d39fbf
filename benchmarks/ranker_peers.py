"""What the ranker is compared with: boosted trees on the same features, the rate of the item, a history that is pooled.

Shapes: B requests, C places of a slate, T objectives, L history, D dim.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightgbm
import numpy as np
import torch
from ranker_world import Examples, tabular
from torch import Tensor

from recsys.ranking.multi_objective import TargetAttention

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


@contextmanager
def pooled(wanted: bool) -> Iterator[None]:
    """Every ranker made and trained inside has the mean of its history in the place of attention, if that is wanted."""
    attending = TargetAttention.forward

    def pooling(
        self: TargetAttention,
        candidates: Tensor,
        events: Tensor,
        present: Tensor,
        gaps: Tensor,
        shared: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        mean = (events * present.unsqueeze(-1)).sum(1) / present.sum(1).clamp(min=1)[:, None]
        wide = mean[:, None].expand(-1, candidates.shape[1], -1)
        speaking = self.width - self.num_heads * candidates.shape[-1]
        return wide.repeat(1, 1, self.num_heads), torch.zeros(*candidates.shape[:2], speaking)

    try:
        if wanted:
            TargetAttention.forward = pooling  # type: ignore[method-assign]
        yield
    finally:
        TargetAttention.forward = attending  # type: ignore[method-assign]
