"""A run that is started again goes on with its curves; no two fits share a key; tables show users as configured."""

import csv
from pathlib import Path

import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from pytorch_lightning.loggers import CSVLogger, Logger

from recsys.encryption import ENCRYPTION_KEY
from recsys.errors import ConfigError
from recsys.training.batches import index_batches
from recsys.training.fit_logger import of_fit
from recsys.training.tracking import CsvCurves, Curves, DataUse, RunResults, Tracking
from recsys.training.trainer import cpu_trainer

DATA = DataUse(name="letters", sha256="0" * 64, counts={"events": 3}, path=Path("data"))
CSV = Tracking(trackers={"csv": CsvCurves(), "wandb": None}, users="numbers")


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_curves_go_on_where_they_were(tmp_path: Path) -> None:
    for step, metrics in enumerate(({"loss": 3.0}, {"loss": 2.0, "rate": 0.5}, {"ndcg": 0.25})):
        with CSV.tracked(tmp_path, {}, DATA) as (logger,):
            logger.log_metrics(metrics, step)
            logger.save()
    first, second, third = rows(tmp_path)
    assert first == {"loss": 3.0, "step": 0}
    assert second == {"loss": 2.0, "rate": 0.5, "step": 1}
    assert third == {"ndcg": 0.25, "step": 2}


def test_a_start_that_logs_nothing_keeps_what_is_there(tmp_path: Path) -> None:
    with CSV.tracked(tmp_path, {}, DATA) as (logger,):
        logger.log_metrics({"loss": 3.0}, 0)
        logger.save()
    with CSV.tracked(tmp_path, {}, DATA):
        pass
    assert rows(tmp_path) == [{"loss": 3.0, "step": 0}]


def test_a_logger_whose_package_is_missing_is_named(tmp_path: Path) -> None:
    def absent(save_dir: str) -> None:
        raise ModuleNotFoundError("No module named 'tensorboard'")

    tracking = Tracking(trackers={"curves": Curves(logger=absent)}, users="none")
    with (
        pytest.raises(
            ConfigError, match="needs a package that is not installed: No module named 'tensorboard'; install"
        ),
        tracking.tracked(tmp_path, {}, DATA),
    ):
        pass


def test_a_key_has_stage_fit_and_metric(tmp_path: Path) -> None:
    with CSV.tracked(tmp_path, {}, DATA) as loggers:
        (fit,) = of_fit(loggers, "retrieval/split_0/seed_0/validation")
        (member,) = of_fit([fit], "member_2")
        fit.log_metrics({"retrieval/loss": 3.0, "learning_rate": 0.5}, 0)
        member.log_metrics({"retrieval/loss": 2.0}, 0)
        member.save()
    assert rows(tmp_path) == [
        {
            "retrieval/split_0/seed_0/validation/loss": 3.0,
            "retrieval/split_0/seed_0/validation/learning_rate": 0.5,
            "step": 0,
        },
        {"retrieval/split_0/seed_0/validation/member_2/loss": 2.0, "step": 0},
    ]


class Steep(lightning.LightningModule):
    """Loss 30 w1 + 40 w2, whose gradient has norm 50 wherever it is."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(2))

    def training_step(self, indices: torch.Tensor) -> dict[str, torch.Tensor | int]:
        loss = (self.weights * torch.tensor([30.0, 40.0])).sum()
        self.log("retrieval/loss", loss)
        return {"loss": loss, "examples": len(indices)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def test_every_fit_logs_its_statistics(tmp_path: Path) -> None:
    logger: Logger = CSVLogger(tmp_path, name="", version="csv")
    trainer = cpu_trainer()
    trainer.fit(
        Steep(),
        train=index_batches(40, 2, 0),
        valid=None,
        folder=tmp_path / "towers",
        epochs=1,
        patience=1,
        monitor=None,
        loggers=of_fit([logger], "retrieval/validation"),
    )
    logged = {key.removeprefix("retrieval/validation/"): value for row in rows(tmp_path) for key, value in row.items()}
    assert (logged["parameters/dense"], logged["parameters/sparse"]) == (2, 0)
    assert logged["gradient_norm"] == pytest.approx(50), "before it is clipped to 1"
    assert logged["learning_rate"] == 0.5
    assert logged["examples_per_second"] > 0
    assert logged["peak_memory_mib"] > 10
    assert logged["loss"] == pytest.approx(-0.5 * 50 * 19), "19 clipped steps of 0.5 along the gradient, of length 1"


class Keeping:
    """Tracker that keeps the results."""

    def check(self) -> None: ...

    def start(self, *_: object) -> Logger:
        return CSVLogger("unused")

    def finish(self, results: RunResults) -> None:
        self.tables = results.tables

    def close(self, *, failed: bool) -> None:
        self.failed = failed


@pytest.mark.parametrize(
    ("users", "shown"),
    [("numbers", ["user 1", "user 2", "user 1"]), ("names", ["ann", "bob", "ann"]), ("none", None)],
)
def test_tables_show_users_as_configured(users: str, shown: list[str] | None) -> None:
    tracker = Keeping()
    tables = {"users": pl.DataFrame({"user": ["ann", "bob", "ann"]}), "slices": pl.DataFrame({"slice": ["cold items"]})}
    Tracking(trackers={"kept": tracker}, users=users).finish(RunResults(figures={}, tables=tables))
    assert tracker.tables["slices"].equals(tables["slices"])
    assert tracker.tables.get("users", pl.DataFrame({"user": [None]}))["user"].to_list() == (shown or [None])
    assert ("users" in tracker.tables) == (shown is not None)


def test_no_table_shows_users_where_data_is_encrypted_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENCRYPTION_KEY, "a.key")
    tracker = Keeping()
    tables = {"users": pl.DataFrame({"user": ["ann"]}), "slices": pl.DataFrame({"slice": ["cold items"]})}
    Tracking(trackers={"kept": tracker}, users="names").finish(RunResults(tables=tables))
    assert list(tracker.tables) == ["slices"]


def test_a_run_that_raises_is_closed_as_failed(tmp_path: Path) -> None:
    tracker = Keeping()
    with (
        pytest.raises(ZeroDivisionError),
        Tracking(trackers={"kept": tracker}, users="none").tracked(tmp_path, {}, DATA),
    ):
        raise ZeroDivisionError
    assert tracker.failed
    with pytest.raises(ConfigError, match=r"logger\.users is 'some'; choose one of numbers, names, none"):
        Tracking(trackers={}, users="some")
