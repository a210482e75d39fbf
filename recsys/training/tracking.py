"""What a run leaves in the loggers: W&B (offline unless told otherwise) and a CSV file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger

from recsys.errors import ConfigError

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
        """Open the loggers of one job in its run directory."""
        csv = CSVLogger(save_dir=folder, name="", version="csv")
        if self.mode == "disabled":
            return [csv]
        run = wandb.init(
            project=self.project,
            group=self.group,
            mode=self.mode,  # type: ignore[arg-type]
            dir=folder,
            config=dict(config),
            name="/".join(folder.parts[-2:]),
            settings=wandb.Settings(silent=True, console="off", disable_git=True, reinit="finish_previous"),
        )
        return [csv, WandbLogger(experiment=run)]

    def finish(self, metrics: Mapping[str, Mapping[str, Any]], pictures: Sequence[Path], bundle: Path) -> None:
        """Hand over the final table, the pictures and the bundle, and close the run, so that a sweep logs one run a job."""
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
