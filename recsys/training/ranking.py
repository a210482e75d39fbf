"""Training of the ranker on candidates that retrieval really returned, and its calibration on later data.

Shapes: B requests, C candidates, T objectives, S sources, R cells (request, candidate).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

from recsys.contracts import PAD
from recsys.errors import ConfigError, check_ranges
from recsys.evaluation.pareto import ValidationOutcomes
from recsys.features.encode import ItemTable
from recsys.features.spec import FeatureSpec
from recsys.metrics import reordered_ndcg
from recsys.nn.losses import listwise_softmax, masked_bce
from recsys.ranking.calibration import Calibrator
from recsys.ranking.funnel import Parents, parents_of
from recsys.ranking.multi_objective import MultiObjectiveRanker
from recsys.ranking.uncertainty import LastLayerPosterior, information
from recsys.training.balance import Balance, balance_of, check_balance
from recsys.training.device_tensors import DeviceTensors
from recsys.training.ranking_examples import RankingExamples, RetrievalVersion, learnt_places, tensors
from recsys.training.shown import Shown
from recsys.training.trainer import OptimConfig, Trainer, index_batches

WATCHED = {"ndcg@10": "ranking/ndcg@10", "likelihood": "ranking/likelihood"}
"""what the kept epoch is best in -> as it is logged"""
SURVEYED = 4_000
"""training requests, at most, whose information the posterior is made of and whose level the calibrator knows; the others
are taken to say as much"""
BATCH = 64
"""requests scored without gradients at once"""


class RankingTask(pl.LightningModule):
    """Pointwise likelihood of every objective and a listwise term on the retrieval target."""

    def __init__(
        self,
        ranker: MultiObjectiveRanker,
        items: ItemTable,
        target: int,
        knobs: "RankingTraining",
        *,
        steps: int,
        balance: Balance | None = None,
    ) -> None:
        """steps: after so many the learning rate is down to nothing; without a balance it only predicts"""
        super().__init__()
        self.balance = balance
        self.steps = steps
        self.ranker = ranker
        self.target = target
        self.knobs = knobs
        self.items = DeviceTensors(items.encoded)
        self.train_batch: dict[str, Tensor] = {}
        self.valid_batch: dict[str, Tensor] = {}

    def hold(self, train: RankingExamples, valid: RankingExamples) -> None:
        """Keep both sets; they move to the device when training starts."""
        self.train_batch, self.valid_batch = tensors(train), tensors(valid)
        rows = self.train_batch["candidate_rows"]
        self.ranker.fit_scores(self.train_batch["candidate_scores"][rows != PAD])

    def on_fit_start(self) -> None:
        for held in (self.train_batch, self.valid_batch):
            held.update({name: tensor.to(self.device) for name, tensor in held.items()})

    def joined(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**batch, **self.items.join("candidate", batch["candidate_rows"])}

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        return self.ranker(self.joined(batch))

    def training_step(self, indices: Tensor) -> dict[str, Tensor | int]:
        batch = {name: tensor[indices] for name, tensor in self.train_batch.items()}
        logits, labels, mask = self.logits(batch), batch["labels"], batch["candidate_rows"] != PAD
        pointwise = masked_bce(logits, labels.clamp(0, 1), mask * batch.get("candidate_weights", 1))
        listwise = listwise_softmax(logits[..., self.target], labels[..., self.target].clamp(0, 1), mask)
        assert self.balance is not None
        loss = self.balance(pointwise, self.ranker.shared) + self.knobs.listwise_weight * listwise
        self.log_dict({"ranking/pointwise": pointwise.sum(), "ranking/listwise": listwise}, prog_bar=True)
        return {"loss": loss, "examples": len(indices)}

    def validation_step(self, _: Tensor) -> None:
        batch, logits = self.valid_batch, self.all_logits(self.valid_batch)
        loss = masked_bce(logits, batch["labels"].clamp(0, 1), batch["candidate_rows"] != PAD).sum()
        if "candidate_positions" in batch:  # the order that is served knows no places
            logits = self.all_logits(_placeless(batch))
        labels = batch["labels"][..., self.target].masked_fill(batch["candidate_rows"] == PAD, torch.nan)
        ndcg_at_10 = reordered_ndcg(labels.cpu().numpy(), logits[..., self.target].cpu().numpy(), 10)
        self.log_dict({WATCHED["ndcg@10"]: ndcg_at_10, WATCHED["likelihood"]: -loss}, prog_bar=True)

    def all_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """[B, C, T], without gradients and in steps."""
        return _in_steps(self.logits, batch)

    def requests(self, batch: dict[str, Tensor]) -> Tensor:
        """[B, F], what the ranker knows of requests whatever their candidates."""
        return _in_steps(self.ranker.request, batch)

    @torch.no_grad()
    def information(self, examples: RankingExamples) -> Tensor:
        """[T, E, E] float64, what examples say of the last layer, see `recsys.ranking.uncertainty`."""
        drawn = _surveyed(len(examples))
        said, parents = [], self.ranker.parents
        for part in np.split(drawn, range(BATCH, len(drawn), BATCH)):
            batch = tensors(examples.at(part))
            logits, features, _ = self.ranker.last_layer(self.joined(batch))
            there = batch["candidate_rows"] != PAD
            known = there[there].unsqueeze(-1) & ~batch["labels"][there].isnan()
            said.append(information(logits[there], [one[there] for one in features], known, parents))
        return torch.stack(said).sum(0) * len(examples) / len(drawn)

    def configure_optimizers(self) -> Any:
        return self.knobs.configure_optimizers(self, self.steps)


@dataclass(frozen=True, kw_only=True)
class TrainedRanker:
    """The second stage, and what it said on its validation."""

    ranker: MultiObjectiveRanker
    calibrator: Calibrator
    posterior: LastLayerPosterior
    outcomes: ValidationOutcomes
    learnt_from: tuple[RetrievalVersion, ...]
    calibrated_on: tuple[RetrievalVersion, ...]
    epochs: int

    def probabilities(self, items: ItemTable, examples: RankingExamples) -> np.ndarray:
        """[B, C, T] float32, calibrated."""
        encoded = DeviceTensors(items.encoded)

        def said(batch: dict[str, Tensor]) -> Tensor:
            joined = {**batch, **encoded.join("candidate", batch["candidate_rows"])}
            return self.calibrator(*self.ranker.with_request(joined))

        return _in_steps(said, tensors(examples)).numpy()


@dataclass(frozen=True, kw_only=True)
class RankingTraining(OptimConfig):
    """The knobs of the ranker and of its training; an example is a request with all its candidates."""

    dim: int
    num_heads: int
    """of the attention of a candidate to the history"""
    num_positions: int
    """places whose influence is learnt from logged slates, the last one stands for all beyond; 0 learns none"""
    cross_rank: int
    num_cross_layers: int
    num_experts: int
    expert_dim: int
    dropout: float
    id_dropout: float
    feature_dropout: float
    """chance of a request to lose its history, its profile or its context in training, each by itself"""
    listwise_weight: float
    """of the listwise term beside the sum of the pointwise ones"""
    requests_per_user: int
    """of a user, at most, in a stretch of the log as long as the horizon (recsys/replay/labelled_requests.py)"""
    requests: int
    """at most, to learn from"""
    validation_requests: int
    """at most, to stop early and to calibrate by"""
    examples_gib: float
    """memory that the candidates of either may take, at most: fewer requests where they would take more"""
    dense_candidates: int
    """of a request, the first, that are all learnt from; of those behind them one in eight"""
    balance: str | Mapping[str, float]
    """how the losses of the objectives become one: equal, uncertainty, gradients, or a weight for each by its name"""
    shown: Mapping[str, str | None] | str | None
    """learn from what was shown in the place of all that is retrieved: the columns of the context, or "impressions" or
    "weighed_impressions", see `Shown`; how many requests a user and candidates a request there are is then up to the log"""
    watch: str
    """what the kept epoch is best in on the validation requests: ndcg@10 of the target, or likelihood of all labels"""

    group = "ranking"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(
            self.group,
            dim=(self.dim, 1, 4_096),
            num_heads=(self.num_heads, 1, 64),
            num_positions=(self.num_positions, 0, 10_000),
            cross_rank=(self.cross_rank, 1, 4_096),
            num_cross_layers=(self.num_cross_layers, 0, 16),
            num_experts=(self.num_experts, 1, 64),
            expert_dim=(self.expert_dim, 1, 4_096),
            dropout=(self.dropout, 0.0, 0.95),
            id_dropout=(self.id_dropout, 0.0, 0.95),
            feature_dropout=(self.feature_dropout, 0.0, 0.95),
            listwise_weight=(self.listwise_weight, 0.0, 100.0),
            requests_per_user=(self.requests_per_user, 1, 10_000),
            requests=(self.requests, 1, 10**9),
            validation_requests=(self.validation_requests, 1, 10**9),
            examples_gib=(self.examples_gib, 1e-3, 1e6),
            dense_candidates=(self.dense_candidates, 1, 10_000),
        )
        check_balance(self.balance)
        if self.logged is not None and self.logged.position is not None and not self.num_positions:
            raise ConfigError(
                "ranking.shown tells places, which needs ranking.num_positions, how many of them differ; give it"
            )
        if self.watch not in WATCHED:
            raise ConfigError(f"ranking.watch is {self.watch!r}; choose one of {', '.join(WATCHED)}")

    def affordable(self, total: int, num_scores: int, num_objectives: int) -> int:
        """Requests with `total` candidates each whose examples fit into `examples_gib`, one at least."""
        cell = 4 * (num_scores + num_objectives) + 8
        request = cell * len(learnt_places(total, self.dense_candidates))
        return max(1, int(self.examples_gib * 2**30 / request))

    @property
    def logged(self) -> Shown | None:
        """What `shown` says."""
        return None if self.shown is None else Shown.of(self.shown)

    def check(self, objectives: Collection[str], loop: Trainer) -> None:
        """ConfigError for what these objectives or this loop do not go with; before anything is trained."""
        balance_of(self.balance, tuple(objectives))
        if loop.compile and self.balance == "gradients":
            raise ConfigError(
                "ranking.balance=gradients looks into each step, which cannot be compiled; trainer.compile=false"
            )

    def ranker(self, spec: FeatureSpec, num_scores: int, parents: Parents) -> MultiObjectiveRanker:
        return MultiObjectiveRanker(
            spec=spec,
            num_scores=num_scores,
            num_positions=self.num_positions,
            parents=parents,
            dim=self.dim,
            num_heads=self.num_heads,
            cross_rank=self.cross_rank,
            num_cross_layers=self.num_cross_layers,
            num_experts=self.num_experts,
            expert_dim=self.expert_dim,
            dropout=self.dropout,
            id_dropout=self.id_dropout,
            feature_dropout=self.feature_dropout,
        )

    def fit(
        self,
        spec: FeatureSpec,
        items: ItemTable,
        train: RankingExamples,
        valid: RankingExamples,
        *,
        loop: Trainer,
        folder: Path,
        seed: int,
        loggers: list[Logger],
        epochs: int | None = None,
    ) -> "TrainedRanker":
        """Train on `train` and calibrate on `valid`, which lies later: for `epochs`, or as long as it gets better on `valid`.

        The modules come back on the CPU.
        """
        self.check(spec.objectives, loop)
        pl.seed_everything(seed, verbose=False)
        target = list(spec.objectives).index(spec.target)
        batches = index_batches(len(train), self.batch_size, seed)
        shown = train.labels[train.candidate_rows != PAD]
        ranker = self.ranker(spec, train.candidate_scores.shape[-1], parents_of(shown))
        balance = balance_of(self.balance, tuple(spec.objectives))
        task = RankingTask(ranker, items, target, self, steps=self.epochs * len(batches), balance=balance)
        task.hold(train, valid)
        epochs = loop.fit(
            task,
            train=batches,
            valid=index_batches(1, 1, seed) if epochs is None else None,
            folder=folder,
            epochs=epochs or self.epochs,
            patience=self.patience,
            monitor=WATCHED[self.watch] if epochs is None else None,
            loggers=loggers,
        )
        task = task.cpu().eval()
        learnt = task.ranker.learnt()
        posterior = LastLayerPosterior(*learnt.shape)
        posterior.fit(task.information(train), learnt)
        calibrator, probabilities = calibrated(task, train, valid)
        outcomes = ValidationOutcomes(rows=valid.candidate_rows, probabilities=probabilities, labels=valid.labels)
        return TrainedRanker(
            ranker=task.ranker,
            calibrator=calibrator,
            posterior=posterior,
            outcomes=outcomes,
            learnt_from=train.retrievals,
            calibrated_on=valid.retrievals,
            epochs=epochs,
        )


def calibrated(task: RankingTask, train: RankingExamples, valid: RankingExamples) -> tuple[Calibrator, np.ndarray]:
    """By the labels of `valid`, and its probabilities [B, C, T] then, as if all had stood first. What a request's level is,
    is read off the logits of both.
    """
    said = [_said(task, one) for one in (train.at(_surveyed(len(train))), valid)]
    calibrator = Calibrator(task.ranker.request_width, task.ranker.parents)
    all_requests, means = torch.cat([one for one, _, _ in said]), torch.cat([_mean(*one) for _, *one in said])
    known = ~means.isnan().any(1)
    calibrator.level.fit(all_requests[known], means[known])
    requests, logits, present = said[1]
    labels = torch.from_numpy(valid.labels)
    calibrator.fit(logits[present], labels[present], present.nonzero()[:, 0], requests)
    served = logits if valid.positions is None else task.all_logits(_placeless(tensors(valid)))
    return calibrator, calibrator(served, requests).numpy()


def _placeless(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """As if all had stood first, which is how they are served."""
    return {name: one for name, one in batch.items() if name != "candidate_positions"}


def _said(task: RankingTask, examples: RankingExamples) -> tuple[Tensor, Tensor, Tensor]:
    """Features of the requests [B, F], logits [B, C, T] and where there is a candidate [B, C]."""
    batch = tensors(examples)
    return task.requests(batch), task.all_logits(batch), batch["candidate_rows"] != PAD


def _mean(logits: Tensor, present: Tensor) -> Tensor:
    """[B, C, T] -> [B, T] over the candidates that there are, NaN where there is none."""
    return (logits * present.unsqueeze(-1)).sum(1) / present.sum(1, keepdim=True)


def _surveyed(num: int) -> np.ndarray:
    """SURVEYED of so many requests at most, always the same ones."""
    return np.sort(np.random.default_rng(0).permutation(num)[:SURVEYED])


@torch.no_grad()
def _in_steps(said: Callable[[dict[str, Tensor]], Tensor], batch: dict[str, Tensor]) -> Tensor:
    """said(batch) [B, ...] without gradients, float32, BATCH requests at once."""
    steps = range(0, len(batch["candidate_rows"]), BATCH)
    return torch.cat(
        [said({name: one[start : start + BATCH] for name, one in batch.items()}) for start in steps]
    ).float()
