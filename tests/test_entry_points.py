"""`python train.py` as people call it: own tables, every kind of mistake, a sweep, an interruption, a second time."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.numpy import load_file

from recsys.bundle import Bundle
from recsys.cli.sweep import Sweep
from recsys.data.dataset import DESCRIPTION_FILE
from recsys.data.sources.tables import Tables
from recsys.data.splits import GlobalTime
from recsys.errors import ConfigError, exit_on_error
from recsys.evaluation.report import Report
from recsys.training.experiment import check_same_configuration
from recsys.training.run_folder import exclusive

pytestmark = pytest.mark.slow

DESCRIPTION = """
interactions:
  {file: events.csv, user: user_id, item: film, timestamp: ts, actions: {rating: number}, context: {device: category}}
items: {file: films.csv, item: film, columns: {title: text, genres: categories, year: number}}
objectives: {watch: "1", like: "rating >= 4"}
target: watch
title: title
"""
SEVERAL = (
    "data=synthetic",
    "~ranking",
    "logger=csv",
    "protocol.cuts=2",
    "seed=5",
    "seeds=2",
    "retrieval.epochs=8",
    "~evaluation.baselines.recent_popularity",
    "~evaluation.baselines.item_knn",
    "~evaluation.baselines.transitions",
    "~evaluation.baselines.linear_mix",
    "~evaluation.baselines.ease",
    "~evaluation.baselines.als",
)
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
    """It hears SIGINT even where the tests run in the background of a shell, which ignores it for its children."""
    return subprocess.Popen(
        [sys.executable, "train.py", *arguments],
        cwd=root,
        env={**os.environ, "COLUMNS": "200", "WANDB_SILENT": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
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
    "infinity": (cell("rating", "inf"), [], "column 'rating', row 7: 'inf' is not a finite number"),
    "text for a number": (cell("rating", "good"), [], "column 'rating', row 7: 'good' is not a number"),
    "no time": (cell("ts", "yesterday"), [], "column 'ts', row 7: 'yesterday' is no time"),
    "empty table": (header_only, [], "the table has no rows"),
    "one time in milliseconds": (cell("ts", "1700000000000"), [], "column 'ts', row 7: '1700000000000'"),
    "too few events": (shorten, [], "of the split"),
    "unknown column in an objective": (swap("data.yaml", "rating >=", "stars >="), [], "'stars'"),
    "a target never positive": (swap("data.yaml", 'watch: "1"', 'watch: "rating > 9"'), [], "is true for none of"),
    "misspelt key": (lambda _: None, ["retrieval.dimm=16"], "dimm"),
    "unknown option": (lambda _: None, ["protocol=global"], "protocol/global"),
    "text for a setting": (lambda _: None, ["retrieval.dim=large"], "retrieval.dim is 'large'"),
    "out of range": (
        lambda _: None,
        ["ranking.sizes.dropout=2"],
        "ranking.sizes.dropout is 2; choose a number from 0 to 0.95",
    ),
    "fractions above one": (lambda _: None, ["protocol.test=0.9"], "keep the sum below 1"),
    "unknown column left out": (lambda _: None, ["features.leave_out=[devise]"], "did you mean 'device'?"),
    "letters left out": (lambda _: None, ["features.leave_out=device"], "features.leave_out is 'device'; write a list"),
    "items left out": (lambda _: None, ["features.leave_out=[item]"], "features.leave_out names item"),
    "no seeds": (lambda _: None, ["seeds=0"], "seeds is 0; choose a whole number from 1"),
    "half a seed": (lambda _: None, ["seed=1.5"], "seed is 1.5; choose a whole number from 0"),
    "seed of content": (lambda _: None, ["content.seed=-1"], "content.seed is -1"),
    "no evaluation": (lambda _: None, ["~evaluation"], "there is no evaluation; only ranking can be left out"),
    "unknown knob of a baseline": (
        lambda _: None,
        ["+evaluation.baselines.popularity.grid.depth=[1]"],
        "the grid of a baseline does not fit it",
    ),
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
    for folder in (one for one in conf.iterdir() if one.is_dir() and one.name != "hydra"):
        assert sorted(groups[folder.name]) == sorted(file.stem for file in folder.glob("*.yaml"))
        assert f"\n{folder.name}:" in text
    for file in ("retrieval/two_tower", "ranking/multi_objective", "trainer/cpu", "protocol/global_time"):
        for key in yaml.safe_load((conf / f"{file}.yaml").read_text()).keys() - {"defaults"}:
            assert f"  {key}: " in text or f"  {key}:\n" in text


@pytest.fixture
def towers(tables: Path, own: Any) -> list[str]:
    """Overrides for towers alone on own tables, with nothing to compare them with."""
    kept = [one for one in own(tables) if not one.startswith(("ranking.", "features."))]
    return [*kept, "~ranking", "evaluation.baselines={}"]


@pytest.mark.parametrize(
    "launcher", ["hydra.launcher.n_jobs=2", "hydra/launcher=basic", "hydra/launcher=submitit_local"]
)
def test_failing_jobs_of_a_sweep_end_no_other_and_the_best_is_chosen_by_validation(
    launcher: str, root: Path, towers: list[str], tmp_path: Path
) -> None:
    left_out = "[],[devise],[device]"  # of which only the data know that there is no devise
    sweep = start(
        root,
        "-m",
        *towers,
        "logger=offline",
        f"features.leave_out={left_out}",
        f"hydra.sweep.dir={tmp_path}",
        launcher,
    )
    stdout, stderr = sweep.communicate(timeout=3 * PATIENCE_S)
    assert sweep.returncode == 0, stderr[-2_000:]
    assert "Traceback" not in stderr
    compared = json.loads((tmp_path / "comparison.json").read_text())
    (failure,) = compared["failures"]
    assert failure["name"] == "1: features.leave_out=[devise]"
    assert failure["error"].startswith("ConfigError: ")
    assert "devise" in failure["error"]
    assert "\nTraceback (most recent call last):\n" in Path(failure["log"]).read_text()
    assert "1 of 3 jobs failed" in stdout
    names = {"features.leave_out=[]": "0", "features.leave_out=[device]": "2"}
    documents = {name: json.loads((tmp_path / job / "metrics.json").read_text()) for name, job in names.items()}
    assert compared["best"] == max(names, key=lambda name: documents[name]["validation"]["value"])
    for document in documents.values():
        assert document["test_reads"] == {"run": 0, "sweep": 0}
        assert "rows" not in document
    job = tmp_path / names[compared["best"]]
    assert f"run_dir={job} evaluate=test" in next(line for line in stdout.splitlines() if line.startswith("next"))
    for name in names.values():
        (logged,) = (tmp_path / name / "wandb").glob("offline-run-*")
        assert [file for file in logged.glob("*.wandb") if file.stat().st_size > 1_000]


def test_a_sweep_whose_jobs_all_fail_ends_with_2(root: Path, towers: list[str], tmp_path: Path) -> None:
    failing = ("hydra/launcher=basic", "features.leave_out=[devise],[devices]", f"hydra.sweep.dir={tmp_path}")
    sweep = start(root, "-m", *towers, *failing)
    stdout, _ = sweep.communicate(timeout=3 * PATIENCE_S)
    assert sweep.returncode == 2
    assert "2 of 2 jobs failed" in stdout
    assert json.loads((tmp_path / "comparison.json").read_text())["best"] is None


def test_a_sweep_that_cannot_run_ends_before_its_first_job(root: Path, tables: Path, tmp_path: Path, own: Any) -> None:
    space = ("retrieval.learning_rate=0.001,2", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    sweep = start(root, "-m", *own(tables), *space)
    _, stderr = sweep.communicate(timeout=PATIENCE_S)
    assert sweep.returncode == 2
    assert_one_sentence(stderr, "error: the sweep cannot run ", tmp_path)
    assert not list(tmp_path.glob("sweep/*/"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["retrieval.learning_rate=0.001,2"], "retrieval.learning_rate is 2; choose a number from 1e-07 to 1"),
        (["retrieval.dimm=8,16"], "dimm"),
        (["hparams_search=ranker", "retrieval.dropout=3"], "retrieval.dropout is 3"),
        (["optimised_metric=auc", "seed=0,1"], "optimised_metric is 'auc'"),
    ],
)
def test_a_search_space_is_checked_before_the_first_job(
    overrides: list[str],
    sentence: str,
    root: Path,
    tables: Path,
    tmp_path: Path,
    own: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    space = [*own(tables), *overrides]
    for_all = [one for one in space if not re.search(r"=[^\[{]*,", one)]
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        folder = f"hydra.sweep.dir={tmp_path / 'sweep'}"
        config = compose("train", overrides=[*for_all, folder], return_hydra_config=True)
        OmegaConf.set_readonly(config, False)
        config.hydra.job.config_name, config.hydra.overrides.task = "train", space
        with pytest.raises(SystemExit) as ended:
            Sweep().on_multirun_start(config)
    assert ended.value.code == 2
    assert_one_sentence(capsys.readouterr().err, sentence, tmp_path)
    assert not (tmp_path / "sweep").exists()


def test_a_second_sweep_in_a_folder_is_refused(root: Path, tables: Path, tmp_path: Path, own: Any) -> None:
    with exclusive(tmp_path / "sweep"):
        sweep = start(root, "-m", *own(tables), "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}")
        _, stderr = sweep.communicate(timeout=PATIENCE_S)
    assert sweep.returncode == 2
    assert_one_sentence(stderr, f"another training is running in {tmp_path / 'sweep'}", tmp_path)


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Two windows of time with two seeds each, interrupted in the second seed and called once more."""

    folder: Path
    stderr: str
    returncode: int
    kept: dict[Path, int]
    """what was finished when it was interrupted, and when that had been written"""
    overrides: tuple[str, ...]
    report: Report
    bundle: Bundle


@pytest.fixture(scope="module")
def resumed(root: Path, tiny: Any, composed: Any, run: Any, tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    folder = tmp_path_factory.mktemp("resumed")
    overrides = (*(one for one in tiny if not one.startswith(("ranking.", "recipe="))), *SEVERAL)
    process = start(root, *overrides, f"run_dir={folder}")
    wait_for(folder / "checkpoints" / "split_0_seed_5" / "towers_validation" / "last.ckpt", process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert not (folder / "bundle").exists()
    kept = {file: file.stat().st_mtime_ns for file in folder.glob("checkpoints/*/*/trained.pt")}
    with pytest.raises(
        ConfigError, match=r"was begun with retrieval\.epochs=8, this run has 9; choose another run_dir"
    ):
        run(composed(folder, *overrides, "retrieval.epochs=9"))
    report, bundle = run(composed(folder, *overrides))
    return Resumed(
        folder=folder,
        stderr=stderr,
        returncode=process.returncode,
        kept=kept,
        overrides=overrides,
        report=report,
        bundle=bundle,
    )


def test_an_interrupted_run_goes_on_where_it_stopped(resumed: Resumed) -> None:
    assert resumed.returncode == 130
    assert resumed.stderr.endswith("interrupted; the same command with the same run_dir goes on from here\n")
    assert "Traceback" not in resumed.stderr
    places = {str(file.parent.relative_to(resumed.folder / "checkpoints")) for file in resumed.kept}
    assert places >= {"split_0_seed_6/towers_validation", "split_0_seed_6/towers_test"}
    assert not any(place.startswith("split_1") for place in places)
    assert {file: file.stat().st_mtime_ns for file in resumed.kept} == resumed.kept
    assert Bundle.open(resumed.folder / "bundle") == resumed.bundle


def test_a_run_of_several_seeds_and_splits_says_their_means(resumed: Resumed) -> None:
    document = json.loads((resumed.folder / "metrics.json").read_text())
    assert document["seeds"] == [5, 6]
    assert document["ours"] == ["towers", "retrieval"]
    assert list(document["rows"]) == ["popularity", "towers", "retrieval"]
    assert "synthetic, 2 splits pooled: global time split (window 1 of 2); global time" in document["protocol"]
    for system in ("towers", "retrieval"):
        row = document["rows"][system]
        assert row["seeds"] == [6, 5], "what is served comes last"
        assert 0 < row["recall@100"] <= 1
        assert row["spread"]["recall@100"] >= 0
    assert "seeds" not in document["rows"]["popularity"]
    assert document["seconds"] > 0
    assert document["peak_memory_mib"] > 100


def test_one_hash_covers_the_targets_of_all_splits(resumed: Resumed) -> None:
    dataset = Tables(description=str(resumed.folder / "data" / DESCRIPTION_FILE)).load()
    splits = GlobalTime(rank=0.2, validation=0.1, test=0.2, cuts=2, later=0.0, horizon_days=None).splits(dataset)
    hashes = [split.targets_sha256(dataset) for split in splits]
    assert resumed.report.targets_sha256 == hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    assert resumed.bundle.document("lineage.json")["targets_sha256"] == hashes[-1]


def test_what_is_served_is_the_last_split_with_the_first_seed(resumed: Resumed) -> None:
    lineage = resumed.bundle.document("lineage.json")
    assert lineage["seed"] == 5
    assert lineage["split"]["name"] == "global time split (window 2 of 2)"
    assert resumed.bundle.document("metrics.json") == json.loads((resumed.folder / "metrics.json").read_text())
    kept = torch.load(resumed.folder / "checkpoints/split_1_seed_5/towers_test/trained.pt", weights_only=True)
    served = load_file(resumed.bundle.file("weights.safetensors"))
    trained = {name.replace("towers.", "towers.members.0."): part for name, part in kept["state_dict"].items()}
    assert served.keys() == trained.keys()
    for name, tensor in trained.items():
        assert (served[name] == tensor.numpy()).all(), name


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not file.is_file():
        assert process.poll() is None, f"the run ended before {file}: {process.communicate()[1][-2_000:]}"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_checkpoints_are_claimed_once_there_are_some_and_name_what_differs(tmp_path: Path) -> None:
    check_same_configuration(tmp_path, {"seed": 0, "data": {"sha256": "a"}})
    check_same_configuration(tmp_path, {"seed": 1, "data": {"sha256": "a"}})
    (tmp_path / "split_0_seed_0" / "towers_test").mkdir(parents=True)
    (tmp_path / "split_0_seed_0" / "towers_test" / "last.ckpt").touch()
    check_same_configuration(tmp_path, {"seed": 1, "data": {"sha256": "a"}, "logger": {"mode": "offline"}})
    with pytest.raises(ConfigError, match=r"was begun with data\.sha256='a', this run has 'b'"):
        check_same_configuration(tmp_path, {"seed": 1, "data": {"sha256": "b"}})


def test_a_finished_run_is_not_mixed_with_another_configuration(
    trained: Any, composed: Any, run: Any, tiny: Any
) -> None:
    before = trained.bundle.fingerprint
    with pytest.raises(
        ConfigError, match=r"was begun with data\.events=9000, this run has 4000; choose another run_dir"
    ):
        run(composed(trained.folder, *tiny))
    assert Bundle.open(trained.folder / "bundle").fingerprint == before
