"""Every user encoder and every loss of the towers on data sets of retrieval, and RecTools' SASRec beside them.

Shapes: B queries, N items.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from benchmarks.claims.retrieval.retrieval_training import Stopwatch, read, toys
from benchmarks.lib.result_file import ROOT
from benchmarks.lib.zoo_rows import Row, budgeted, choices
from recsys.data.splits import TEST, VALIDATION
from recsys.metrics import hits, ndcg, recall
from recsys.replay.evaluation_queries import EvaluationQueries, Scores
from recsys.training.prepare import Prepared
from recsys.training.retrieval import RetrievalExamples
from recsys.training.validation_queries import ValidationQueries

ENCODERS, LOSSES = "retrieval/user_encoder", "retrieval/loss"
PEER = "RecTools SASRec"
TOYS, MOVIELENS, SYNTHETIC = "toys", "movielens_100k", "synthetic"
RECIPES: dict[str, Callable[[], tuple[str, ...]]] = {
    TOYS: lambda: ("recipe=sequence", f"data.path={toys()}"),
    MOVIELENS: lambda: ("recipe=movielens_100k",),
    SYNTHETIC: lambda: ("recipe=synthetic", "data.users=120", "data.events=3000"),
}
"""data set -> its overrides"""
NEGATIVES = {"bpr": ("retrieval.negatives=100",)}
"""losses with a number of negatives of their own"""


@dataclass(frozen=True, kw_only=True)
class TowerJob:
    """One pair of towers to train on one data set."""

    data: str
    model: str
    """an override, or PEER"""
    seed: int
    budget_s: float
    part: str = "towers"

    @staticmethod
    def models(data: str) -> list[str]:
        """Overrides of all encoders with the loss of the recipes, and of all other losses with the encoder of the recipe."""
        return [*choices(ENCODERS), *choices(LOSSES, default="softmax"), *([PEER] if data == TOYS else [])]

    def run(self) -> Row:
        torch.set_num_threads(1)
        measure = trained_peer if self.model == PEER else trained_towers
        return {**vars(self), **measure(self)}


def trained_towers(job: TowerJob) -> Row:
    """Figures of the epoch that is best on the validation."""
    further = NEGATIVES.get(job.model.partition("=")[2], ())
    config = composed(*RECIPES[job.data](), job.model, *further)
    prepared, valid, test = queries(config)
    known = prepared.split.known(VALIDATION)
    spec, items = prepared.spec(known)
    with TemporaryDirectory() as folder:
        towers, vectors, epochs = instantiate(config.retrieval, _convert_="all").fit(
            spec,
            items,
            RetrievalExamples.of(prepared, spec, known),
            ValidationQueries.of(valid, spec, items),
            trainer=budgeted(job.budget_s),
            folder=Path(folder),
            epochs=None,
            seed=job.seed,
            loggers=[],
        )
    found = {"epochs": epochs, "weights": sum(one.numel() for one in towers.parameters())}
    for name, questions in (("validation", valid), ("test", test)):
        users = users_of(towers, ValidationQueries.of(questions, spec, items))
        found |= figures_of(name, questions, partial(cosines, users, vectors))
    return found


def trained_peer(job: TowerJob) -> Row:
    """The same of RecTools' model, whose test is read at every epoch that is the best so far."""
    from benchmarks.lib import peer_rectools as peer

    _, valid, test = queries(composed(*RECIPES[job.data]()))
    best: Row = {}

    def ask(task: Any) -> float:
        figures = figures_of("validation", valid, peer.scores_of(task, valid))
        if not best or figures["validation_ndcg@10"] > best["validation_ndcg@10"]:
            best.update(figures | figures_of("test", test, peer.scores_of(task, test)), epochs=len(watch.epochs) + 1)
            best["weights"] = sum(one.numel() for one in task.torch_model.parameters())
        return float(figures["validation_ndcg@10"])

    watch = Stopwatch(ask, peer.num_examples, lambda epoch: epoch["cpu_seconds"] >= job.budget_s)
    pl.seed_everything(job.seed, verbose=False)
    peer.fit(valid, watch)
    return best


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=["retrieval.members=1", *overrides])


def queries(config: DictConfig) -> tuple[Prepared, EvaluationQueries, EvaluationQueries]:
    """Return the training data and the queries of validation and test."""
    prepared, valid = read(config)
    evaluation = instantiate(config.evaluation, _convert_="all")
    return prepared, valid, evaluation.queries(prepared.split, prepared.replay, TEST)


@torch.no_grad()
def users_of(towers: Any, asked: ValidationQueries) -> np.ndarray:
    batches = ({name: torch.from_numpy(array) for name, array in batch.items()} for batch in asked.batches())
    return np.concatenate([towers.users(batch).numpy() for batch in batches])


def cosines(users: np.ndarray, items: np.ndarray, batch: slice) -> np.ndarray:
    """[B, N], the largest over the interests of a user."""
    return (
        (users[batch].reshape(-1, items.shape[1]) @ items.T)
        .reshape(-1, users.shape[1] // items.shape[1], len(items))
        .max(1)
    )


def figures_of(period: str, questions: EvaluationQueries, scores: Scores) -> Row:
    """Means over the queries of a period."""
    found, num = hits(questions.rank(scores), questions.targets), questions.targets.num_targets
    means = {
        "ndcg@10": ndcg(found, num, 10),
        "recall@10": recall(found, num, 10),
        "recall@100": recall(found, num, 100),
    }
    return {f"{period}_{name}": round(float(one.mean()), 5) for name, one in means.items()}
