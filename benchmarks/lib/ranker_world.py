"""The planted world as the ranker's examples, and metrics of predictions against the known probabilities.

Shapes: B requests, C positions of a slate, T objectives, R = B * C impressions.
"""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from recsys.content.text import TextVectors
from recsys.data.sources.planted import OBJECTIVES, REMEMBERED, Planted
from recsys.data.splits import TEST, VALIDATION, GlobalTime
from recsys.evaluation.probabilities import reliability
from recsys.features.encode import ItemTable
from recsys.features.spec import Features, FeatureSpec
from recsys.training.prepare import prepare
from recsys.training.ranking import RankerTrainerConfig, TrainedRanker
from recsys.training.ranking_examples import RankingExamples
from recsys.training.slates import Slates, logged_examples
from recsys.training.trainer import Trainer, cpu_trainer

ACCELERATOR = "cuda" if torch.cuda.is_available() else "cpu"
WORKERS = len(os.sched_getaffinity(0))
"""systems that are trained side by side, one core each"""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """A world, ready to be learnt from."""

    spec: FeatureSpec
    items: ItemTable
    train: RankingExamples
    valid: RankingExamples
    test: RankingExamples
    probabilities: np.ndarray
    """[B, C, T] of the test, true where the items stood"""
    unbiased: np.ndarray
    """[B, C, T] of the test, true if each had stood first"""

    @staticmethod
    def of(world: Planted) -> "Examples":
        """Later rounds are the test, the rounds before it calibrate; positions and propensities are no features."""
        dataset, truth = world.logged()
        split = GlobalTime(rank=0.05, validation=0.4, test=0.1, cuts=1, later=0.0, horizon_days=None).splits(dataset)[0]
        features = Features(history_length=REMEMBERED, max_values=1, min_count=1, leave_out=["position", "propensity"])
        prepared = prepare(dataset, split, features, TextVectors(dim=1, min_documents=1, seed=0))
        spec, items = prepared.spec(split.known(VALIDATION))
        slates = {period: Slates.of(prepared, split.periods == period) for period in (VALIDATION, TEST)}
        early = Slates.of(prepared, split.known(VALIDATION))
        train, valid, test = (
            logged_examples(prepared, spec, items, one, position="position")
            for one in (early, slates[VALIDATION], slates[TEST])
        )
        rows = slates[TEST].rows
        return Examples(
            spec=spec,
            items=items,
            train=train,
            valid=valid,
            test=test,
            probabilities=truth.probabilities[rows],
            unbiased=truth.unbiased[rows],
        )

    def save(self, file: Path) -> Path:
        file.write_bytes(pickle.dumps(self, protocol=pickle.HIGHEST_PROTOCOL))
        return file

    @staticmethod
    def read(file: Path) -> "Examples":
        """Of this benchmark's own temporary files only."""
        return pickle.loads(file.read_bytes())


def trained(
    config: RankerTrainerConfig,
    spec: FeatureSpec,
    items: ItemTable,
    train: RankingExamples,
    valid: RankingExamples,
    seed: int,
    loop: Trainer | None = None,
) -> TrainedRanker:
    """In this process, where no other loop is given on one core, and on a GPU if there is one."""
    with TemporaryDirectory() as folder:
        return config.fit(
            spec,
            items,
            train,
            valid,
            trainer=loop or cpu_trainer(accelerator=ACCELERATOR, threads=1),
            folder=Path(folder),
            seed=seed,
            loggers=[],
        )


def log_loss(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Expected log loss [T] of predictions [B, C, T] under the truth, free of the chance of labels."""
    predicted = predicted.clip(1e-9, 1 - 1e-9)
    return -(true * np.log(predicted) + (1 - true) * np.log1p(-predicted)).mean(axis=(0, 1))


def truth_metrics(true: np.ndarray, predicted: np.ndarray) -> dict[str, dict[str, float]]:
    """objective -> share of the explainable loss, expected calibration error, predicted / true."""
    constant = np.broadcast_to(true.mean(axis=(0, 1)), true.shape)
    worst, best, own = (log_loss(true, one) for one in (constant, true, predicted))
    shares = (worst - own) / (worst - best)
    ratios = predicted.mean(axis=(0, 1)) / true.mean(axis=(0, 1))
    return {
        name: {
            "share": round(float(shares[index]), 4),
            "ece": round(reliability(true[..., index].ravel(), predicted[..., index].ravel()).error, 5),
            "predicted_over_true": round(float(ratios[index]), 4),
            "bayes_gain": round(float(1 - best[index] / worst[index]), 4),
        }
        for index, name in enumerate(OBJECTIVES)
    }


def agreement(true: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """objective -> mean over slates of the rank correlation (Spearman 1904) of scores and truth [B, C, T]."""
    ranks = [one.argsort(axis=1).argsort(axis=1).astype(float) for one in (true, scores)]
    one, other = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    values = (one * other).sum(axis=1) / (one**2).sum(axis=1)
    return {name: round(float(values[:, index].mean()), 4) for index, name in enumerate(OBJECTIVES)}


def tabular(examples: RankingExamples, items: ItemTable, slots: list[int]) -> np.ndarray:
    """Features of trees, [R, F]: the same ids, numbers and positions, and the shares of the history that match a candidate.

    slots: of the ids that are compared with the history, now and fading, as the ranker counts them.
    """
    candidate = items.at(examples.candidate_rows)
    width, request = examples.candidate_rows.shape[1], examples.request
    wide = [np.repeat(part[:, None], width, axis=1) for part in _of_request(request)]
    present = request["history_ids"][..., 0] > 0
    hours = np.cumsum(np.expm1(request["history_gaps"])[:, ::-1], axis=1)[:, ::-1] / 3600
    counted = []
    for slot in slots:
        same = candidate["ids"][:, :, None, slot] == request["history_ids"][:, None, :, slot]
        same = same & present[:, None]
        counted.append(same.sum(-1) / np.maximum(present.sum(-1), 1)[:, None])
        counted += [(same * np.exp2(-hours / half)[:, None]).sum(-1) for half in (16.0, 64.0, 256.0)]
    parts = [candidate["ids"], candidate["numbers"], *wide, np.stack(counted, axis=-1)]
    if examples.positions is not None:
        parts.append(examples.positions[..., None])
    joined = np.concatenate(parts, axis=-1)
    return joined.reshape(-1, joined.shape[-1]).astype(np.float32)


def _of_request(request: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [part for name, part in sorted(request.items()) if name.startswith(("profile_", "context_"))]
