"""Experiment tracking: a list of trackers, each with the curves of a job and what it keeps at the end."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import wandb
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from recsys.errors import ConfigError

RUN_ID = "wandb_run"
"""file of a run directory: the id of its W&B run, which a resumed run continues"""
MODES = ("offline", "online")


class Tracker(Protocol):
    """One place that a job is tracked in."""

    def start(self, folder: Path, config: Mapping[str, Any]) -> Logger:
        """Open the curves of a job in its run directory; a resumed job continues its own."""

    def finish(self, metrics: Mapping[str, Mapping[str, Any]], pictures: Sequence[Path], bundle: Path) -> None:
        """Keep the final table, the pictures and the bundle."""

    def close(self) -> None:
        """End the job; also after an error."""


class Tracking:
    """The trackers of a job, by name."""

    def __init__(self, *, trackers: Mapping[str, Tracker | None]) -> None:
        """trackers: None leaves one out"""
        self.trackers = [tracker for tracker in trackers.values() if tracker is not None]

    def start(self, folder: Path, config: Mapping[str, Any]) -> list[Logger]:
        return [tracker.start(folder, config) for tracker in self.trackers]

    def finish(self, metrics: Mapping[str, Mapping[str, Any]], pictures: Sequence[Path], bundle: Path) -> None:
        for tracker in self.trackers:
            tracker.finish(metrics, pictures, bundle)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()


class Curves:
    """Curves in any logger of Lightning, which is made with the run directory."""

    def __init__(self, *, logger: Callable[..., Logger]) -> None:
        """logger: save_dir -> logger"""
        self.logger = logger

    def start(self, folder: Path, config: Mapping[str, Any]) -> Logger:
        try:
            return self.logger(save_dir=str(folder))
        except ModuleNotFoundError as error:
            raise ConfigError(f"the logger needs a package that is not installed: {error}; install it") from None

    def finish(self, metrics: Mapping[str, Mapping[str, Any]], pictures: Sequence[Path], bundle: Path) -> None:
        """Keep nothing: the run directory has it."""

    def close(self) -> None:
        """End nothing."""


class CsvCurves(Curves):
    """Curves in csv/metrics.csv of the run directory."""

    def __init__(self) -> None:
        super().__init__(logger=_csv_logger)


class WandbRun:
    """A W&B run a job, with the final table, the pictures and the bundle."""

    def __init__(self, *, project: str, mode: str, group: str | None) -> None:
        """
        mode: offline writes to the run directory, online needs a login
        group: runs of one sweep
        """
        if mode not in MODES:
            raise ConfigError(f"logger.trackers.wandb.mode is {mode!r}; choose one of {', '.join(MODES)}")
        self.project = project
        self.mode = mode
        self.group = group

    def start(self, folder: Path, config: Mapping[str, Any]) -> Logger:
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
        return WandbLogger(experiment=run)

    def finish(self, metrics: Mapping[str, Mapping[str, Any]], pictures: Sequence[Path], bundle: Path) -> None:
        """Log the table, the pictures and the bundle, and close the run, so that a sweep logs one run a job."""
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
        if wandb.run is not None:
            wandb.finish()


def _csv_logger(save_dir: str) -> CSVLogger:
    """CSV logger of a run directory that keeps existing rows, which Lightning's own would overwrite."""
    curves = CSVLogger(save_dir=save_dir, name="", version="csv")
    file = Path(save_dir) / "csv" / "metrics.csv"
    rows: list[dict[str, str]] = []
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as opened:
            rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(opened)]
        file.unlink()
    curves.experiment.metrics.extend(rows)
    curves.save()
    return curves
