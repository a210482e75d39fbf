"""Training of the ranker on candidates that retrieval really returned, and its calibration on later data.

Shapes: B requests, C candidates, T objectives, S sources, R cells (request, candidate).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

from recsys.cache.stage_cache import NO_CACHE, StageCache
from recsys.contracts import PAD
from recsys.errors import ConfigError, check_ranges
from recsys.evaluation.pareto import ValidationOutcomes
from recsys.features.encode import ItemTable
from recsys.features.spec import FeatureSpec
from recsys.metrics import reordered_ndcg
from recsys.ranking.calibration import Calibrator
from recsys.ranking.gbdt import GBDTRanker, import_lightgbm
from recsys.ranking.losses import (
    BinaryCrossEntropy,
    Distillation,
    DistillationWhereBetter,
    PointwiseLoss,
    RankingLoss,
    masked_bce,
)
from recsys.ranking.model import RankerFactory, RankerInputs, RankerModel, RankerSizes, logits_and_request
from recsys.ranking.objective_chain import Parents, parents_of
from recsys.ranking.uncertainty import LastLayerPosterior
from recsys.training.balance import balance_of, check_balance
from recsys.training.batches import index_batches
from recsys.training.device_tensors import DeviceTensors
from recsys.training.ranker_gain import RankerGain
from recsys.training.ranking_examples import ExampleSampling, RankingExamples, RetrievalVersion, tensors
from recsys.training.ranking_task import MONITORED, RankingTask, scored, surveyed, without_positions
from recsys.training.trainer import FINISHED_FILE, OptimConfig, Trainer


@dataclass(frozen=True, kw_only=True)
class TrainedRanker:
    """The second stage, and its predictions on the validation."""

    ranker: RankerModel
    calibrator: Calibrator
    posterior: LastLayerPosterior
    outcomes: ValidationOutcomes
    learnt_from: tuple[RetrievalVersion, ...]
    calibrated_on: tuple[RetrievalVersion, ...]
    epochs: int
    """0: nothing was learnt"""
    keeps_order: bool = False
    """whether the target has the order of retrieval; further objectives may have learnt"""
    gain: RankerGain | None = None
    """over the order of retrieval on validation; None where nothing was compared"""
    exchanged_gain: RankerGain | None = None
    """the same of a ranker that learnt from the validation, on the period that this one learnt from"""
    taught: bool = False
    """whether it learnt from teachers that were better on the validation"""

    @property
    def verdict(self) -> str | None:
        """Return the comparison with retrieval as a sentence for a report; None where nothing was compared."""
        if self.gain is None:
            return None
        others = "; it gives the probabilities of the other objectives" if self.epochs else ""
        decision = f"keeps the order of retrieval{others}" if self.keeps_order else "is kept"
        found = f"the ranker {decision}: {self.gain.figures('validation')}"
        return f"{found}; {self.exchanged_gain.figures('the period before')}" if self.exchanged_gain else found

    def probabilities(self, items: ItemTable, examples: RankingExamples) -> np.ndarray:
        """[B, C, T] float32, calibrated."""
        encoded = DeviceTensors(items.encoded)

        def calibrated_batch(batch: dict[str, Tensor]) -> Tensor:
            joined = {**batch, **encoded.join("candidate", batch["candidate_rows"])}
            return self.calibrator(*logits_and_request(self.ranker, self.calibrator.parents, joined))

        return scored(calibrated_batch, tensors(examples)).numpy()


@dataclass(frozen=True, kw_only=True)
class FittedTask:
    """A trained task, before its calibration."""

    task: RankingTask
    train: RankingExamples
    """with the labels that it learnt from"""
    parents: Parents
    epochs: int
    keeps_order: bool
    gain: RankerGain | None


@dataclass(frozen=True, kw_only=True)
class RankerTrainerConfig(OptimConfig):
    """Configuration of the ranker and of its training; an example is a request with all its candidates."""

    model: RankerFactory
    """builds the ranker: a file of conf/ranking/model"""
    pointwise: PointwiseLoss
    """loss of every objective: a file of conf/ranking/pointwise"""
    loss: RankingLoss
    """listwise term on the retrieval target: a file of conf/ranking/loss"""
    sizes: RankerSizes
    num_positions: int
    """positions whose bias is learnt from logged slates, the last one stands for all beyond; 0 learns none"""
    sampling: ExampleSampling
    listwise_weight: float
    """of the listwise term beside the sum of the pointwise ones"""
    balance: str | Mapping[str, float]
    """weighting of the objectives' losses: equal, uncertainty, gradients, or a weight for each by its name"""
    watch: str
    """metric on the validation requests that chooses the kept epoch: ndcg@10 of the target, or likelihood of all labels"""

    group = "ranking"
    task_type: ClassVar[type[RankingTask]] = RankingTask

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(
            self.group,
            num_positions=(self.num_positions, 0, 10_000),
            listwise_weight=(self.listwise_weight, 0.0, 100.0),
        )
        check_balance(self.balance)
        logged = self.sampling.logged
        if logged is not None and logged.position is not None and not self.num_positions:
            raise ConfigError(
                "ranking.sampling.shown names a position column, "
                "which needs ranking.num_positions, the number of positions; give it"
            )
        if self.watch not in MONITORED:
            raise ConfigError(f"ranking.watch is {self.watch!r}; choose one of {', '.join(MONITORED)}")

    def check(self, objectives: Collection[str], trainer: Trainer) -> None:
        """Raise ConfigError where these objectives or this trainer contradict the configuration; before anything is trained."""
        balance_of(self.balance, tuple(objectives))
        teachers = self.pointwise.teachers.values() if isinstance(self.pointwise, Distillation) else ()
        if any(getattr(one, "func", one) is GBDTRanker for one in (self.model, *teachers)):
            import_lightgbm()
        if trainer.compile and self.balance == "gradients":
            raise ConfigError(
                "ranking.balance=gradients reads the gradients of each step, which cannot be compiled; trainer.compile=false"
            )

    def ranker(self, spec: FeatureSpec, num_scores: int, parents: Parents) -> RankerModel:
        """Build the configured ranker, untrained."""
        inputs = RankerInputs(spec=spec, num_scores=num_scores, num_positions=self.num_positions, parents=parents)
        return self.model(inputs=inputs, sizes=self.sizes)

    def select(
        self,
        spec: FeatureSpec,
        items: ItemTable,
        train: RankingExamples,
        valid: RankingExamples,
        *,
        trainer: Trainer,
        folder: Path,
        seed: int,
        loggers: list[Logger],
        cache: StageCache = NO_CACHE,
    ) -> "TrainedRanker":
        """Fit on `train`; let the ranker order the target only where one that learnt from `valid` is better on `train` as well.

        What one period rewards the next one may punish: a ranker that is not better twice keeps the order of retrieval.
        """
        of_both: dict[str, Any] = {"seed": seed, "cache": cache}
        trained = self.fit(spec, items, train, valid, trainer=trainer, folder=folder, loggers=loggers, **of_both)
        if trained.gain is None or trained.keeps_order:
            return trained
        unseen: dict[str, Any] = {"trainer": trainer.without_report(), "loggers": [], **of_both}  # one fit a curve
        own = folder.with_name(f"{folder.name}_exchanged")
        chosen = self._with_pointwise(taught=trained.taught)
        exchanged = chosen._fitted(spec, items, valid, train, folder=own, epochs=None, **unseen).gain
        if exchanged is None or exchanged.ranker > exchanged.retrieval:
            return replace(trained, exchanged_gain=exchanged)
        ordered = self.fit(spec, items, train, valid, folder=folder, taught=trained.taught, keeps_order=True, **unseen)
        return replace(ordered, exchanged_gain=exchanged)

    def fit(
        self,
        spec: FeatureSpec,
        items: ItemTable,
        train: RankingExamples,
        valid: RankingExamples,
        *,
        trainer: Trainer,
        folder: Path,
        seed: int,
        loggers: list[Logger],
        cache: StageCache = NO_CACHE,
        epochs: int | None = None,
        taught: bool | None = None,
        keeps_order: bool = False,
    ) -> "TrainedRanker":
        """Train on `train` and calibrate on `valid`, which lies later: for `epochs`, or as long as it gets better on `valid`.

        taught: what `DistillationWhereBetter` chose in another fit; None to choose. keeps_order: the target has the order of
        retrieval, whatever is learnt. The modules come back on the CPU.
        """
        self.check(spec.objectives, trainer)
        if isinstance(self.pointwise, DistillationWhereBetter):
            options: dict[str, Any] = {"trainer": trainer, "seed": seed, "loggers": loggers, "cache": cache}
            options["keeps_order"] = keeps_order
            return self._better(self.pointwise, (spec, items, train, valid), folder, epochs, taught, options)
        fitted = self._fitted(
            spec,
            items,
            train,
            valid,
            trainer=trainer,
            folder=folder,
            seed=seed,
            loggers=loggers,
            cache=cache,
            epochs=epochs,
            keeps_order=keeps_order,
        )
        task, train = fitted.task, fitted.train
        weight_change = task.ranker.weight_change()
        posterior = LastLayerPosterior(*weight_change.shape)
        posterior.fit(task.information(train, fitted.parents), weight_change)
        calibrator, probabilities = calibrated(task, train, valid, fitted.parents)
        outcomes = ValidationOutcomes(rows=valid.candidate_rows, probabilities=probabilities, labels=valid.labels)
        return TrainedRanker(
            ranker=task.ranker,
            calibrator=calibrator,
            posterior=posterior,
            outcomes=outcomes,
            learnt_from=train.retrievals,
            calibrated_on=valid.retrievals,
            epochs=fitted.epochs,
            keeps_order=fitted.keeps_order,
            gain=fitted.gain,
        )

    def _fitted(
        self,
        spec: FeatureSpec,
        items: ItemTable,
        train: RankingExamples,
        valid: RankingExamples,
        *,
        trainer: Trainer,
        folder: Path,
        seed: int,
        loggers: list[Logger],
        cache: StageCache,
        epochs: int | None,
        keeps_order: bool = False,
    ) -> "FittedTask":
        """Train a task, with its teachers where it has some, and bring it back to the CPU."""
        pl.seed_everything(seed, verbose=False)
        target = list(spec.objectives).index(spec.target)
        parents = parents_of(train.labels[train.candidate_rows != PAD])
        if isinstance(self.pointwise, Distillation):
            teachers = self._teachers(
                self.pointwise, spec, items, train, valid, folder, trainer=trainer, seed=seed, cache=cache
            )
            known = [one.probabilities(items, train) for one in teachers]
            train = replace(train, labels=self.pointwise.mixed(train.labels, known))
            pl.seed_everything(seed, verbose=False)
        ranker = self.ranker(spec, train.candidate_scores.shape[-1], parents)
        balance = balance_of(self.balance, tuple(spec.objectives))
        task = self.task_type(ranker, items, target, self.for_examples(len(train), epochs), balance=balance)
        task.set_examples(train, valid)
        run: dict[str, Any] = {"trainer": trainer, "folder": folder, "seed": seed, "loggers": loggers, "cache": cache}
        epochs, gain = (0, None) if epochs == 0 else self._train(task, spec, items, train, valid, epochs=epochs, **run)
        if keeps_order := keeps_order or (gain is not None and not gain.helps):
            epochs = task.keep_order(epochs)
        task = task.cpu().eval()
        return FittedTask(task=task, train=train, parents=parents, epochs=epochs, keeps_order=keeps_order, gain=gain)

    def _with_pointwise(self, *, taught: bool) -> "RankerTrainerConfig":
        """Return the configuration that `DistillationWhereBetter` chose; itself where it chooses nothing."""
        if not isinstance(self.pointwise, DistillationWhereBetter):
            return self
        student = Distillation(weight=self.pointwise.weight, teachers=self.pointwise.teachers)
        return replace(self, pointwise=student if taught else BinaryCrossEntropy())

    def _train(
        self,
        task: RankingTask,
        spec: FeatureSpec,
        items: ItemTable,
        train: RankingExamples,
        valid: RankingExamples,
        *,
        trainer: Trainer,
        folder: Path,
        seed: int,
        loggers: list[Logger],
        cache: StageCache,
        epochs: int | None,
    ) -> tuple[int, RankerGain | None]:
        """Train a task; return the epochs, and the comparison with the order of retrieval where there is one."""
        compared = epochs is None and self._compares(task.ranker)
        retrieved = task.ndcg_of_requests() if compared else None
        inputs = {
            "task": self.task_type,
            "config": task.config,
            "trainer": trainer.settings,
            "seed": seed,
            "epochs": epochs,
        }
        data = {"spec": spec, "items": items, "train": train, "valid": valid}
        with cache.file("ranker", folder / FINISHED_FILE, **inputs, **data):
            task.fit_directly(folder / FINISHED_FILE, train, valid, epochs, seed)
            trained = trainer.fit(
                task,
                train=index_batches(len(train), self.batch_size, seed),
                valid=index_batches(1, 1, seed) if epochs is None else None,
                folder=folder,
                epochs=epochs or task.config.epochs,
                patience=self.patience,
                monitor=MONITORED[self.watch] if epochs is None else None,
                loggers=loggers,
            )
        gain = None if retrieved is None else RankerGain.of(task.all_validated(), retrieved)
        return trained, gain

    def _compares(self, ranker: RankerModel) -> bool:
        """Return whether the ranker has the order of retrieval before its training, which may lose that order."""
        compares = self.watch == "ndcg@10" and self.sampling.logged is None and ranker.retrieval_first
        if compares:
            # changes nothing yet; a ranker that cannot take its order back fails before its training
            ranker.order_by_retrieval(0)
        return compares

    def _teachers(
        self,
        distillation: Distillation,
        spec: FeatureSpec,
        items: ItemTable,
        train: RankingExamples,
        valid: RankingExamples,
        folder: Path,
        **options: Any,
    ) -> list[TrainedRanker]:
        """Train the teachers, each while it gets better on `valid`."""
        found = []
        for name, model in distillation.teachers.items():
            config = replace(self, model=model, pointwise=BinaryCrossEntropy())
            own_folder = folder.with_name(f"{folder.name}_teacher_{name}")
            found.append(config.fit(spec, items, train, valid, folder=own_folder, loggers=[], **options))
        return found

    def _better(
        self,
        distillation: DistillationWhereBetter,
        data: tuple[FeatureSpec, ItemTable, RankingExamples, RankingExamples],
        folder: Path,
        epochs: int | None,
        taught: bool | None,
        options: dict[str, Any],
    ) -> TrainedRanker:
        """Train by the labels and, where a teacher is better on the validation, by the teachers; return the better ranker.

        epochs: as many, and nothing is chosen: by the labels unless `taught`.
        """
        _, _, train, valid = data
        student = self._with_pointwise(taught=True)
        of_student = {**options, "folder": folder.with_name(f"{folder.name}_taught")}
        if taught and epochs != 0:  # nothing is learnt from teachers in no epoch
            return replace(student.fit(*data, epochs=epochs, **of_student), taught=True)
        plain = self._with_pointwise(taught=False).fit(*data, folder=folder, epochs=epochs, **options)
        cells = int((train.candidate_rows != PAD).sum())
        if epochs is not None or taught is not None or cells > distillation.most_cells:
            return plain
        of_student |= {"loggers": [], "trainer": options["trainer"].without_report()}  # one fit a curve
        target = list(data[0].objectives).index(data[0].target)
        quality = partial(_quality, valid=valid, target=target if self.watch == "ndcg@10" else None)
        teachers = student._teachers(
            distillation, *data, **{name: of_student[name] for name in of_student if name != "loggers"}
        )
        if max(map(quality, teachers)) <= quality(plain):
            return plain
        return max(plain, replace(student.fit(*data, **of_student), taught=True), key=quality)


def _quality(trained: TrainedRanker, *, valid: RankingExamples, target: int | None) -> float:
    """Return the NDCG@10 of a target on the validation; without one the mean log likelihood of its labels, over objectives."""
    probabilities, present = trained.outcomes.probabilities, valid.candidate_rows != PAD
    if target is not None:
        labels = np.where(present, valid.labels[..., target], np.nan)
        found = reordered_ndcg(labels[valid.judged], probabilities[valid.judged][..., target], 10)
        return float(found.mean()) if len(found) else 0.0
    logits = torch.from_numpy(probabilities).double().logit(eps=1e-7)
    reached = torch.from_numpy(valid.labels).double().clamp(0, 1)
    return -float(masked_bce(logits, reached, torch.from_numpy(present)).sum())


def calibrated(
    task: RankingTask, train: RankingExamples, valid: RankingExamples, parents: Parents
) -> tuple[Calibrator, np.ndarray]:
    """Fit a calibrator to the labels of `valid`; return it with the probabilities [B, C, T] of `valid` at the first position.

    The intercept of a request is fitted to the logits of both sets.
    """
    scored = [_requests_and_logits(task, one) for one in (train.at(surveyed(len(train))), valid)]
    all_requests = torch.cat([requests for requests, _, _ in scored])
    means = torch.cat([_mean(logits, present) for _, logits, present in scored])
    known = ~means.isnan().any(1)
    calibrator = Calibrator(all_requests.shape[-1], parents)
    calibrator.intercept.fit(all_requests[known], means[known])
    requests, logits, present = scored[1]
    labels = torch.from_numpy(valid.labels)
    calibrator.fit(logits[present], labels[present], present.nonzero()[:, 0], requests)
    served = logits if valid.positions is None else task.all_logits(without_positions(tensors(valid)))
    return calibrator, calibrator(served, requests).numpy()


def _requests_and_logits(task: RankingTask, examples: RankingExamples) -> tuple[Tensor, Tensor, Tensor]:
    """Features of the requests [B, F], logits [B, C, T], and the mask of candidates [B, C]."""
    batch = tensors(examples)
    return task.requests(batch), task.all_logits(batch), batch["candidate_rows"] != PAD


def _mean(logits: Tensor, present: Tensor) -> Tensor:
    """[B, C, T] -> [B, T] over the candidates, NaN where there is none."""
    return (logits * present.unsqueeze(-1)).sum(1) / present.sum(1, keepdim=True)
