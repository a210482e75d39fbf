"""Experiment tracking: W&B (offline by default) and a CSV file."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from recsys.errors import ConfigError

RUN_ID = "wandb_run"
"""file of a run directory: the id of its W&B run, which a resumed run continues"""
MODES = ("offline", "online", "disabled")


class Tracking:
    """One W&B run a job, beside metrics.csv."""

    def __init__(self, *, project: str, mode: str, group: str | None) -> None:
        """
        mode: offline writes to the run directory, online needs a login, disabled keeps only the CSV file
        group: runs of one sweep
        """
        if mode not in MODES:
            raise ConfigError(f"logger.mode is {mode!r}; choose one of {', '.join(MODES)}")
        self.project = project
        self.mode = mode
        self.group = group

    def start(self, folder: Path, config: Mapping[str, Any]) -> list[Logger]:
        """Open the loggers of one job in its run directory; a resumed job continues its CSV file and its W&B run."""
        curves = _csv_logger(folder)
        if self.mode == "disabled":
            return [curves]
        known = folder / RUN_ID
        run = wandb.init(
            project=self.project,
            group=self.group,
            mode=self.mode,  # type: ignore[arg-type]
            dir=folder,
            id=known.read_text(encoding="ascii").strip() if known.is_file() else None,
            resume="allow" if self.mode == "online" else None,
            config=dict(config),
            name="/".join(folder.parts[-2:]),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, reinit="finish_previous"),
        )
        known.write_text(f"{run.id}\n", encoding="ascii")
        return [curves, WandbLogger(experiment=run)]

    def finish(self, metrics: Mapping[str, Mapping[str, Any]], pictures: Sequence[Path], bundle: Path) -> None:
        """Log the final table, the pictures and the bundle, and close the run, so that a sweep logs one run a job."""
        if self.mode == "disabled":
            return
        run = wandb.run
        assert run is not None
        for system, row in metrics.items():
            for metric, value in row.items():
                if isinstance(value, int | float):
                    run.summary[f"test/{system}/{metric}"] = value
        run.log({f"test/{picture.stem}": wandb.Image(str(picture)) for picture in pictures})
        artifact = wandb.Artifact(f"bundle-{run.id}", type="bundle")
        for file in sorted(bundle.iterdir()):
            artifact.add_file(str(file))
        run.log_artifact(artifact)
        self.close()

    def close(self) -> None:
        """End the W&B run, if there is one; also after an error."""
        if self.mode != "disabled" and wandb.run is not None:
            wandb.finish()


def _csv_logger(folder: Path) -> CSVLogger:
    """CSV logger of a run directory that keeps existing rows, which Lightning's own would overwrite."""
    curves = CSVLogger(save_dir=folder, name="", version="csv")
    file = folder / "csv" / "metrics.csv"
    rows: list[dict[str, str]] = []
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as opened:
            rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(opened)]
        file.unlink()
    curves.experiment.metrics.extend(rows)
    curves.save()
    return curves
