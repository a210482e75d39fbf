"""Tracking in MLflow: one run a run folder, also over a resume, in a local database or on a server."""

import json
import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, MLFlowLogger

from recsys.errors import ConfigError
from recsys.stores.atomic_files import write_atomically
from recsys.training.code_state import code_state
from recsys.training.run_folder import SWEEP_FILE
from recsys.training.tracking import DataUse, RunResults

RUN_ID = "mlflow_run"
"""file of a run directory: the id of its MLflow run, which a resumed run continues"""
SPOKEN = {"@": "_at_", "+": "_and_"}
"""characters of our keys that MLflow refuses"""


class MlflowCurves(MLFlowLogger):
    """Curves of an MLflow run."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({mlflow_key(name): value for name, value in metrics.items()}, step)

    def finalize(self, status: str = "success") -> None:
        """Leave the run open: a fit has ended, and others follow."""


class MlflowRun:
    """An MLflow run a run folder: curves, figures, tables, pictures; the data set as its input."""

    def __init__(
        self,
        *,
        experiment: str,
        tracking_uri: str,
        artifact_location: str | None,
        tags: Mapping[str, str],
        bundle: bool,
    ) -> None:
        """
        tracking_uri: of a server or a database
        artifact_location: of a new experiment; None for that of the server
        bundle: upload the bundle, which holds the newest events of users; else its fingerprint and path are tags
        """
        self.experiment, self.tracking_uri, self.artifact_location = experiment, tracking_uri, artifact_location
        self.tags, self.bundle = dict(tags), bundle
        self.curves: MlflowCurves | None = None

    def check(self) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        if find_spec("mlflow") is None:
            raise ConfigError(
                "logger=mlflow needs its package; install mlflow-skinny, with sqlalchemy and alembic where there is no server"
            )

    def start(self, folder: Path, config: Mapping[str, Any], data: DataUse) -> Logger:
        known = folder / RUN_ID
        sweep = {"sweep": folder.parent.name} if (folder.parent / SWEEP_FILE).is_file() else {}
        code = {f"code.{key}": str(value) for key, value in code_state(Path.cwd()).items()}
        self.curves = MlflowCurves(
            experiment_name=self.experiment,
            run_name="/".join(folder.parts[-2:]),
            tracking_uri=self.tracking_uri,
            tags={**sweep, **code, **self.tags},
            artifact_location=self.artifact_location,
            run_id=known.read_text(encoding="ascii").strip() if known.is_file() else None,
        )
        begun = known.is_file()
        write_atomically(known, f"{self.curves.run_id}\n".encode())
        if begun:
            self.curves.experiment.update_run(self.curves.run_id, status="RUNNING")
        else:
            self.curves.log_hyperparams(dict(config))
            self._use(data)
        return self.curves

    def finish(self, results: RunResults) -> None:
        assert self.curves is not None
        client, run_id = self.curves.experiment, self.curves.run_id
        for system, row in results.figures.items():
            numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
            self.curves.log_metrics({f"test/{system}/{name}": value for name, value in numbers.items()})
        for name, table in results.tables.items():
            client.log_text(run_id, table.write_csv(), f"tables/{name}.csv")
        for picture in results.pictures:
            client.log_artifact(run_id, str(picture), "pictures")
        if results.bundle is not None:
            client.set_tag(run_id, "bundle.fingerprint", results.bundle.fingerprint)
            client.set_tag(run_id, "bundle.path", str(results.bundle.path.resolve()))
            if self.bundle:
                client.log_artifacts(run_id, str(results.bundle.path), "bundle")

    def close(self, *, failed: bool) -> None:
        if self.curves is not None:
            self.curves.experiment.set_terminated(self.curves.run_id, "FAILED" if failed else "FINISHED")
            self.curves = None

    def _use(self, data: DataUse) -> None:
        """Name the data set as an input of the run; MLflow keeps 36 characters of a digest."""
        from mlflow.entities import Dataset, DatasetInput

        assert self.curves is not None
        used = Dataset(
            name=data.name,
            digest=data.sha256[:36],
            source_type="local",
            source=json.dumps({"uri": data.path.resolve().as_uri()}),
            profile=json.dumps(dict(data.counts)),
        )
        self.curves.experiment.log_inputs(self.curves.run_id, [DatasetInput(used)])


def mlflow_key(key: str) -> str:
    """Return a key in the characters that MLflow allows."""
    for character, word in SPOKEN.items():
        key = key.replace(character, word)
    return re.sub(r"[^\w/. -]", "_", key)
