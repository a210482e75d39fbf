"""A run that is started again goes on with its curves and its W&B run."""

import csv
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.training.tracking import RUN_ID, CsvCurves, Curves, Tracking, WandbRun


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_curves_go_on_where_they_were(tmp_path: Path) -> None:
    tracking = Tracking(trackers={"csv": CsvCurves(), "wandb": None})
    for step, metrics in enumerate(({"loss": 3.0}, {"loss": 2.0, "rate": 0.5}, {"ndcg": 0.25})):
        (logger,) = tracking.start(tmp_path, {})
        logger.log_metrics(metrics, step)
        logger.save()
    first, second, third = rows(tmp_path)
    assert first == {"loss": 3.0, "step": 0}
    assert second == {"loss": 2.0, "rate": 0.5, "step": 1}
    assert third == {"ndcg": 0.25, "step": 2}


def test_a_start_that_logs_nothing_keeps_what_is_there(tmp_path: Path) -> None:
    tracking = Tracking(trackers={"csv": CsvCurves(), "wandb": None})
    (logger,) = tracking.start(tmp_path, {})
    logger.log_metrics({"loss": 3.0}, 0)
    logger.save()
    tracking.start(tmp_path, {})
    assert rows(tmp_path) == [{"loss": 3.0, "step": 0}]


def test_the_run_is_the_same_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracking = Tracking(trackers={"csv": CsvCurves(), "wandb": WandbRun(project="recsys", mode="offline", group=None)})
    ids = []
    for _ in range(2):
        _, logger = tracking.start(tmp_path, {})
        ids.append(logger.experiment.id)  # type: ignore[attr-defined]
        tracking.close()
    assert ids[0] == ids[1] == (tmp_path / RUN_ID).read_text().strip()


def test_a_logger_whose_package_is_missing_is_named(tmp_path: Path) -> None:
    def absent(save_dir: str) -> None:
        raise ModuleNotFoundError("No module named 'tensorboard'")

    with pytest.raises(
        ConfigError, match="needs a package that is not installed: No module named 'tensorboard'; install"
    ):
        Tracking(trackers={"curves": Curves(logger=absent)}).start(tmp_path, {})
