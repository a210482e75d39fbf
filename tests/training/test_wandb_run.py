"""Offline files of W&B, read back: one id over a resume, the whole history in the newest file, groups, artifacts."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from recsys.cli.experiment import build
from recsys.errors import ConfigError
from recsys.training.code_state import code_state
from recsys.training.fit_logger import of_fit
from recsys.training.run_folder import SWEEP_FILE
from recsys.training.tracking import DataUse, RunResults, Tracking
from recsys.training.wandb_files import history, offline_files, records, values
from recsys.training.wandb_run import RUN_ID, WandbRun

OPTIONS: dict[str, Any] = {
    "project": "recsys",
    "entity": None,
    "mode": "offline",
    "group": None,
    "job_type": None,
    "tags": ["nightly"],
    "notes": "a note",
    "data": "reference",
    "bundle": "reference",
}
FIT = "retrieval/split_0/seed_0/validation"


@pytest.fixture
def data(tmp_path: Path) -> DataUse:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "interactions.parquet").write_bytes(b"secret events")
    return DataUse(name="letters (small)", sha256="ab" * 32, counts={"events": 3}, path=tmp_path / "data")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    (folder := tmp_path / "sweep" / "0").mkdir(parents=True)
    (folder.parent / SWEEP_FILE).touch()
    return folder


def tracking(**options: Any) -> Tracking:
    return Tracking(trackers={"wandb": WandbRun(**OPTIONS | options)}, users="names")


def newest(folder: Path) -> Path:
    """Return the newest file, once the process behind has written it."""
    wandb.teardown()
    return offline_files(folder, (folder / RUN_ID).read_text().strip())[-1]


def of_kind(folder: Path, kind: str) -> Iterator[Any]:
    return (getattr(record, kind) for record in records(newest(folder)) if record.HasField(kind))


def test_a_resumed_run_has_one_id_and_the_newest_file_has_all_rows(run_folder: Path, data: DataUse) -> None:
    for start in range(3):
        with tracking().tracked(run_folder, {"dim": 8}, data) as loggers:
            (fit,) = of_fit(loggers, FIT)
            fit.log_metrics({"retrieval/loss": 3.0 - start}, 10 * start)
        wandb.teardown()
    assert (run_folder / "wandb" / "latest-run").resolve() == newest(run_folder).parent.resolve()
    run = next(of_kind(run_folder, "run"))
    assert run.run_id == (run_folder / RUN_ID).read_text().strip()
    logged = [{key: value for key, value in row.items() if key[0] != "_"} for row in history(newest(run_folder))]
    assert logged == [{f"{FIT}/loss": 3.0 - start, f"{FIT}/step": 10 * start} for start in range(3)]
    axes = {(one.name or one.glob_name): one.step_metric for one in of_kind(run_folder, "metric")}
    assert axes[f"{FIT}/*"] == f"{FIT}/step"


def test_a_job_of_a_sweep_says_where_it_belongs_and_by_what_code(run_folder: Path, data: DataUse) -> None:
    with tracking().tracked(run_folder, {"dim": 8}, data):
        pass
    run = next(of_kind(run_folder, "run"))
    assert (run.run_group, run.job_type, list(run.tags), run.notes) == ("sweep", "sweep job", ["nightly"], "a note")
    config = {one.key: json.loads(one.value_json) for one in run.config.update}
    assert config["dim"] == 8
    assert config["code"] == code_state(Path.cwd())


def test_a_run_of_its_own_is_a_training_and_options_come_first(tmp_path: Path, data: DataUse) -> None:
    for name, options, expected in (
        ("plain", {}, ("", "train")),
        ("named", {"group": "nightly", "job_type": "refit"}, ("nightly", "refit")),
    ):
        (folder := tmp_path / name).mkdir()
        with tracking(**options).tracked(folder, {}, data):
            pass
        run = next(of_kind(folder, "run"))
        assert (run.run_group, run.job_type) == expected


def test_a_reference_names_the_data_and_keeps_their_content(run_folder: Path, data: DataUse) -> None:
    with tracking().tracked(run_folder, {}, data):
        pass
    (artifact,) = [one for one in of_kind(run_folder, "artifact") if one.type == "dataset"]
    assert (artifact.name, artifact.use_after_commit) == ("data-letters-small", True)
    assert json.loads(artifact.metadata) == {"sha256": data.sha256, "events": 3}
    (file,) = artifact.manifest.contents
    assert file.path == "interactions.parquet"
    assert file.ref == (data.path / "interactions.parquet").resolve().as_uri()
    assert not file.local_path


def test_the_content_of_data_is_handed_over_where_it_is_chosen(run_folder: Path, data: DataUse) -> None:
    with tracking(data="files").tracked(run_folder, {}, data):
        pass
    (artifact,) = [one for one in of_kind(run_folder, "artifact") if one.type == "dataset"]
    (file,) = artifact.manifest.contents
    assert Path(file.local_path).read_bytes() == b"secret events"
    (other := run_folder.parent / "1").mkdir()
    with tracking(data="none").tracked(other, {}, data):
        pass
    assert not list(of_kind(other, "artifact"))


def test_figures_and_tables_are_kept(run_folder: Path, data: DataUse) -> None:
    trackers = tracking()
    with trackers.tracked(run_folder, {}, data):
        table = pl.DataFrame({"slice": ["cold items"], "ndcg@10": [0.25]})
        trackers.finish(RunResults(figures={"pipeline": {"ndcg@10": 0.5}}, tables={"slices": table}))
    (row,) = history(newest(run_folder))
    kept = newest(run_folder).parent / "files" / row["tables/slices"]["path"]
    assert json.loads(kept.read_text())["data"] == [["cold items", 0.25]]
    summary = values(one for update in of_kind(run_folder, "summary") for one in update.update)
    assert summary["test/pipeline/ndcg@10"] == 0.5


def test_a_failed_run_is_marked(run_folder: Path, data: DataUse) -> None:
    with pytest.raises(ZeroDivisionError), tracking().tracked(run_folder, {}, data):
        raise ZeroDivisionError
    assert [one.exit_code for one in of_kind(run_folder, "exit")] == [1]


def test_a_file_that_ends_within_a_record_is_read_up_to_it(run_folder: Path, data: DataUse) -> None:
    with tracking().tracked(run_folder, {"long": "x" * 100_000}, data) as loggers:
        for step in range(400):
            loggers[0].log_metrics({f"loss_{step}": 1.0}, step)
    file = newest(run_folder)
    whole = [record.SerializeToString() for record in records(file)]
    assert sum(Record.FromString(one).HasField("history") for one in whole) == 400
    content = file.read_bytes()
    (cut := run_folder / "cut.wandb").write_bytes(content[: len(content) // 2])
    part = [record.SerializeToString() for record in records(cut)]
    assert 0 < len(part) < len(whole)
    assert part == whole[: len(part)]


def test_online_without_a_login_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match=r"mode is online, but there is no login; run `wandb login`"):
        tracking(mode="online").check()
    tracking().check()


def test_a_run_without_a_login_reads_no_data(
    tmp_path: Path, composed: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "absent"))
    wandb.teardown()
    folder = tmp_path / "run"
    config = composed(folder, "data=tables", "data.description=missing.yaml", "logger=online")
    with pytest.raises(ConfigError, match="there is no login"):
        build(config).validate(folder, {}, print)
    assert not list(folder.glob("*/"))


@pytest.mark.parametrize("key", ["mode", "data", "bundle"])
def test_an_unknown_choice_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"logger\.trackers\.wandb\.{key} is 'some'; choose one of"):
        tracking(**{key: "some"})


def test_the_code_is_named_by_its_commit_and_is_dirty_with_any_change(tmp_path: Path) -> None:
    assert code_state(tmp_path) == {}
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    clean = code_state(tmp_path)
    assert clean["dirty"] is False
    assert len(clean["commit"]) == 40
    (tmp_path / "new.py").touch()
    assert code_state(tmp_path) == {**clean, "dirty": True}
