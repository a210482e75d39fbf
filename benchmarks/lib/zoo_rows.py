"""Rows of a long comparison, written one by one so that a run goes on where an earlier one stopped, and its budget."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from benchmarks.lib.result_file import ROOT
from recsys.training.trainer import Trainer, cpu_trainer

Row = dict[str, Any]
KEY = ("part", "data", "model", "seed", "budget_s")
"""columns that tell rows apart"""


@dataclass(frozen=True, kw_only=True)
class RowFile:
    """One JSON document a line; a line that a crash cut short is left out."""

    file: Path

    def rows(self) -> list[Row]:
        """Return the newest row of each key, in the order of the keys' first lines."""
        return list({key_of(row): row for row in self._lines()}.values())

    def _lines(self) -> Iterator[Row]:
        if not self.file.is_file():
            return
        for line in self.file.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue

    def add(self, row: Row) -> None:
        """Append a row; it is on the disk when this returns."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as lines:
            if lines.tell() and not self.file.read_bytes().endswith(b"\n"):
                lines.write("\n")
            lines.write(json.dumps(row, allow_nan=False) + "\n")
            lines.flush()
            os.fsync(lines.fileno())


def choices(group: str, default: str | None = None) -> list[str]:
    """Return the overrides of all files of a group of conf/ but the default."""
    names = sorted(file.stem for file in (ROOT / "conf" / group).glob("*.yaml"))
    return [f"{group}={name}" for name in names if name != default]


def key_of(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEY)


class CpuBudget(pl.Callback):
    """End a training once its steps have used so many CPU seconds; validation does not count."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.used = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, task: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self.start = time.process_time()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.used += time.process_time() - self.start
        trainer.should_stop |= self.used >= self.seconds


def budgeted(seconds: float) -> Trainer:
    """Return the loop of a training on one core of at most so many CPU seconds."""
    return cpu_trainer(threads=1, callbacks={"budget": CpuBudget(seconds)})
