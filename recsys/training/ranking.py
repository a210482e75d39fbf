"""Training of the ranker on candidates that retrieval really returned, and its calibration on later data.

Shapes: B requests, C candidates, T objectives, S sources, R cells (request, candidate).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

from recsys.candidates.merge import num_score_features
from recsys.contracts import PAD
from recsys.errors import check_ranges
from recsys.evaluation.metrics import Targets, hits, ndcg
from recsys.evaluation.replay import Replay
from recsys.features.encode import Arrays, ItemTable, encode_queries
from recsys.features.spec import FeatureSpec
from recsys.nn.losses import listwise_softmax, masked_bce
from recsys.ranking.calibration import PlattCalibrator
from recsys.ranking.multi_objective import MultiObjectiveRanker
from recsys.stages import Retrieve
from recsys.training.loop import Fitting, Loop, index_batches
from recsys.training.resident import Resident

MONITOR = "ranking/ndcg@10"
BATCH = 64
"""requests put through the retrieve stage, or scored without gradients, at once"""


@dataclass(frozen=True, kw_only=True)
class RankingExamples:
    """Requests with the candidates that retrieval returned and what became of them."""

    request: Arrays
    """tensors of the request, [B, ...]"""
    candidate_rows: np.ndarray
    """[B, C] int64"""
    candidate_scores: np.ndarray
    """[B, C, S'] float32"""
    labels: np.ndarray
    """[B, C, T] float32, NaN where missing"""

    def __len__(self) -> int:
        return len(self.candidate_rows)


def ranking_examples(
    retrieve: Retrieve, spec: FeatureSpec, items: ItemTable, replay: Replay, rows: np.ndarray, period: np.ndarray
) -> RankingExamples:
    """Ask retrieval at `rows` of the log and label its candidates by the rest of `period` [R] bool.

    Retrieval must have been fitted on earlier periods only; the requests are encoded by the ranker's own spec.
    """
    parts: list[Arrays] = []
    for start in range(0, len(rows), BATCH):
        queries = replay.queries(rows[start : start + BATCH], k=1)
        answer = retrieve({"QUERY": queries})
        request, _ = encode_queries(spec, items, queries)
        parts.append({**request, **{name: answer[name] for name in ("candidate_rows", "candidate_scores")}})
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    candidates = arrays.pop("candidate_rows")
    return RankingExamples(
        candidate_rows=candidates,
        candidate_scores=arrays.pop("candidate_scores"),
        request=arrays,
        labels=replay.candidate_labels(rows, candidates, period),
    )


class RankingTask(pl.LightningModule):
    """Pointwise likelihood of every objective and a listwise term on the retrieval target."""

    def __init__(self, ranker: MultiObjectiveRanker, items: ItemTable, target: int, knobs: "RankingTraining") -> None:
        super().__init__()
        self.ranker = ranker
        self.target = target
        self.knobs = knobs
        self.items = Resident(items.encoded)
        self.train_batch: dict[str, Tensor] = {}
        self.valid_batch: dict[str, Tensor] = {}

    def hold(self, train: RankingExamples, valid: RankingExamples) -> None:
        """Keep both sets; they move to the device when training starts."""
        self.train_batch, self.valid_batch = _tensors(train), _tensors(valid)
        rows = self.train_batch["candidate_rows"]
        self.ranker.fit_scores(self.train_batch["candidate_scores"][rows != PAD])

    def on_fit_start(self) -> None:
        for held in (self.train_batch, self.valid_batch):
            held.update({name: tensor.to(self.device) for name, tensor in held.items()})

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        return self.ranker({**batch, **self.items.join("candidate", batch["candidate_rows"])})

    def training_step(self, indices: Tensor) -> dict[str, Tensor | int]:
        batch = {name: tensor[indices] for name, tensor in self.train_batch.items()}
        logits, labels, mask = self.logits(batch), batch["labels"], batch["candidate_rows"] != PAD
        pointwise = masked_bce(logits, labels.clamp(0, 1), mask)
        listwise = listwise_softmax(logits[..., self.target], labels[..., self.target].clamp(0, 1), mask)
        loss = pointwise.sum() + self.knobs.listwise_weight * listwise
        self.log_dict({"ranking/pointwise": pointwise.sum(), "ranking/listwise": listwise}, prog_bar=True)
        return {"loss": loss, "examples": len(indices)}

    def validation_step(self, _: Tensor) -> None:
        logits = self.all_logits(self.valid_batch)[..., self.target]
        self.log(MONITOR, _mean_ndcg(logits, self.valid_batch, self.target), prog_bar=True)

    @torch.no_grad()
    def all_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """[B, C, T], without gradients and in steps."""
        steps = range(0, len(batch["candidate_rows"]), BATCH)
        return torch.cat(
            [self.logits({k: v[start : start + BATCH] for k, v in batch.items()}) for start in steps]
        ).float()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.knobs.optimiser(self.parameters())


@dataclass(frozen=True, kw_only=True)
class RankingTraining(Fitting):
    """The knobs of the ranker and of its training; an example is a request with all its candidates."""

    dim: int
    cross_rank: int
    num_cross_layers: int
    num_experts: int
    expert_dim: int
    dropout: float
    id_dropout: float
    listwise_weight: float
    """of the listwise term beside the sum of the pointwise ones"""
    requests_per_user: int
    """moments of a user in the ranking period that become examples"""

    group = "ranking"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(
            self.group,
            dim=(self.dim, 1, 4_096),
            cross_rank=(self.cross_rank, 1, 4_096),
            num_cross_layers=(self.num_cross_layers, 0, 16),
            num_experts=(self.num_experts, 1, 64),
            expert_dim=(self.expert_dim, 1, 4_096),
            dropout=(self.dropout, 0.0, 0.95),
            id_dropout=(self.id_dropout, 0.0, 0.95),
            listwise_weight=(self.listwise_weight, 0.0, 100.0),
            requests_per_user=(self.requests_per_user, 1, 10_000),
        )

    def ranker(self, spec: FeatureSpec, num_sources: int) -> MultiObjectiveRanker:
        return MultiObjectiveRanker(
            spec=spec,
            num_scores=num_score_features(num_sources),
            dim=self.dim,
            cross_rank=self.cross_rank,
            num_cross_layers=self.num_cross_layers,
            num_experts=self.num_experts,
            expert_dim=self.expert_dim,
            dropout=self.dropout,
            id_dropout=self.id_dropout,
        )

    def fit(
        self,
        spec: FeatureSpec,
        items: ItemTable,
        train: RankingExamples,
        valid: RankingExamples,
        *,
        num_sources: int,
        loop: Loop,
        folder: Path,
        seed: int,
        loggers: list[Logger],
    ) -> tuple[MultiObjectiveRanker, PlattCalibrator]:
        """Train on `train`; stop early and calibrate on `valid`, which lies later. Both come back on the CPU."""
        pl.seed_everything(seed, verbose=False)
        target = list(spec.objectives).index(spec.target)
        task = RankingTask(self.ranker(spec, num_sources), items, target, self)
        task.hold(train, valid)
        loop.fit(
            task,
            train=index_batches(len(train), self.batch_size, seed),
            valid=index_batches(1, 1, seed),
            folder=folder,
            epochs=self.epochs,
            patience=self.patience,
            monitor=MONITOR,
            loggers=loggers,
        )
        task = task.cpu().eval()
        batch = _tensors(valid)
        present = batch["candidate_rows"] != PAD
        calibrator = PlattCalibrator(spec.num_objectives)
        calibrator.fit(task.all_logits(batch)[present], batch["labels"][present], present.nonzero()[:, 0])
        return task.ranker, calibrator


def _tensors(examples: RankingExamples) -> dict[str, Tensor]:
    arrays = {
        **examples.request,
        "candidate_rows": examples.candidate_rows,
        "candidate_scores": examples.candidate_scores,
        "labels": examples.labels,
    }
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def _mean_ndcg(logits: Tensor, batch: dict[str, Tensor], target: int) -> float:
    """NDCG@10 of the reordered candidates, over the requests that have a positive among them."""
    rows = batch["candidate_rows"]
    positive = (batch["labels"][..., target] > 0) & (rows != PAD)
    asked = positive.any(1)
    if not asked.any():
        return 0.0
    order = logits.masked_fill(rows == PAD, -torch.inf)[asked].argsort(dim=1, descending=True, stable=True)
    ranking = rows[asked].gather(1, order).cpu().numpy()
    lists = [
        mine[one].tolist() for mine, one in zip(rows[asked].cpu().numpy(), positive[asked].cpu().numpy(), strict=True)
    ]
    targets = Targets.of(lists)
    return float(ndcg(hits(ranking, targets), targets.num_targets, min(10, ranking.shape[1])).mean())
