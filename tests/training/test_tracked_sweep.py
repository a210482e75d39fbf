"""The offline W&B files of a sweep, read back: groups, one id over a resume, distinct curves, tables, lineage."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from recsys.training.run_log import LOG_FILE
from recsys.training.wandb_files import history, offline_files, records
from recsys.training.wandb_run import RUN_ID

pytestmark = pytest.mark.slow

FITS = {"retrieval/split_0/seed_0/validation", "retrieval/split_0/seed_0/rank", "ranking/split_0/seed_0/measured"}


def train(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "COLUMNS": "200", "WANDB_SILENT": "true"}
    done = subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


@pytest.fixture(scope="module")
def sweep(root: Path, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two jobs; the first one is continued afterwards."""
    folder = tmp_path_factory.mktemp("sweeps") / "dims"
    options = (*tiny, "logger=offline", "retrieval.batch_size=128", "ranking.batch_size=8", "retrieval.epochs=2")
    train(root, "-m", *options, f"hydra.sweep.dir={folder}", "ranking.sizes.dim=4,8", "hydra/launcher=basic")
    train(root, *options, "ranking.sizes.dim=4", f"run_dir={folder / '0'}", "evaluate=validation")
    return folder


def files(job: Path) -> list[Path]:
    return offline_files(job, (job / RUN_ID).read_text().strip())


def runs(file: Path) -> list[Any]:
    return [record.run for record in records(file) if record.HasField("run")]


def test_jobs_are_runs_of_one_group(sweep: Path) -> None:
    found = [runs(files(sweep / number)[0])[0] for number in ("0", "1")]
    assert [(run.run_group, run.job_type) for run in found] == [("dims", "sweep job")] * 2
    assert found[0].run_id != found[1].run_id
    for run, dim in zip(found, (4, 8), strict=True):
        config = {one.key: json.loads(one.value_json) for one in run.config.update}
        assert config["ranking"]["sizes"]["dim"] == dim
        assert set(config["code"]) <= {"commit", "dirty"}


def test_a_resumed_job_keeps_its_id_and_its_rows(sweep: Path) -> None:
    first, second = files(sweep / "0")
    assert runs(first)[0].run_id == runs(second)[0].run_id
    curves = [
        [row for row in map(scalars, history(file)) if FITS & {fit_of(key) for key in row}] for file in (first, second)
    ]
    assert curves[0] == curves[1]
    assert len(curves[0]) > 10


def scalars(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key[0] != "_" and isinstance(value, int | float)}


def fit_of(key: str) -> str:
    return key.rpartition("/")[0].removesuffix("/parameters")


def test_every_fit_has_curves_of_its_own_over_its_own_steps(sweep: Path) -> None:
    rows = [scalars(row) for row in history(files(sweep / "1")[0])]
    of_fits = [row for row in rows if any(key.endswith("/step") for key in row)]
    assert {fit_of(key) for row in of_fits for key in row} == FITS
    for row in of_fits:
        assert len({fit_of(key) for key in row}) == 1
    for fit in FITS:
        steps = [row[f"{fit}/step"] for row in of_fits if f"{fit}/step" in row]
        assert steps == sorted(steps)
        assert steps[0] == 0
    losses = Counter(key for row in of_fits for key in row if key.rpartition("/")[2] in ("loss", "pointwise"))
    assert set(losses) == {f"{fit}/{'loss' if 'retrieval' in fit else 'pointwise'}" for fit in FITS}
    logged = {key.rpartition("/")[2] for row in of_fits for key in row}
    assert {"learning_rate", "gradient_norm", "dense", "sparse", "examples_per_second", "peak_memory_mib"} <= logged
    assert any("validation/pipeline/ndcg@10" in row for row in rows)


def test_tables_have_slices_users_and_worst_errors(sweep: Path) -> None:
    file = files(sweep / "1")[0]
    tables = {key: value for row in history(file) for key, value in row.items() if key.startswith("tables/")}
    assert {"tables/systems", "tables/slices", "tables/exposure", "tables/users", "tables/worst_users"} <= set(tables)
    users = json.loads((file.parent / "files" / tables["tables/users"]["path"]).read_text())
    assert users["columns"] == ["user", "history", "targets", "slate of pipeline", "ndcg@10 of pipeline"]
    assert [row[0] for row in users["data"]] == [f"user {number}" for number in range(1, 21)]
    assert all(1 <= row[3].count(" · ") + 1 <= 10 for row in users["data"])
    worst = json.loads((file.parent / "files" / tables["tables/worst_users"]["path"]).read_text())
    *_, ours, others = zip(*worst["data"], strict=True)
    losses = [other - own for own, other in zip(ours, others, strict=True)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] > 0


def test_both_jobs_use_the_same_version_of_the_data(sweep: Path) -> None:
    used = [
        [
            one.artifact
            for one in records(files(sweep / number)[0])
            if one.HasField("artifact") and one.artifact.use_after_commit
        ]
        for number in ("0", "1")
    ]
    (first,), (second,) = used
    assert first.type == second.type == "dataset"
    assert first.digest == second.digest
    assert json.loads(first.metadata)["users"] == 120


def test_every_job_has_its_log(sweep: Path) -> None:
    log = (sweep / "0" / LOG_FILE).read_text()
    assert log.count("ranker") >= 2, "of both starts"
    assert "NDCG@10" in log
