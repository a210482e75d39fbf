"""The one way a task is trained: Lightning, tensors sliced by permutation, checkpoints that a rerun resumes from."""

import logging
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from copy import copy
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
from recsys.nn.rows import dense_parameters, sparse_tables

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
NOT_FOR_LARGE_TABLES = ("16-mixed",)
"""it scales gradients"""
FASTER = 100.0
"""row-wise Adagrad divides by all gradients so far, AdamW by the newest"""
TRAINED = "trained.pt"
"""weights and epochs of a finished task"""


class Permutation(Sampler[np.ndarray]):
    """Index batches of a fresh permutation every epoch; epoch e of seed s is always the same one."""

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this, also after a resume."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[np.ndarray]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        yield from (order[start : start + self.batch_size] for start in range(0, self.size, self.batch_size))


class Buckets(Permutation):
    """Batches of examples of like sizes, each holding about `batch_size` of them by size: little padding is computed.

    Sizes are sorted within random stretches of the permutation, the batches come in a random order.
    """

    STRETCH = 50
    """batches that are sorted together"""

    def __init__(self, sizes: np.ndarray, batch_size: int, seed: int) -> None:
        super().__init__(len(sizes), batch_size, seed)
        self.sizes = sizes
        self.examples = max(1, round(self.STRETCH * batch_size / float(sizes.mean())))

    def __len__(self) -> int:
        """The same in every epoch, as Lightning wants it."""
        return sum(self._num(min(self.examples, self.size - start)) for start in range(0, self.size, self.examples))

    def __iter__(self) -> Iterator[np.ndarray]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        stretches = (order[start : start + self.examples] for start in range(0, self.size, self.examples))
        batches = [batch for stretch in stretches for batch in self._cut(stretch)]
        yield from (
            batches[place] for place in np.random.default_rng((self.seed, self.epoch, 1)).permutation(len(batches))
        )

    def _num(self, examples: int) -> int:
        """Batches that a stretch of so many examples is cut into."""
        return min(examples, max(1, round(self.STRETCH * examples / self.examples)))

    def _cut(self, stretch: np.ndarray) -> list[np.ndarray]:
        """Batches of about equal size, none of them empty."""
        stretch = stretch[np.argsort(self.sizes[stretch], kind="stable")]
        num, upto = self._num(len(stretch)), np.cumsum(self.sizes[stretch])
        places = np.arange(1, num)
        ends = np.searchsorted(upto, upto[-1] * places / num, side="right")
        ends = np.maximum.accumulate(np.maximum(ends - places, 0)) + places
        return np.split(stretch, np.minimum(ends, len(stretch) - num + places))


class Indices(Dataset[torch.Tensor]):
    """An index batch is its own example: the tensors live with the task, on its device."""

    def __getitem__(self, index: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(index)


def index_batches(size: int, batch_size: int, seed: int) -> DataLoader:
    return DataLoader(Indices(), sampler=Permutation(size, batch_size, seed), batch_size=None)


def bucket_batches(sizes: np.ndarray, batch_size: int, seed: int) -> DataLoader:
    return DataLoader(Indices(), sampler=Buckets(sizes, batch_size, seed), batch_size=None)


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """The knobs that every trained model has; ConfigError for one out of range."""

    batch_size: int
    """examples a step"""
    epochs: int
    """at most"""
    patience: int
    """epochs without a better validation figure before training stops"""
    learning_rate: float
    weight_decay: float

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

    def optimisation(self, task: pl.LightningModule, steps: int) -> dict[str, Any]:
        """What Lightning steps by; after `steps` the learning rate is down to nothing.

        In mixed precision Lightning clips no gradients of fused optimisers.
        """
        options: dict[str, Any] = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        optimiser = torch.optim.AdamW(dense_parameters(task), fused="mixed" not in task.trainer.precision, **options)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(warm_cosine, steps=steps))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def warm_cosine(step: int, *, steps: int) -> float:
    """Share of the learning rate: up within the first twentieth, then down a half cosine (Loshchilov & Hutter 2017)."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm)))


class Throughput(Callback):
    """Logs examples a second of each epoch, validation left out, and prints at the end what the device made of it.

    The floating point operations of the first step, forward and backward, are counted for an example; their rate is
    held against that of a plain matrix product (model FLOPs utilisation, Chowdhery et al., PaLM, 2022).
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


class SparseRates(Callback):
    """Tells tables that move themselves how fast to learn: as the rest does, FASTER times."""

    def on_train_batch_start(self, trainer: pl.Trainer, task: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        for table in sparse_tables(task):
            table.rate = FASTER * trainer.optimizers[0].param_groups[0]["lr"]


class Compiled(Callback):
    """Steps by torch.compile from the second on; the operations of the first are counted, which no compiler stands."""

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


class Loop:
    """Where and how to train; one instance serves all tasks of a run."""

    def __init__(self, *, accelerator: str, precision: str, compile: bool, progress: bool, threads: int) -> None:
        """
        accelerator: cpu or cuda
        precision: as in Lightning, "32-true" or "bf16-mixed"
        threads: torch threads on the CPU, 0 leaves torch's own choice
        compile: training steps by torch.compile, whose first minute or two must be earned back
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

    def quiet(self) -> "Loop":
        """The same without a progress bar."""
        loop = copy(self)
        loop.progress = False
        return loop

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
        """Train up to `epochs`; with `monitor` (larger is better) stop early and keep the best epoch's weights.

        The same folder again: a finished task is read back, an interrupted one goes on from its last checkpoint.
        Returns the epochs that the kept weights were trained for.
        """
        if (folder / TRAINED).is_file():
            return _restore(task, folder / TRAINED)
        if self.precision in NOT_FOR_LARGE_TABLES and any(sparse_tables(task)):
            raise ConfigError(
                f"trainer.precision {self.precision} is too coarse for large tables; choose bf16-mixed or 32-true"
            )
        last = ModelCheckpoint(dirpath=folder, filename="last", enable_version_counter=False)
        best = ModelCheckpoint(
            dirpath=folder, filename="best", monitor=monitor, mode="max", enable_version_counter=False
        )
        stop = [best, EarlyStopping(monitor=monitor, mode="max", patience=patience)] if monitor else []
        steps = [SparseRates(), Throughput(folder.name), *([Compiled()] if self.compile else [])]
        trainer = self._trainer([last, *stop, *steps], loggers, epochs)
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
        draft = folder / f"{TRAINED}.draft"
        torch.save({"state_dict": task.state_dict(), "epoch": epochs}, draft)
        draft.rename(folder / TRAINED)
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


def _restore(task: pl.LightningModule, file: Path) -> int:
    """Load the weights of a checkpoint; returns its epoch."""
    kept = torch.load(file, map_location="cpu", weights_only=False)
    task.load_state_dict(kept["state_dict"])
    return int(kept["epoch"])
