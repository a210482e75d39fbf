"""Training loop of all tasks: Lightning, shuffled index batches, checkpoints that a rerun resumes from."""

import logging
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import Logger
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.flop_counter import FlopCounterMode

from recsys.errors import ConfigError, check_ranges
from recsys.nn.sparse_embedding import dense_parameters, sparse_tables
from recsys.stores.atomic_files import atomic_file
from recsys.training.optimizers import OptimizerFactory
from recsys.training.pruning import CurveReport, ValidationCurve
from recsys.training.schedules import Schedule

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
GRADIENT_SCALING = ("16-mixed",)
"""precisions with scaled gradients, which `RowWiseAdagradEmbedding` would apply unscaled"""
SPARSE_LR_MULTIPLIER = 100.0
"""row-wise Adagrad divides by the sum of all squared gradients so far, AdamW by a moving average: its steps shrink"""
FINISHED_FILE = "trained.pt"
"""weights and epochs of a finished task"""


class ShuffledBatchSampler(Sampler[np.ndarray]):
    """Index batches of a fresh permutation every epoch, a function of seed and epoch."""

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        yield from (order[start : start + self.batch_size] for start in range(0, self.size, self.batch_size))


class LengthBucketSampler(ShuffledBatchSampler):
    """Batches of examples of similar length, whose lengths sum to about `batch_size`, so that little is padding.

    Examples are sorted by length within random windows of the permutation; the batches come in a random order.
    """

    SHUFFLE_WINDOW = 50
    """batches in a window"""

    def __init__(self, sizes: np.ndarray, batch_size: int, seed: int) -> None:
        super().__init__(len(sizes), batch_size, seed)
        self.sizes = sizes
        self.examples = max(1, round(self.SHUFFLE_WINDOW * batch_size / float(sizes.mean())))

    def __len__(self) -> int:
        """Number of batches, the same in every epoch, as Lightning requires."""
        return sum(self._num(min(self.examples, self.size - start)) for start in range(0, self.size, self.examples))

    def __iter__(self) -> Iterator[np.ndarray]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        windows = (order[start : start + self.examples] for start in range(0, self.size, self.examples))
        batches = [batch for window in windows for batch in self._cut(window)]
        yield from (
            batches[number] for number in np.random.default_rng((self.seed, self.epoch, 1)).permutation(len(batches))
        )

    def _num(self, examples: int) -> int:
        """Number of batches of a window of so many examples."""
        return min(examples, max(1, round(self.SHUFFLE_WINDOW * examples / self.examples)))

    def _cut(self, window: np.ndarray) -> list[np.ndarray]:
        """Split a window into batches of about equal total length, none of them empty."""
        window = window[np.argsort(self.sizes[window], kind="stable")]
        num, totals = self._num(len(window)), np.cumsum(self.sizes[window])
        numbers = np.arange(1, num)
        ends = np.searchsorted(totals, totals[-1] * numbers / num, side="right")
        # ends - numbers may not fall, and batch n ends after at least n examples with enough left for those behind it
        ends = np.maximum.accumulate(np.maximum(ends - numbers, 0)) + numbers
        return np.split(window, np.minimum(ends, len(window) - num + numbers))


class IndexDataset(Dataset[torch.Tensor]):
    """Identity data set of index batches: the tensors live on the device, with the task."""

    def __getitem__(self, index: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(index)


def index_batches(size: int, batch_size: int, seed: int) -> DataLoader:
    return DataLoader(IndexDataset(), sampler=ShuffledBatchSampler(size, batch_size, seed), batch_size=None)


def length_bucket_batches(sizes: np.ndarray, batch_size: int, seed: int) -> DataLoader:
    return DataLoader(IndexDataset(), sampler=LengthBucketSampler(sizes, batch_size, seed), batch_size=None)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimisation settings of every trained model; ConfigError for one out of range."""

    batch_size: int
    """examples a step"""
    epochs: int
    """at most"""
    patience: int
    """epochs without a better validation metric before training stops"""
    learning_rate: float
    weight_decay: float
    optimizer: OptimizerFactory
    """a file of conf/optimizer"""
    scheduler: Schedule
    """a file of conf/scheduler"""

    group: ClassVar[str]
    """configuration group, for errors"""

    def __post_init__(self) -> None:
        check_ranges(
            self.group,
            batch_size=(self.batch_size, 1, 1_000_000),
            epochs=(self.epochs, 1, 10_000),
            patience=(self.patience, 1, 10_000),
            learning_rate=(self.learning_rate, 1e-7, 1.0),
            weight_decay=(self.weight_decay, 0.0, 1.0),
        )

    def configure_optimizers(self, task: pl.LightningModule, steps: int) -> dict[str, Any]:
        """Optimiser of the dense parameters with its schedule over `steps`, in Lightning's form."""
        optimiser = self.optimizer(
            parameters=dense_parameters(task),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            fused="mixed" not in task.trainer.precision,
        )
        factor = partial(_factor, self.scheduler, steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _factor(schedule: Schedule, steps: int, step: int) -> float:
    return schedule(step=step, steps=steps)


class Throughput(Callback):
    """Log examples a second of each epoch, without validation, and print model FLOPs utilisation at the end.

    The floating point operations of the first step, forward and backward, are counted; their rate is divided by that of a
    plain matrix product (MFU, Chowdhery et al., PaLM, 2022).
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.rates: list[float] = []
        self.counter: FlopCounterMode | None = FlopCounterMode(display=False)
        self.flops = 0.0
        """of an example"""

    def on_train_batch_start(self, trainer: pl.Trainer, task: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self.device = task.device
        if self.counter:
            self.counter.__enter__()

    def on_train_epoch_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.examples = 0
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: torch.Tensor, batch_idx: int
    ) -> None:
        if self.counter:
            self.counter.__exit__(None, None, None)
            self.flops = self.counter.get_total_flops() / max(1, outputs["examples"])
            self.counter = None
        self.examples += outputs["examples"]
        if trainer.is_last_batch:
            if task.device.type == "cuda":
                torch.cuda.synchronize()
            self.rates.append(self.examples / (time.perf_counter() - self.start))
            task.log(f"{self.name}/examples_per_second", self.rates[-1], on_step=False, on_epoch=True)

    def on_fit_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if self.rates:
            rate = float(np.mean(self.rates))
            used = self.flops * rate / matmul_flops(self.device, trainer.precision)
            print(
                f"{self.name}: {len(self.rates)} epochs, {rate:,.0f} examples/s on {self.device.type}, "
                f"{self.flops * rate / 1e9:,.1f} GFLOP/s, MFU {used:.0%}"
            )


class SparseLearningRate(Callback):
    """Set the learning rate of row-wise Adagrad tables to SPARSE_LR_MULTIPLIER times that of the optimiser."""

    def on_train_batch_start(self, trainer: pl.Trainer, task: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        for table in sparse_tables(task):
            table.learning_rate = SPARSE_LR_MULTIPLIER * trainer.optimizers[0].param_groups[0]["lr"]


class CompileTrainingStep(Callback):
    """Compile training_step after step 1: FLOP counting in step 1 does not work under torch.compile."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if "training_step" not in vars(task):
            vars(task)["training_step"] = torch.compile(task.training_step, dynamic=True)


@cache
def matmul_flops(device: torch.device, precision: str) -> float:
    """Floating point operations a second of a square matrix product, the best of five."""
    size = 8192 if device.type == "cuda" else 1024
    matrix = torch.ones(size, size, device=device, dtype=torch.bfloat16 if "bf16" in precision else torch.float32)
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class Trainer:
    """Device, precision and callbacks of training; one instance for all tasks of a run."""

    def __init__(
        self,
        *,
        accelerator: str,
        precision: str,
        compile: bool,
        progress: bool,
        threads: int,
        callbacks: Mapping[str, Callback | None],
    ) -> None:
        """
        accelerator: cpu or cuda
        precision: as in Lightning, "32-true" or "bf16-mixed"
        threads: torch threads on the CPU, 0 leaves torch's own choice
        compile: training steps by torch.compile, which costs a minute or two at the start
        progress: show a progress bar
        callbacks: further Lightning callbacks by name, a copy for every task; None leaves one out
        """
        if accelerator not in ("cpu", "cuda"):
            raise ConfigError(f"trainer.accelerator is {accelerator!r}; choose cpu or cuda")
        if accelerator == "cuda" and not torch.cuda.is_available():
            raise ConfigError("trainer.accelerator is cuda, but torch finds no CUDA device here; use trainer=cpu")
        if precision not in PRECISIONS:
            raise ConfigError(f"trainer.precision is {precision!r}; choose one of {', '.join(PRECISIONS)}")
        check_ranges("trainer", threads=(threads, 0, 1_024))
        if threads:
            torch.set_num_threads(threads)
        self.accelerator = accelerator
        self.precision = precision
        self.compile = compile
        self.progress = progress
        self.callbacks = [callback for callback in callbacks.values() if callback is not None]
        self.report: CurveReport | None = None
        """receives the validation curves of a trial of a search"""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that decide what is trained, with the callbacks: the part of a cache key."""
        return {"precision": self.precision, "accelerator": self.accelerator, "callbacks": self.callbacks}

    def without_progress(self) -> "Trainer":
        """Return a copy without a progress bar and a report, for a worker."""
        trainer = copy(self)
        trainer.progress, trainer.report = False, None
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
        if self.precision in GRADIENT_SCALING and any(sparse_tables(task)):
            raise ConfigError(
                f"trainer.precision {self.precision} is too coarse for large tables; choose bf16-mixed or 32-true"
            )
        last = ModelCheckpoint(dirpath=folder, filename="last", enable_version_counter=False)
        best = ModelCheckpoint(
            dirpath=folder, filename="best", monitor=monitor, mode="max", enable_version_counter=False
        )
        stop = [best, EarlyStopping(monitor=monitor, mode="max", patience=patience)] if monitor else []
        curve = [ValidationCurve(monitor, self.report)] if monitor and self.report is not None else []
        steps: list[Callback] = [
            SparseLearningRate(),
            Throughput(folder.name),
            *([CompileTrainingStep()] if self.compile else []),
        ]
        steps += deepcopy(self.callbacks)
        trainer = self._trainer([last, *stop, *steps, *curve], loggers, epochs)
        resume = folder / "last.ckpt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                trainer.fit(task, train, valid, ckpt_path=resume if resume.is_file() else None, weights_only=False)
            except SystemExit:  # Lightning makes this of a KeyboardInterrupt
                raise KeyboardInterrupt from None
            finally:
                vars(task).pop("training_step", None)
        if best.best_model_path:
            epochs = _restore(task, Path(best.best_model_path)) + 1
        write_finished(task, folder / FINISHED_FILE, epochs)
        return epochs

    def _trainer(self, callbacks: Sequence[Callback], loggers: Sequence[Logger], epochs: int) -> pl.Trainer:
        logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
        progress: list[Callback] = [RichProgressBar(leave=False)] if self.progress else []
        options: dict[str, Any] = {"accelerator": self.accelerator, "devices": 1, "precision": self.precision}
        return pl.Trainer(
            **options,
            max_epochs=epochs,
            callbacks=[*callbacks, *progress],
            logger=list(loggers),
            enable_progress_bar=self.progress,
            enable_model_summary=False,
            gradient_clip_val=1.0,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
            reload_dataloaders_every_n_epochs=0,
        )


def write_finished(task: pl.LightningModule, file: Path, epochs: int) -> None:
    """Write the weights and epochs of a finished task atomically."""
    with atomic_file(file) as draft:
        torch.save({"state_dict": task.state_dict(), "epoch": epochs}, draft)


def _restore(task: pl.LightningModule, file: Path) -> int:
    """Load the weights of a checkpoint and return its epoch."""
    kept = torch.load(file, map_location="cpu", weights_only=True)
    task.load_state_dict(kept["state_dict"])
    return int(kept["epoch"])
