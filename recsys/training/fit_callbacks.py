"""Lightning callbacks of fits: an exact resume, the rates of large tables, compiled steps, throughput, progress and pruning."""

import math
import random
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.utils.flop_counter import FlopCounterMode

from recsys.nn import parallel
from recsys.nn.sparse_embedding import sparse_tables
from recsys.progress import Progress
from recsys.training.batches import BatchSampler
from recsys.training.pruning import CurveReport, PrunedError
from recsys.training.run_log import announce

SPARSE_LR_MULTIPLIER = 100.0
"""row-wise Adagrad divides by the sum of all squared gradients so far, AdamW by a moving average: its steps shrink"""


class ExactResume(Callback):
    """Continue a fit with the batches and the random numbers that an interruption kept from it.

    Every checkpoint holds how many batches of the epoch are done and the states of all generators. With `every` a checkpoint
    is also written within an epoch, after as many optimiser steps.
    """

    def __init__(self, file: Path, every: int | None) -> None:
        self.file, self.every = file, every
        self.batches = self.saved_step = 0
        self.resumed: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches, "random": parallel.from_all(_random_states())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.resumed = state_dict

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.saved_step = trainer.global_step
        if self.resumed is None:  # a new fit, or a checkpoint of an earlier version
            return
        loader, self.batches = trainer.train_dataloader, self.resumed["batches"]
        assert loader is not None
        _set_random_states(self.resumed["random"])
        if self.batches:
            assert isinstance(loader.sampler, BatchSampler)
            loader.sampler.trained = self.batches
        else:
            # draws a seed, as at the start of every epoch: Lightning drew its own before the states were set
            iter(loader)

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches = 0 if trainer.is_last_batch else batch_idx + 1
        due = self.every and trainer.global_step - self.saved_step >= self.every
        if due and self.batches and self._resumable(trainer):
            self.saved_step = trainer.global_step
            trainer.save_checkpoint(self.file)

    def _resumable(self, trainer: pl.Trainer) -> bool:
        """Whether no accumulated gradient and no validation of this batch would be lost."""
        every = trainer.val_check_batch
        return not self.batches % trainer.accumulate_grad_batches and (every is None or bool(self.batches % every))


def _random_states() -> dict[str, Any]:
    """Return the states of all global generators; numpy's is not used."""
    states: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_initialized() else {})


def _set_random_states(kept: list[dict[str, Any]] | dict[str, Any]) -> None:
    """Set the states of this process; one more than wrote the checkpoint keeps its own."""
    of_all = [kept] if isinstance(kept, dict) else kept  # as earlier versions wrote it
    if parallel.process_number() >= len(of_all):
        return
    states = of_all[parallel.process_number()]
    random.setstate(states["python"])
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


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

    def state_dict(self) -> dict[str, Any]:
        return {"flops": self.flops}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.flops, self.counter = state_dict["flops"], None

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.on_train_epoch_start(trainer, task)  # not called where a fit is resumed within an epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.examples = 0
        self.start = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, task: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self.device = task.device
        if self.counter:
            self.counter.__enter__()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: torch.Tensor, batch_idx: int
    ) -> None:
        if self.counter:
            self.counter.__exit__(None, None, None)
            self.flops = self.counter.get_total_flops() / max(1, outputs["examples"])
            self.counter = None
        self.examples += outputs["examples"] * trainer.world_size
        if trainer.is_last_batch:
            if task.device.type == "cuda":
                torch.cuda.synchronize()
            self.rates.append(self.examples / (time.perf_counter() - self.start))
            task.log("examples_per_second", self.rates[-1], on_step=False, on_epoch=True)

    def on_fit_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if self.rates and trainer.is_global_zero:
            rate = float(np.mean(self.rates))
            used = self.flops * rate / trainer.world_size / matmul_flops(self.device, trainer.precision)
            announce(
                f"{self.name}: {len(self.rates)} epochs, {rate:,.0f} examples/s on {self.device.type}, "
                f"{self.flops * rate / 1e9:,.1f} GFLOP/s, MFU {used:.0%}"
            )


class TrainingLoss(Callback):
    """Print the last training loss, by which a fit on repeated batches is judged."""

    def __init__(self, name: str) -> None:
        self.name, self.loss = name, math.nan

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.loss = float(parallel.averaged(outputs["loss"])) * trainer.accumulate_grad_batches

    def on_fit_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            announce(
                f"{self.name}: training loss {self.loss:.4f} after {trainer.current_epoch} epochs of the same batches"
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


class ReportBatches(Callback):
    """Report the batches of all epochs, where there is no terminal for Lightning's own bar."""

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress, self.name = progress, name

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert trainer.max_epochs is not None
        done = trainer.current_epoch * trainer.num_training_batches + batch_idx + 1
        self.progress(int(done), int(trainer.max_epochs * trainer.num_training_batches), self.name)


class ValidationCurve(Callback):
    """Report the monitored metric after every validation; PrunedError where the report says so."""

    def __init__(self, monitor: str, report: CurveReport) -> None:
        self.monitor, self.report = monitor, report

    def on_validation_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        value, epoch = float(trainer.callback_metrics[self.monitor]), trainer.current_epoch
        if self.report(self.monitor, epoch, value):
            raise PrunedError(self.monitor, epoch + 1, value)


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
