"""`python train.py` as people call it: own tables, every kind of mistake, a sweep, an interruption, a second time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml

from recsys.bundle import Bundle
from recsys.errors import ConfigError, exit_on_error
from recsys.training.experiment import claim

DESCRIPTION = """
interactions:
  {file: events.csv, user: user_id, item: film, timestamp: ts, actions: {rating: number}, context: {device: category}}
items: {file: films.csv, item: film, columns: {title: text, genres: categories, year: number}}
objectives: {watch: "1", like: "rating >= 4"}
target: watch
title: title
"""
PATIENCE_S = 120

Change = Callable[[Path], object]


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 users and 40 films, of which everybody watched some."""
    folder, rng = tmp_path_factory.mktemp("tables"), np.random.default_rng(0)
    films = [f"f{number}" for number in range(40)]
    events = pl.DataFrame(
        {
            "user_id": [f"u{number}" for number in rng.integers(50, size=1500)],
            "film": rng.choice(films, 1500),
            "ts": 1_600_000_000 + np.sort(rng.integers(0, 10_000_000, 1500)),
            "rating": rng.integers(1, 6, 1500),
            "device": rng.choice(["tv", "phone"], 1500),
        }
    )
    events.write_csv(folder / "events.csv")
    words = np.array(["space", "love", "war", "cat", "sea", "train"])
    titles = [" ".join(rng.choice(words, 2)) for _ in films]
    genres = ["|".join(rng.choice(words, 2)) for _ in films]
    years = rng.integers(1950, 2020, 40)
    pl.DataFrame({"film": films, "title": titles, "genres": genres, "year": years}).write_csv(folder / "films.csv")
    (folder / "data.yaml").write_text(DESCRIPTION)
    return folder


@pytest.fixture(scope="session")
def own(tiny: tuple[str, ...]) -> Callable[[Path], list[str]]:
    """Overrides for a small training on own tables."""

    def own(tables: Path) -> list[str]:
        kept = [one for one in tiny if not one.startswith("data.")]
        return [*kept, "features.leave_out=[]", "data=tables", f"data.description={tables / 'data.yaml'}"]

    return own


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=root,
        env={**os.environ, "COLUMNS": "200", "WANDB_SILENT": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def swap(file: str, old: str, new: str) -> Change:
    """Replace text that must be there, once."""

    def change(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new, 1))

    return change


def cell(column: str, value: str) -> Change:
    """Another text in row 7 of the events."""

    def change(folder: Path) -> None:
        events = pl.read_csv(folder / "events.csv", infer_schema=False)
        events[6, column] = value
        events.write_csv(folder / "events.csv")

    return change


def milliseconds(folder: Path) -> None:
    events = pl.read_csv(folder / "events.csv")
    events.with_columns(pl.col("ts") * 1000).write_csv(folder / "events.csv")


def header_only(folder: Path) -> None:
    header = (folder / "events.csv").read_text().split("\n")[0]
    (folder / "events.csv").write_text(header + "\n")


def shorten(folder: Path) -> None:
    pl.read_csv(folder / "events.csv").head(3).write_csv(folder / "events.csv")


BROKEN: dict[str, tuple[Change, list[str], str]] = {
    "missing file": (lambda folder: (folder / "films.csv").unlink(), [], "films.csv: there is no such file"),
    "missing description": (lambda folder: (folder / "data.yaml").unlink(), [], "data.yaml: the description cannot"),
    "missing column": (swap("events.csv", "film", "movie"), [], "there is no column 'film'"),
    "bad YAML": (swap("data.yaml", "title: title\n", "title: [title\n"), [], "no valid YAML at line"),
    "unknown key": (swap("data.yaml", "target:", "targets:"), [], "unknown key 'targets' (did you mean 'target'?)"),
    "NaN": (cell("rating", "NaN"), [], "column 'rating', row 7: 'NaN' is not a finite number"),
    "text for a number": (cell("rating", "good"), [], "column 'rating', row 7: 'good' is not a number"),
    "no time": (cell("ts", "yesterday"), [], "column 'ts', row 7: 'yesterday' is no time"),
    "no user": (cell("user_id", ""), [], "column 'user_id', row 7: '' is no id"),
    "empty table": (header_only, [], "the table has no rows"),
    "milliseconds": (milliseconds, [], "looks like milliseconds or finer"),
    "too few events": (shorten, [], "of the split"),
    "unknown column in an objective": (swap("data.yaml", "rating >=", "stars >="), [], "'stars'"),
    "a target never positive": (swap("data.yaml", 'watch: "1"', 'watch: "rating > 9"'), [], "is true for none of"),
    "misspelt key": (lambda _: None, ["retrieval.dimm=16"], "dimm"),
    "unknown option": (lambda _: None, ["protocol=global"], "protocol/global"),
    "text for a setting": (lambda _: None, ["retrieval.dim=large"], "retrieval.dim is 'large'"),
    "out of range": (lambda _: None, ["ranking.dropout=2"], "ranking.dropout is 2; choose a number from 0 to 0.95"),
    "fractions above one": (lambda _: None, ["protocol.test=0.9"], "keep the sum below 1"),
    "unknown device": (lambda _: None, ["trainer.accelerator=tpu"], "trainer.accelerator is 'tpu'"),
}


@pytest.fixture
def broken(tables: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tables, tmp_path / "tables"))


def assert_one_sentence(stderr: str, sentence: str, folder: Path) -> None:
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    assert sentence in stderr
    assert [file for file in folder.rglob("*") if "bundle" in file.name or "draft" in file.name] == []


@pytest.mark.parametrize("case", BROKEN)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    case: str, broken: Path, own: Any, composed: Any, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    change, overrides, sentence = BROKEN[case]
    change(broken)
    with pytest.raises(SystemExit) as ended, exit_on_error():
        run(composed(broken / "run", *own(broken), *overrides))
    assert ended.value.code == 2
    assert_one_sentence(capsys.readouterr().err, sentence, broken)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_gpu_is_said(
    tables: Path, tmp_path: Path, own: Any, composed: Any, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit), exit_on_error():
        run(composed(tmp_path, *own(tables), "trainer=gpu"))
    assert_one_sentence(capsys.readouterr().err, "torch finds no CUDA device here; use trainer=cpu", tmp_path)


def test_train_py_itself_answers_mistakes_and_help(root: Path, broken: Path, own: Any) -> None:
    (broken / "films.csv").unlink()
    run_dir = f"run_dir={broken / 'run'}"
    asked = start(root, "--help")
    mistakes = {
        "there is no such file": start(root, *own(broken), run_dir),
        "dimm": start(root, "retrieval.dimm=16", run_dir),
    }
    for sentence, process in mistakes.items():
        _, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 2
        assert_one_sentence(stderr, sentence, broken)
    text, _ = asked.communicate(timeout=PATIENCE_S)
    assert asked.returncode == 0
    assert_help_is_complete(root / "conf", text)


def assert_help_is_complete(conf: Path, text: str) -> None:
    groups = {line.split(": ")[0]: line.split(": ")[1].split(", ") for line in text.splitlines() if ": " in line[:20]}
    for folder in (one for one in conf.iterdir() if one.is_dir()):
        assert sorted(groups[folder.name]) == sorted(file.stem for file in folder.glob("*.yaml"))
        assert f"\n{folder.name}:" in text
    for file in ("retrieval/two_tower", "ranking/multi_objective", "trainer/cpu", "protocol/global_time"):
        for key in yaml.safe_load((conf / f"{file}.yaml").read_text()):
            assert f"  {key}: " in text


def test_a_sweep_over_own_tables_is_compared_and_logged(root: Path, tables: Path, tmp_path: Path, own: Any) -> None:
    sweep = start(
        root,
        "-m",
        *own(tables),
        "logger=offline",
        "retrieval.dim=16,32",
        "ranking.dim=8,16",
        f"hydra.sweep.dir={tmp_path}",
        "hydra.launcher.n_jobs=2",
    )
    stdout, stderr = sweep.communicate(timeout=3 * PATIENCE_S)
    assert sweep.returncode == 0, stderr[-2_000:]
    compared = json.loads((tmp_path / "comparison.json").read_text())
    assert len(compared) == 4
    assert str(tmp_path / "comparison.json") in stdout
    dims = set()
    for job in range(4):
        settings = Bundle.open(tmp_path / str(job) / "bundle").document("config.yaml")
        dims.add((settings["retrieval"]["dim"], settings["ranking"]["dim"]))
        (logged,) = (tmp_path / str(job) / "wandb").glob("offline-run-*")
        assert [file for file in logged.glob("*.wandb") if file.stat().st_size > 1_000]
    assert dims == {(16, 8), (16, 16), (32, 8), (32, 16)}


def test_an_interrupted_run_goes_on_where_it_stopped(
    root: Path, tmp_path: Path, tiny: Any, composed: Any, run: Any
) -> None:
    overrides = (*tiny, "retrieval.epochs=8", "ranking.epochs=2")
    process = start(root, *overrides, f"run_dir={tmp_path}")
    wait_for(tmp_path / "checkpoints" / "towers_early" / "last.ckpt", process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert stderr.endswith("interrupted; the same command with the same run_dir goes on from here\n")
    assert "Traceback" not in stderr
    assert not (tmp_path / "bundle").exists()
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("checkpoints/*/trained.pt")}
    with pytest.raises(ConfigError, match=r"was begun with ranking\.epochs=2, this run has 3; choose another run_dir"):
        run(composed(tmp_path, *overrides, "ranking.epochs=3"))
    _, bundle = run(composed(tmp_path, *overrides))
    assert Bundle.open(tmp_path / "bundle") == bundle
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not file.is_file():
        assert process.poll() is None, "the run ended before its first checkpoint"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_checkpoints_are_claimed_once_there_are_some_and_name_what_differs(tmp_path: Path) -> None:
    claim(tmp_path, {"seed": 0, "data": {"sha256": "a"}})
    claim(tmp_path, {"seed": 1, "data": {"sha256": "a"}})
    (tmp_path / "towers").mkdir()
    (tmp_path / "towers" / "last.ckpt").touch()
    claim(tmp_path, {"seed": 1, "data": {"sha256": "a"}, "logger": {"mode": "offline"}})
    with pytest.raises(ConfigError, match=r"was begun with data\.sha256='a', this run has 'b'"):
        claim(tmp_path, {"seed": 1, "data": {"sha256": "b"}})


def test_a_finished_run_is_not_mixed_with_another_configuration(
    trained: Any, composed: Any, run: Any, tiny: Any
) -> None:
    before = trained.bundle.fingerprint
    with pytest.raises(
        ConfigError, match=r"was begun with data\.events=9000, this run has 4000; choose another run_dir"
    ):
        run(composed(trained.folder, *tiny))
    assert Bundle.open(trained.folder / "bundle").fingerprint == before
