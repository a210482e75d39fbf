"""Training of the ranker on candidates that retrieval really returned, and its calibration on later data.

Shapes: B requests, C candidates, T objectives, S sources, R cells (request, candidate).
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from copy import deepcopy
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
from recsys.ranking.uncertainty import LastLayerPosterior, information
from recsys.training.balance import Balance, balance_of, check_balance
from recsys.training.batches import index_batches
from recsys.training.device_tensors import DeviceTensors
from recsys.training.ranker_gain import RankerGain
from recsys.training.ranking_examples import ExampleSampling, RankingExamples, RetrievalVersion, tensors
from recsys.training.trainer import FINISHED_FILE, OptimConfig, Trainer, write_finished

MONITORED = {"ndcg@10": "ranking/ndcg@10", "likelihood": "ranking/likelihood"}
"""values of ranking.watch -> metric as it is logged"""
MAX_SURVEYED = 4_000
"""training requests, at most, from which the posterior's information and the calibrator's intercept are estimated"""
SCORING_BATCH = 64
"""requests scored without gradients at once, at least"""
SCORING_CELLS = 12_800
"""candidates scored without gradients at once, where requests have few"""


class RankingTask(pl.LightningModule):
    """Pointwise loss of every objective and a listwise term on the retrieval target."""

    def __init__(
        self,
        ranker: RankerModel,
        items: ItemTable,
        target: int,
        config: "RankerTrainerConfig",
        *,
        balance: Balance | None = None,
    ) -> None:
        """balance: None for a task that only predicts"""
        super().__init__()
        self.balance = balance
        self.ranker = ranker
        self.target = target
        self.config = config
        self.items = DeviceTensors(items.encoded)
        self.train_batch: dict[str, Tensor] = {}
        self.valid_batch: dict[str, Tensor] = {}
        self.judged = torch.empty(0, dtype=torch.bool)
        """[B] of the validation requests: `RankingExamples.judged`"""
        self.validated = torch.empty(0, 0)
        """[E, B'] `ndcg_of_requests` of every validation so far"""

    def get_extra_state(self) -> dict[str, Tensor]:
        return {"validated": self.validated}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Restore what checkpoints hold; the best one is older than the last and may not take its validations away."""
        if len(state["validated"]) > len(self.validated):
            self.validated = state["validated"]

    def set_examples(self, train: RankingExamples, valid: RankingExamples) -> None:
        """Set training and validation examples; they move to the device when training starts."""
        self.train_batch, self.valid_batch = tensors(train), tensors(valid)
        self.judged = torch.from_numpy(valid.judged)
        rows = self.train_batch["candidate_rows"]
        present = rows != PAD
        self.ranker.fit_scores(self.train_batch["candidate_scores"][present])
        if "ids" in dict(self.items.named_buffers()):
            labels, weights = self.train_batch["labels"][present], self.train_batch.get("candidate_weights")
            weights = None if weights is None else weights[present]
            self.ranker.fit_values(self.items["ids"], rows[present], labels, weights)

    def on_fit_start(self) -> None:
        for batch in (self.train_batch, self.valid_batch):
            batch.update({name: tensor.to(self.device) for name, tensor in batch.items()})

    def joined(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**batch, **self.items.join("candidate", batch["candidate_rows"])}

    def fit_directly(
        self, file: Path, train: RankingExamples, valid: RankingExamples, rounds: int | None, seed: int
    ) -> None:
        """Write the finished task into `file`, from which `Trainer.fit` reads it back, where the ranker fits itself."""
        if file.is_file():
            return
        if rounds := self.ranker.fit(self.batches(train), self.batches(valid), rounds=rounds, seed=seed):
            write_finished(self, file, rounds)

    def batches(self, examples: RankingExamples) -> Iterator[dict[str, Tensor]]:
        """Joined batches of examples in their order."""
        for start in range(0, len(examples), SCORING_BATCH):
            yield self.joined(tensors(examples.at(np.arange(start, min(start + SCORING_BATCH, len(examples))))))

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        return self.ranker(self.joined(batch))

    def training_step(self, indices: Tensor) -> dict[str, Tensor | int]:
        batch = {name: tensor[indices] for name, tensor in self.train_batch.items()}
        logits, labels, mask = self.logits(batch), batch["labels"], batch["candidate_rows"] != PAD
        pointwise = self.config.pointwise(logits, labels.clamp(0, 1), mask * batch.get("candidate_weights", 1))
        listwise = self.config.loss(logits[..., self.target], labels[..., self.target].clamp(0, 1), mask)
        assert self.balance is not None
        loss = self.balance(pointwise, self.ranker.shared) + self.config.listwise_weight * listwise
        self.log_dict({"ranking/pointwise": pointwise.sum(), "ranking/listwise": listwise}, prog_bar=True)
        return {"loss": loss, "examples": len(indices)}

    def validation_step(self, _: Tensor) -> None:
        logits, labels = self.all_logits(self.valid_batch), self.valid_batch["labels"]
        loss = masked_bce(logits, labels.clamp(0, 1), self.valid_batch["candidate_rows"] != PAD).sum()
        served = self.ndcg_of_requests(None if "candidate_positions" in self.valid_batch else logits)
        self.validated = torch.cat([self._validated_on(len(served)), torch.from_numpy(served).float()[None]])
        mean = float(served.mean()) if len(served) else 0.0
        self.log_dict({MONITORED["ndcg@10"]: mean, MONITORED["likelihood"]: -loss}, prog_bar=True)

    def ndcg_of_requests(self, logits: Tensor | None = None) -> np.ndarray:
        """Return NDCG@10 of the target for the judged requests that reached it, as served: without position bias.

        logits: of the validation requests, [B, C, T]; computed unless given
        """
        batch = {name: one.to(self.device) for name, one in _without_positions(self.valid_batch).items()}
        if logits is None:
            training = self.training
            logits = self.eval().all_logits(batch)
            self.train(training)
        labels = batch["labels"][..., self.target].masked_fill(batch["candidate_rows"] == PAD, torch.nan)
        judged = self.judged.to(labels.device)
        return reordered_ndcg(labels[judged].cpu().numpy(), logits[judged][..., self.target].cpu().numpy(), 10)

    def _validated_on(self, num: int) -> Tensor:
        """`validated` [E, num]; ConfigError where a checkpoint holds validations of other requests."""
        if len(self.validated) and self.validated.shape[1] != num:
            raise ConfigError(
                f"the checkpoint of the ranker was validated on {self.validated.shape[1]} requests, there are {num} now, as of "
                "another version of the code or of the data; train in a new folder, or remove this one"
            )
        return self.validated.reshape(len(self.validated), num)

    def all_validated(self) -> np.ndarray:
        """[E, B'] `ndcg_of_requests` of every validation; of the fitted ranker alone where it fits itself."""
        own = self.ndcg_of_requests()
        return self._validated_on(len(own)).numpy() if len(self.validated) else own[None]

    def all_logits(self, batch: dict[str, Tensor]) -> Tensor:
        """[B, C, T], without gradients and in steps."""
        return _scored(self.logits, batch)

    def requests(self, batch: dict[str, Tensor]) -> Tensor:
        """Features of the requests that read no candidate, [B, F]."""
        return _scored(self.ranker.request, batch)

    @torch.no_grad()
    def information(self, examples: RankingExamples, parents: Parents) -> Tensor:
        """Fisher information of examples on the last layer, [T, E, E] float64, see `recsys.ranking.uncertainty`."""
        drawn, parts = _surveyed(len(examples)), []
        for rows in np.split(drawn, range(SCORING_BATCH, len(drawn), SCORING_BATCH)):
            batch = tensors(examples.at(rows))
            joined = self.joined(batch)
            logits, features = self.ranker.last_layer(joined, self.ranker.request(joined))
            present = batch["candidate_rows"] != PAD
            known = present[present].unsqueeze(-1) & ~batch["labels"][present].isnan()
            parts.append(information(logits[present], [one[present] for one in features()], known, parents))
        return torch.stack(parts).sum(0) * len(examples) / len(drawn)

    def configure_optimizers(self) -> Any:
        return self.config.configure_optimizers(self)


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
    """0: the order of retrieval is kept"""
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
        found = f"the ranker {'is kept' if self.epochs else 'keeps the order of retrieval'}: {self.gain.figures('validation')}"
        return f"{found}; {self.exchanged_gain.figures('the period before')}" if self.exchanged_gain else found

    def probabilities(self, items: ItemTable, examples: RankingExamples) -> np.ndarray:
        """[B, C, T] float32, calibrated."""
        encoded = DeviceTensors(items.encoded)

        def calibrated_batch(batch: dict[str, Tensor]) -> Tensor:
            joined = {**batch, **encoded.join("candidate", batch["candidate_rows"])}
            return self.calibrator(*logits_and_request(self.ranker, self.calibrator.parents, joined))

        return _scored(calibrated_batch, tensors(examples)).numpy()


@dataclass(frozen=True, kw_only=True)
class FittedTask:
    """A trained task, before its calibration."""

    task: RankingTask
    train: RankingExamples
    """with the labels that it learnt from"""
    parents: Parents
    epochs: int
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
        """Fit on `train`; keep the ranker only where one that learnt from `valid` is better on `train` as well.

        What one period rewards the next one may punish: a ranker that is not better twice keeps the order of retrieval.
        """
        of_both: dict[str, Any] = {"seed": seed, "cache": cache}
        trained = self.fit(spec, items, train, valid, trainer=trainer, folder=folder, loggers=loggers, **of_both)
        if trained.gain is None or not trained.epochs:
            return trained
        unseen: dict[str, Any] = {"trainer": trainer.without_report(), "loggers": [], **of_both}  # one fit a curve
        own = folder.with_name(f"{folder.name}_exchanged")
        chosen = self._with_pointwise(taught=trained.taught)
        exchanged = chosen._fitted(spec, items, valid, train, folder=own, epochs=None, **unseen).gain
        if exchanged is None or exchanged.ranker > exchanged.retrieval:
            return replace(trained, exchanged_gain=exchanged)
        own = folder.with_name(f"{folder.name}_untrained")
        untrained = self.fit(spec, items, train, valid, folder=own, epochs=0, **unseen)
        return replace(untrained, gain=trained.gain, exchanged_gain=exchanged)

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
    ) -> "TrainedRanker":
        """Train on `train` and calibrate on `valid`, which lies later: for `epochs`, or as long as it gets better on `valid`.

        taught: what `DistillationWhereBetter` chose in another fit; None to choose. The modules come back on the CPU.
        """
        self.check(spec.objectives, trainer)
        if isinstance(self.pointwise, DistillationWhereBetter):
            options: dict[str, Any] = {"trainer": trainer, "seed": seed, "loggers": loggers, "cache": cache}
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
        return FittedTask(task=task.cpu().eval(), train=train, parents=parents, epochs=epochs, gain=gain)

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
        """Train a task, but keep its first weights where these are no worse; return the epochs, 0 then, and the comparison."""
        compared = epochs is None and self._compares(task.ranker)
        untrained, retrieved = deepcopy(task.ranker.state_dict()), task.ndcg_of_requests() if compared else None
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
        if gain is None or gain.helps(spec.num_objectives):
            return trained, gain
        task.ranker.load_state_dict(untrained)
        return 0, gain

    def _compares(self, ranker: RankerModel) -> bool:
        """Return whether the ranker has the order of retrieval before its training, which may lose that order."""
        return self.watch == "ndcg@10" and self.sampling.logged is None and ranker.retrieval_first

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
        if taught:
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
    scored = [_requests_and_logits(task, one) for one in (train.at(_surveyed(len(train))), valid)]
    all_requests = torch.cat([requests for requests, _, _ in scored])
    means = torch.cat([_mean(logits, present) for _, logits, present in scored])
    known = ~means.isnan().any(1)
    calibrator = Calibrator(all_requests.shape[-1], parents)
    calibrator.intercept.fit(all_requests[known], means[known])
    requests, logits, present = scored[1]
    labels = torch.from_numpy(valid.labels)
    calibrator.fit(logits[present], labels[present], present.nonzero()[:, 0], requests)
    served = logits if valid.positions is None else task.all_logits(_without_positions(tensors(valid)))
    return calibrator, calibrator(served, requests).numpy()


def _without_positions(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch whose candidates all count as at the first position, as they are served."""
    return {name: one for name, one in batch.items() if name != "candidate_positions"}


def _requests_and_logits(task: RankingTask, examples: RankingExamples) -> tuple[Tensor, Tensor, Tensor]:
    """Features of the requests [B, F], logits [B, C, T], and the mask of candidates [B, C]."""
    batch = tensors(examples)
    return task.requests(batch), task.all_logits(batch), batch["candidate_rows"] != PAD


def _mean(logits: Tensor, present: Tensor) -> Tensor:
    """[B, C, T] -> [B, T] over the candidates, NaN where there is none."""
    return (logits * present.unsqueeze(-1)).sum(1) / present.sum(1, keepdim=True)


def _surveyed(num: int) -> np.ndarray:
    """Indices of MAX_SURVEYED requests at most, always the same ones."""
    return np.sort(np.random.default_rng(0).permutation(num)[:MAX_SURVEYED])


@torch.no_grad()
def _scored(score: Callable[[dict[str, Tensor]], Tensor], batch: dict[str, Tensor]) -> Tensor:
    """score(batch) [B, ...] without gradients, float32, in steps of some requests."""
    num_requests, num_candidates = batch["candidate_rows"].shape
    step = max(SCORING_BATCH, SCORING_CELLS // max(1, num_candidates))
    return torch.cat(
        [
            score({name: one[start : start + step] for name, one in batch.items()})
            for start in range(0, num_requests, step)
        ]
    ).float()
