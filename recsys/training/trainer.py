"""Training loop of all tasks: Lightning, shuffled index batches, checkpoints that a rerun resumes from."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import Logger
from rich.console import Console
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from recsys.errors import ConfigError, check_ranges
from recsys.nn import parallel
from recsys.nn.sharded_table import ShardedTable, join_tables, shard_tables
from recsys.nn.sparse_embedding import dense_parameters, sparse_tables
from recsys.stores.atomic_files import atomic_file
from recsys.training import processes
from recsys.training.batches import BatchSampler, repeated_batches
from recsys.training.fit_callbacks import (
    CompileTrainingStep,
    ExactResume,
    ReportBatches,
    SparseLearningRate,
    Throughput,
    TrainingLoss,
    ValidationCurve,
)
from recsys.training.fit_logger import FitStatistics
from recsys.training.optimizers import OptimizerFactory, build_optimizer, check_optimizer
from recsys.training.progress import ProgressDisplay, is_live
from recsys.training.pruning import CurveReport
from recsys.training.run_log import announce
from recsys.training.schedules import ScheduleFactory, build_schedule, check_schedule
from recsys.training.trainer_options import (
    DEFAULT_OPTIONS,
    check_accelerator,
    check_devices,
    check_options,
    lightning_trainer,
    profiles,
)

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
GRADIENT_SCALING = ("16-mixed",)
"""precisions with scaled gradients, which `RowWiseAdagradEmbedding` would apply unscaled"""
FINISHED_FILE = "trained.pt"
"""weights and epochs of a finished task"""
LAST_FILE = "last.ckpt"
"""checkpoint that an interrupted fit resumes from"""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimisation settings of every trained model; ConfigError for one out of range."""

    batch_size: int
    """examples a step"""
    epochs: int
    """at most"""
    most_examples: int | None
    """examples that a fit learns from, over its epochs: larger data get fewer epochs, one at least; None sets no limit"""
    patience: int
    """epochs without a better validation metric before training stops"""
    learning_rate: float
    weight_decay: float
    optimizer: OptimizerFactory
    """a file of conf/optimizer, or a class of torch.optim"""
    scheduler: ScheduleFactory
    """a file of conf/scheduler, or a class of torch.optim.lr_scheduler"""

    group: ClassVar[str]
    """configuration group, for errors"""

    def __post_init__(self) -> None:
        check_ranges(
            self.group,
            batch_size=(self.batch_size, 1, 1_000_000),
            epochs=(self.epochs, 1, 10_000),
            most_examples=(self.most_examples or 1, 1, 10**12),
            patience=(self.patience, 1, 10_000),
            learning_rate=(self.learning_rate, 1e-7, 1.0),
            weight_decay=(self.weight_decay, 0.0, 1.0),
        )

        optimizer = check_optimizer(self.group, self.optimizer, self.learning_rate, self.weight_decay)
        check_schedule(self.group, self.scheduler, optimizer, self.learning_rate)

    def for_examples(self, num: int, epochs: int | None) -> Self:
        """Return the configuration with the epochs that `most_examples` leaves to so many examples.

        epochs: of a fit without early stopping, which the schedule is not shorter than; None with it
        """
        if self.most_examples is None:
            return self
        return replace(self, epochs=min(self.epochs, max(epochs or 1, self.most_examples // max(1, num))))

    def configure_optimizers(self, task: pl.LightningModule) -> dict[str, Any]:
        """Optimiser of the dense parameters with its schedule over the steps of all epochs, in Lightning's form.

        Stopping early and fits of fewer epochs do not shorten the schedule.
        """
        trainer = task.trainer
        assert trainer.max_epochs is not None
        steps = int(trainer.estimated_stepping_batches) // trainer.max_epochs * self.epochs
        optimizer = build_optimizer(
            self.optimizer,
            dense_parameters(task),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            fused="mixed" not in trainer.precision,
        )
        schedule = build_schedule(self.scheduler, optimizer, steps=steps, learning_rate=self.learning_rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Trainer:
    """Device, precision, options and callbacks of training; one instance for all tasks of a run."""

    def __init__(
        self,
        *,
        accelerator: str,
        precision: str,
        compile: bool,
        progress: bool,
        threads: int,
        checkpoint_steps: int | None,
        callbacks: Mapping[str, Callback | None] | Sequence[Callback],
        options: Mapping[str, Any],
    ) -> None:
        """
        accelerator: cpu or cuda
        precision: as in Lightning, "32-true" or "bf16-mixed"
        threads: torch threads on the CPU, 0 leaves torch's own choice
        compile: training steps by torch.compile, which costs a minute or two at the start
        progress: show a progress bar
        checkpoint_steps: optimiser steps between checkpoints within an epoch; None writes one at the end of each epoch
        callbacks: further Lightning callbacks, a copy for every task; None leaves one out
        options: further arguments of Lightning's Trainer
        """
        check_accelerator(accelerator)
        if precision not in PRECISIONS:
            raise ConfigError(f"trainer.precision is {precision!r}; choose one of {', '.join(PRECISIONS)}")
        every = 1 if checkpoint_steps is None else checkpoint_steps
        check_ranges("trainer", threads=(threads, 0, 1_024), checkpoint_steps=(every, 1, 10**9))
        check_options(options)
        check_devices(accelerator, options.get("devices", 1))
        if threads:
            torch.set_num_threads(threads)
        self.accelerator = accelerator
        self.precision = precision
        self.compile = compile
        self.display = ProgressDisplay(shown=progress)
        self.checkpoint_steps = checkpoint_steps
        self.callbacks = _checked(callbacks)
        self.options = dict(options)
        self.num_processes = processes.processes_of(options.get("devices", 1))
        """that a fit is shared by"""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come with the fit
            self._lightning([], [], folder=Path(), epochs=1, alone=True)  # a wrong value fails before the data are read
        self.report: CurveReport | None = None
        """receives the validation curves of a trial of a search"""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that decide what is trained, with the callbacks: a part of the cache keys of fits."""
        device = {"precision": self.precision, "accelerator": self.accelerator}
        return {**device, "callbacks": self.callbacks, "options": self.options}

    @property
    def progress(self) -> bool:
        """Return whether progress is shown, of a fit and by `display` of all other work."""
        return self.display.shown

    def without_progress(self) -> "Trainer":
        """Return a copy without progress and a report, for a worker."""
        trainer = copy(self)
        trainer.display, trainer.report = ProgressDisplay(shown=False), None
        return trainer

    def without_report(self) -> "Trainer":
        """Return a copy whose validation curves go to no search."""
        trainer = copy(self)
        trainer.report = None
        return trainer

    def fit(
        self,
        task: pl.LightningModule,
        *,
        train: DataLoader,
        valid: DataLoader | None,
        folder: Path,
        epochs: int,
        patience: int,
        monitor: str | None,
        loggers: Sequence[Logger],
    ) -> int:
        """Train for up to `epochs`; with `monitor` (larger is better) stop early and keep the best epoch's weights.

        With the same folder again a finished task is read back and an interrupted one resumes from its last checkpoint.
        Returns the epoch of the kept weights, counted from 1.
        """
        if (folder / FINISHED_FILE).is_file():
            return _restore(task, folder / FINISHED_FILE)
        self._check(task, epochs if monitor else None)
        self.display.close()
        part: dict[str, Any] = {"train": train, "valid": valid, "folder": folder, "epochs": epochs}
        part |= {"patience": patience, "monitor": monitor}
        if self.num_processes == 1:
            best = self._fit_part(task, **part, loggers=loggers)
        else:
            of_others = self.without_progress()
            job = partial(of_others._fit_part, task, **part, loggers=[], seed=torch.initial_seed())
            with processes.others(self.num_processes, self.accelerator).take_part(job, folder):
                best = self._fit_part(task, **part, loggers=loggers)
        for file in profiles(folder):
            announce(f"{folder.name}: profile in {file}")
        if best:
            epochs = _restore(task, Path(best)) + 1
        write_finished(task, folder / FINISHED_FILE, epochs)
        return epochs

    def _fit_part(
        self,
        task: pl.LightningModule,
        *,
        train: DataLoader,
        valid: DataLoader | None,
        folder: Path,
        epochs: int,
        patience: int,
        monitor: str | None,
        loggers: Sequence[Logger],
        seed: int | None = None,
    ) -> str:
        """Train this process's part of a fit; return the file of the best epoch, "" without `monitor`.

        seed: of the first process, from which one that was sent here draws differently
        """
        if seed is not None:
            torch.manual_seed(seed + 1 + dist.get_rank())
        best = ModelCheckpoint(
            dirpath=folder, filename="best", monitor=monitor, mode="max", enable_version_counter=False
        )
        stop = [best, EarlyStopping(monitor=monitor, mode="max", patience=patience)] if monitor else []
        curve = [ValidationCurve(monitor, self.report)] if monitor and self.report is not None else []
        trainer = self._lightning([*self._callbacks(folder), *stop, *curve, _last(folder)], loggers, folder, epochs)
        repeated = self.options.get("overfit_batches", 0)
        batches = repeated_batches(train, repeated) if repeated else train
        with parallel.shared_fit() if self.num_processes > 1 else nullcontext():
            self._run(trainer, task, batches, valid, folder / LAST_FILE)
        return best.best_model_path

    def _check(self, task: pl.LightningModule, monitored_epochs: int | None) -> None:
        """Raise ConfigError where a task cannot be trained by these settings."""
        if self.precision in GRADIENT_SCALING and any(sparse_tables(task)):
            raise ConfigError(
                f"trainer.precision {self.precision} is too coarse for large tables; choose bf16-mixed or 32-true"
            )
        every = self.options.get("check_val_every_n_epoch", 1)
        if monitored_epochs is not None and every > monitored_epochs:
            raise ConfigError(
                f"trainer.options.check_val_every_n_epoch is {every}, but there are {monitored_epochs} epochs; "
                "choose as many at most, since validation selects the epoch"
            )

    def _run(
        self, trainer: pl.Trainer, task: pl.LightningModule, train: DataLoader, valid: DataLoader | None, last: Path
    ) -> None:
        """Fit a task from its last checkpoint on."""
        resume = last if last.is_file() and not self.options.get("fast_dev_run") else None
        if resume is not None:
            kept = torch.load(resume, map_location="cpu", weights_only=False, mmap=True)  # nosec B614: as Lightning reads it
            _check_fits(task, kept, resume)
        if self.num_processes > 1:
            _share(task, train)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                trainer.fit(task, train, valid, ckpt_path=resume, weights_only=False)
                join_tables(task)
            except SystemExit:  # Lightning makes this of a KeyboardInterrupt
                raise KeyboardInterrupt from None
            finally:
                vars(task).pop("training_step", None)
                self.display.close()

    def _callbacks(self, folder: Path) -> list[Callback]:
        """Build the callbacks of one fit beside those that select its epoch."""
        own: list[Callback] = [
            ExactResume(folder / LAST_FILE, self.checkpoint_steps),
            SparseLearningRate(),
            Throughput(folder.name),
            FitStatistics(),
        ]
        own += [processes.EndBySignal()] if self.num_processes > 1 else []
        own += [CompileTrainingStep()] if self.compile else []
        own += [TrainingLoss(folder.name)] if self.options.get("overfit_batches") else []
        if self.progress:
            own.append(RichProgressBar(leave=False) if is_live(Console()) else ReportBatches(self.display, folder.name))
        return own + deepcopy(self.callbacks)

    def _lightning(
        self, callbacks: Sequence[Callback], loggers: Sequence[Logger], folder: Path, epochs: int, alone: bool = False
    ) -> pl.Trainer:
        """alone: without the other processes, to check options"""
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        several = {} if self.num_processes == 1 else {"devices": 1} if alone else processes.strategy(self.accelerator)
        return lightning_trainer(
            {**self.options, **several},
            folder,
            accelerator=self.accelerator,
            precision=self.precision,
            max_epochs=epochs,
            callbacks=list(callbacks),
            logger=list(loggers),
            enable_progress_bar=any(isinstance(one, RichProgressBar) for one in callbacks),
        )


def _share(task: pl.LightningModule, train: DataLoader) -> None:
    """Give this process its part of the batches, and its rows of large tables, whose gradients are no part of DDP."""
    assert isinstance(train.sampler, BatchSampler)
    train.sampler.process, train.sampler.num_processes = parallel.process_number(), parallel.num_processes()
    shard_tables(task)
    owned = [name for name, module in task.named_modules() if isinstance(module, ShardedTable)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(task, [f"{name}.weight" for name in owned])


def write_finished(task: pl.LightningModule, file: Path, epochs: int) -> None:
    """Write the weights and epochs of a finished task atomically."""
    with atomic_file(file) as draft:
        torch.save({"state_dict": task.state_dict(), "epoch": epochs}, draft)


def cpu_trainer(**changed: Any) -> Trainer:
    """Build the trainer of conf/trainer/cpu.yaml, without progress, for models that are trained without conf/."""
    settings: dict[str, Any] = {"accelerator": "cpu", "precision": "32-true", "compile": False, "progress": False}
    settings |= {"threads": 0, "checkpoint_steps": None, "callbacks": {}, "options": DEFAULT_OPTIONS}
    return Trainer(**(settings | changed))


def _last(folder: Path) -> ModelCheckpoint:
    """Checkpoint of each epoch that a rerun resumes from; it comes after that of the best epoch, whose score it holds."""
    return ModelCheckpoint(
        dirpath=folder, filename=Path(LAST_FILE).stem, save_on_train_epoch_end=True, enable_version_counter=False
    )


def _checked(given: Mapping[str, Callback | None] | Sequence[Callback]) -> list[Callback]:
    named = given if isinstance(given, Mapping) else {str(number): one for number, one in enumerate(given)}
    for name, callback in named.items():
        if not isinstance(callback, Callback | None):
            raise ConfigError(
                f"trainer.callbacks.{name} is {callback!r}; give a callback of Lightning's by _target_, or null"
            )
    return [callback for callback in named.values() if callback is not None]


def _restore(task: pl.LightningModule, file: Path) -> int:
    """Load the weights of a checkpoint and return its epoch."""
    kept = torch.load(file, map_location="cpu", weights_only=True)
    _check_fits(task, kept, file)
    task.load_state_dict(kept["state_dict"])
    return int(kept["epoch"])


def _check_fits(task: pl.LightningModule, kept: Mapping[str, Any], file: Path) -> None:
    """Raise ConfigError for a checkpoint of other weights, as other versions of the code or of the data write them."""
    stored, parameters = (
        kept["state_dict"],
        dict(task.named_parameters()),
    )  # some buffers, as those of trees, change their size
    names = task.state_dict().keys() ^ stored.keys()
    if differing := sorted(
        names | {name for name in parameters.keys() & stored if parameters[name].shape != stored[name].shape}
    ):
        raise ConfigError(
            f"{file} cannot be resumed: {differing[0]} is not as in this version of the code and of the data; "
            "train in a new folder, or remove this one"
        )
