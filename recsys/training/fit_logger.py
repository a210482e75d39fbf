"""Curves of one fit: keys that no other fit of the run has, and statistics that every fit logs.

A run fits the same task several times, for periods, splits, seeds and members. The metric `retrieval/loss` of a task is logged
as `retrieval/split_0/seed_0/validation/loss`.
"""

import resource
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger

from recsys.nn.sparse_embedding import dense_parameters, sparse_tables


@runtime_checkable
class StepAxes(Protocol):
    """Logger that has an axis of steps for each fit; others have steps for each key anyway."""

    def log_fit(self, fit: str, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of a fit, whose keys begin with its name, at one of its steps."""


class FitLogger(Logger):
    """View of a logger for one fit: the name of the fit stands in front of every key."""

    def __init__(self, logger: Logger, fit: str) -> None:
        """fit: its stage, then what tells it from other fits of the stage, e.g. retrieval/split_0/seed_0/validation"""
        super().__init__()
        self.logger: Logger = logger
        self.fit = fit
        if isinstance(logger, FitLogger):
            self.logger, self.fit = logger.logger, f"{logger.fit}/{fit}"

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        named = {self.key(name): value for name, value in metrics.items()}
        if step is not None and isinstance(self.logger, StepAxes):
            self.logger.log_fit(self.fit, named, step)
        else:
            self.logger.log_metrics(named, step)

    def key(self, metric: str) -> str:
        """Return the key of a metric, which a task names with its stage in front and a callback without."""
        stage = self.fit.partition("/")[0]
        return f"{self.fit}/{metric.removeprefix(f'{stage}/')}"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Log nothing: the configuration belongs to the run."""

    def save(self) -> None:
        self.logger.save()

    def finalize(self, status: str) -> None:
        self.logger.finalize(status)

    @property
    def name(self) -> str | None:
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        return self.logger.version

    @property
    def save_dir(self) -> str | None:
        return self.logger.save_dir


def of_fit(loggers: Sequence[Logger], fit: str) -> list[Logger]:
    """Return the views of loggers for a fit, or for a part of one that they are views for."""
    return [FitLogger(logger, fit) for logger in loggers]


class FitStatistics(Callback):
    """Log numbers of parameters, learning rate, norm of the gradients before clipping, and peak memory.

    Embedding tables with an optimiser of their own keep no gradient: the norm is that of the dense parameters.
    """

    def on_train_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        counts: dict[str, float] = {
            "parameters/dense": sum(one.numel() for one in dense_parameters(task)),
            "parameters/sparse": sum(table.weight.numel() for table in sparse_tables(task)),
        }
        for logger in trainer.loggers:
            logger.log_metrics(counts, step=trainer.global_step)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, task: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not trainer.loggers or (trainer.global_step + 1) % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        parameters = [one for group in optimizer.param_groups for one in group["params"]]
        norm = torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
        task.log_dict({"learning_rate": optimizer.param_groups[0]["lr"], "gradient_norm": norm}, on_step=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        memory = {"peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        if task.device.type == "cuda":
            memory["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated(task.device) / 2**20
        task.log_dict(memory, on_step=False, on_epoch=True)
