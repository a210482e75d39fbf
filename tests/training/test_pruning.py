"""Validation curves: what a training reports after each epoch, and that a report may end it."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from recsys.training.batches import index_batches
from recsys.training.pruning import PrunedError
from recsys.training.trainer import Trainer, cpu_trainer

SCORES = (0.1, 0.3, 0.2, 0.25)


class Scored(pl.LightningModule):
    """Task whose validation gives SCORES, one an epoch; fails at an epoch where that is given."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.fails_at = fails_at

    def training_step(self, indices: torch.Tensor) -> dict[str, Any]:
        if self.current_epoch == self.fails_at:
            raise KeyboardInterrupt
        return {"loss": self.weight**2, "examples": len(indices)}

    def validation_step(self, _: torch.Tensor) -> None:
        self.log("ranking/score", SCORES[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Reports(list[tuple[str, int, float]]):
    """Curve of a training; ends it at an epoch."""

    def __init__(self, ends_at: int | None = None) -> None:
        super().__init__()
        self.ends_at = ends_at

    def __call__(self, metric: str, epoch: int, value: float) -> bool:
        self.append((metric, epoch, pytest.approx(value)))
        return epoch == self.ends_at


def trainer(report: Reports) -> Trainer:
    made = cpu_trainer()
    made.report = report
    return made


def fit(trainer: Trainer, folder: Path, *, validated: bool = True, fails_at: int | None = None) -> int:
    return trainer.fit(
        Scored(fails_at),
        train=index_batches(4, 2, 0),
        valid=index_batches(1, 1, 0) if validated else None,
        folder=folder,
        epochs=len(SCORES),
        patience=10,
        monitor="ranking/score" if validated else None,
        loggers=[],
    )


CURVE = [("ranking/score", epoch, score) for epoch, score in enumerate(SCORES)]


def test_every_validation_is_reported_once_and_a_finished_fit_reports_nothing_again(tmp_path: Path) -> None:
    reports = Reports()
    assert fit(trainer(reports), tmp_path) == 2
    assert reports == CURVE
    assert fit(trainer(reports), tmp_path) == 2
    assert reports == CURVE


def test_a_resumed_fit_reports_the_rest_of_its_curve(tmp_path: Path) -> None:
    first, second = Reports(), Reports()
    with pytest.raises(KeyboardInterrupt):
        fit(trainer(first), tmp_path, fails_at=2)
    fit(trainer(second), tmp_path)
    assert [*first, *second] == CURVE


def test_a_report_ends_the_training_and_nothing_counts_as_finished(tmp_path: Path) -> None:
    reports = Reports(ends_at=2)
    with pytest.raises(PrunedError, match=r"pruned after epoch 3: ranking/score 0\.2000") as pruned:
        fit(trainer(reports), tmp_path)
    assert reports == CURVE[:3]
    assert pruned.value.to_document() == {"metric": "ranking/score", "epoch": 3, "value": pytest.approx(0.2)}
    assert not (tmp_path / "trained.pt").exists()


def test_a_fit_without_validation_and_a_worker_report_nothing(tmp_path: Path) -> None:
    reports = Reports(ends_at=0)
    assert fit(trainer(reports), tmp_path / "refit", validated=False) == len(SCORES)
    assert fit(trainer(reports).without_progress(), tmp_path / "worker") == 2
    assert reports == []
