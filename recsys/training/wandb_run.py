"""Tracking in Weights & Biases: one run a run folder, also over a resume and without a network."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import wandb
from pytorch_lightning.loggers import Logger, WandbLogger

from recsys.errors import ConfigError
from recsys.stores.atomic_files import write_atomically
from recsys.training.code_state import code_state
from recsys.training.run_folder import SWEEP_FILE
from recsys.training.tracking import DataUse, RunResults
from recsys.training.wandb_files import history, offline_files

RUN_ID = "wandb_run"
"""file of a run directory: the id of its W&B run, which a resumed run continues"""
MODES = ("offline", "online")
ARTIFACTS = ("reference", "files", "none")
STEP = "step"
"""last part of the key of a fit's own axis"""


class WandbCurves(WandbLogger):
    """Curves of a W&B run; those of a fit are drawn over its own steps."""

    def __init__(self, run: wandb.Run) -> None:
        super().__init__(experiment=run)
        self.fits: set[str] = set()

    def log_fit(self, fit: str, metrics: Mapping[str, float], step: int) -> None:
        self.define_axis(fit)
        self.experiment.log({**metrics, f"{fit}/{STEP}": step})

    def define_axis(self, fit: str) -> None:
        if fit not in self.fits:
            self.experiment.define_metric(f"{fit}/{STEP}", hidden=True)
            self.experiment.define_metric(f"{fit}/*", step_metric=f"{fit}/{STEP}")
            self.fits.add(fit)

    def replay(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log the rows of an earlier start of the run again, pictures and tables aside."""
        for row in rows:
            for key in row:
                if key.endswith(f"/{STEP}"):
                    self.define_axis(key.removesuffix(f"/{STEP}"))
            self.experiment.log({key: value for key, value in row.items() if _replayed(key, value)})


def _replayed(key: str, value: Any) -> bool:
    return key == "_timestamp" or (not key.startswith("_") and isinstance(value, int | float))


class WandbRun:
    """A W&B run a run folder: curves, tables, pictures, and the data set and the bundle as artifacts."""

    def __init__(
        self,
        *,
        project: str,
        entity: str | None,
        mode: str,
        group: str | None,
        job_type: str | None,
        tags: Sequence[str],
        notes: str | None,
        data: str,
        bundle: str,
    ) -> None:
        """
        entity: user or team; None for that of the login
        mode: offline writes to the run directory, online needs a login
        group: runs that belong together; None for the folder of a sweep
        job_type: None for `sweep job` in a sweep, else `train`
        data: `reference` hands over names, digests and the path of the files, `files` their content as well, none nothing
        bundle: the same for the bundle, which holds the newest events of users
        """
        choices = {"mode": (mode, MODES), "data": (data, ARTIFACTS), "bundle": (bundle, ARTIFACTS)}
        for key, (given, known) in choices.items():
            if given not in known:
                raise ConfigError(f"logger.trackers.wandb.{key} is {given!r}; choose one of {', '.join(known)}")
        self.project, self.entity, self.mode = project, entity, mode
        self.group, self.job_type, self.tags, self.notes = group, job_type, list(tags), notes
        self.data, self.bundle = data, bundle
        self.run: wandb.Run | None = None

    def check(self) -> None:
        if self.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise ConfigError(
                "logger.trackers.wandb.mode is online, but there is no login; run `wandb login`, set WANDB_API_KEY, "
                "or choose logger=offline"
            )

    def start(self, folder: Path, config: Mapping[str, Any], data: DataUse) -> Logger:
        known = folder / RUN_ID
        run_id = known.read_text(encoding="ascii").strip() if known.is_file() else None
        earlier = _earlier_rows(folder, run_id) if run_id and self.mode == "offline" else []
        in_sweep = (folder.parent / SWEEP_FILE).is_file()
        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group or (folder.parent.name if in_sweep else None),
            job_type=self.job_type or ("sweep job" if in_sweep else "train"),
            tags=self.tags,
            notes=self.notes,
            mode=self.mode,  # type: ignore[arg-type]
            dir=folder,
            id=run_id,
            resume="allow" if self.mode == "online" else None,
            config={**config, "code": code_state(Path.cwd())},
            name="/".join(folder.parts[-2:]),
            # W&B's own reading of git would store the uncommitted changes
            settings=wandb.Settings(silent=True, console="off", disable_git=True, reinit="finish_previous"),
        )
        write_atomically(known, f"{self.run.id}\n".encode())
        curves = WandbCurves(self.run)
        curves.replay(earlier)
        self._use(data)
        return curves

    def finish(self, results: RunResults) -> None:
        """Log the results and close the run, so that a sweep logs one run a job."""
        assert self.run is not None
        for system, row in results.figures.items():
            for metric, value in row.items():
                if isinstance(value, int | float):
                    self.run.summary[f"test/{system}/{metric}"] = value
        tables = {f"tables/{name}": _table(frame) for name, frame in results.tables.items()}
        pictures = {f"test/{picture.stem}": wandb.Image(str(picture)) for picture in results.pictures}
        if tables or pictures:
            self.run.log({**tables, **pictures})
        if results.bundle is not None and self.bundle != "none":
            made = results.bundle
            artifact = _artifact(
                f"bundle-{self._name}", "model", self.bundle, made.path, {"fingerprint": made.fingerprint}
            )
            self.run.log_artifact(artifact, aliases=["latest", made.fingerprint])
        self.close(failed=False)

    def close(self, *, failed: bool) -> None:
        if self.run is not None:
            self.run.finish(exit_code=int(failed))
            self.run = None

    def _use(self, data: DataUse) -> None:
        """Log the data set as an input of the run. Offline, the public `use_artifact` refuses; the sync makes up for it."""
        assert self.run is not None
        self._name = _artifact_name(data.name)
        if self.data != "none":
            metadata = {"sha256": data.sha256, **data.counts}
            artifact = _artifact(f"data-{self._name}", "dataset", self.data, data.path, metadata)
            self.run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def _earlier_rows(folder: Path, run_id: str) -> list[dict[str, Any]]:
    """Return the history of the starts of a run so far.

    A sync of several offline files with one id keeps the last one, so every start has the rows of those before.
    """
    return max((list(history(file)) for file in offline_files(folder, run_id)), key=len, default=[])


def _table(frame: pl.DataFrame) -> wandb.Table:
    return wandb.Table(columns=[*frame.columns], data=[list(row) for row in frame.iter_rows()])


def _artifact(name: str, kind: str, content: str, path: Path, metadata: Mapping[str, Any]) -> wandb.Artifact:
    """Make an artifact of a folder or file: a reference has names, sizes and digests, so equal files are one version."""
    artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata))
    root = path.resolve()
    for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
        if file.is_file():
            inside = str(file.relative_to(root)) if root.is_dir() else file.name
            if content == "reference":
                artifact.add_reference(file.as_uri(), name=inside)
            else:
                artifact.add_file(str(file), name=inside)
    return artifact


def _artifact_name(text: str) -> str:
    """Return a text in the characters that W&B allows in names of artifacts."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)[:100].strip("-") or "data"
