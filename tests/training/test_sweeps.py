"""Folders of a sweep as they are read: by VALIDATION alone, failed jobs, jobs that were evaluated on TEST since."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from recsys.cli.compare import compare
from recsys.errors import ConfigError, DataError
from recsys.evaluation.chart import TITLES
from recsys.evaluation.impressions import ImpressionReport, impression_measures
from recsys.evaluation.selection import VALIDATION_USERS
from recsys.training.pruning import PrunedError
from recsys.training.run_log import LOG_FILE
from recsys.training.sweeps import (
    ERROR_FILE,
    PRUNED_FILE,
    attempt,
    command_for_test,
    compare_jobs,
    cost_of,
)

COMMON = ["data=synthetic", "logger=csv"]


def started(sweep: Path, number: int, *own: str) -> Path:
    folder = sweep / str(number)
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([*COMMON, *own]))
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump({"run_dir": "mine", "seed": number}))
    return folder


def finished(
    sweep: Path, number: int, *own: str, ndcg: float, test: float, cpu_ms: float | None = None, limit: float = 5.0
) -> Path:
    folder = started(sweep, number, *own)
    row = dict.fromkeys(TITLES, 0.1) | {"ndcg@10": ndcg}
    validation = {
        "optimised_metric": "retrieval/ndcg@10",
        "targets_sha256": "a",
        "protocol": "VALIDATION of letters",
        "goals": {"retrieval/ndcg@10": ndcg},
        "rows": {"retrieval": row},
    }
    if cpu_ms is not None:
        validation["goals"] = {"retrieval/ndcg@10": ndcg, "serving/cpu_ms": cpu_ms}
        validation |= {"cost": {"cpu_ms": cpu_ms, "memory_mib": 1.0}, "budget": {"cpu_ms": limit}}
    rows = {"retrieval": dict.fromkeys(TITLES, test)}
    (folder / "metrics.json").write_text(json.dumps({"rows": rows, "validation": validation}))
    per_user = np.clip(np.random.default_rng(0).normal(ndcg, 0.1, 50), 0, 1)
    pl.DataFrame({"user": [f"u{one}" for one in range(50)], "retrieval/ndcg@10": per_user}).write_parquet(
        folder / VALIDATION_USERS
    )
    return folder


def test_the_best_is_chosen_by_validation_whatever_test_says(tmp_path: Path) -> None:
    finished(tmp_path, 0, "dim=8", ndcg=0.2, test=0.9)
    finished(tmp_path, 1, "dim=16", ndcg=0.3, test=0.1)
    finished(tmp_path, 10, "dim=32", ndcg=0.25, test=0.5)
    comparison = compare_jobs(tmp_path)
    assert [one.label for one in comparison.configurations] == ["1: dim=16", "10: dim=32", "0: dim=8"]


def test_seeds_are_grouped_and_unfinished_jobs_are_named(tmp_path: Path) -> None:
    for number, seed in enumerate((0, 1)):
        finished(tmp_path, number, "dim=8", f"seed={seed}", ndcg=0.2 + seed / 10, test=0.1)
    started(tmp_path, 2, "dim=16", "seed=0")
    comparison = compare_jobs(tmp_path)
    (one,) = comparison.configurations
    assert (one.label, one.by_seed) == ("0,1: dim=8", (0.2, pytest.approx(0.3)))
    (unfinished,) = comparison.failures
    assert unfinished.name == "2: dim=16 seed=0"
    assert "no figures (yet)" in unfinished.error


def test_an_evaluation_on_test_keeps_the_name_of_its_job(tmp_path: Path) -> None:
    finished(tmp_path, 0, "dim=8", ndcg=0.2, test=0.1)
    job = finished(tmp_path, 1, "dim=16", f"run_dir={tmp_path}/1", "evaluate=test", ndcg=0.3, test=0.1)
    best = compare_jobs(tmp_path).best
    assert best is not None
    assert best.name == "dim=16"
    assert command_for_test(job) == [*COMMON, "dim=16", f"run_dir={job}", "evaluate=test"]


def test_a_failed_attempt_leaves_type_sentence_and_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, error in enumerate((ConfigError("dim is 15; choose 16"), ZeroDivisionError("by\nzero"))):
        with attempt(started(tmp_path, number, f"dim={number}"), "interrupted"):
            raise error
    failures = compare_jobs(tmp_path).failures
    assert [one.error for one in failures] == ["ConfigError: dim is 15; choose 16", "ZeroDivisionError: by zero"]
    assert [one.log for one in failures] == [str(tmp_path / name / LOG_FILE) for name in ("0", "1")]
    assert "Traceback" in Path(failures[1].log).read_text()
    printed = capsys.readouterr().err
    assert printed.splitlines() == [f"error: {one.error} ({one.log})" for one in failures]
    with attempt(tmp_path / "1", "interrupted"):
        pass
    assert not (tmp_path / "1" / ERROR_FILE).exists()


def test_a_pruned_attempt_leaves_its_last_value_and_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = started(tmp_path, 0, "dim=8")
    with attempt(job, "interrupted"):
        raise PrunedError("ranking/ndcg@10", 2, 0.25)
    finished(tmp_path, 1, "dim=16", ndcg=0.3, test=0.1)
    comparison = compare_jobs(tmp_path)
    (pruned,) = comparison.pruned
    assert (pruned.name, pruned.metric, pruned.epoch, pruned.value) == (
        "0: dim=8",
        "ranking/ndcg@10",
        2,
        0.25,
    )
    assert comparison.failures == ()
    assert capsys.readouterr().out.startswith("pruned after epoch 2")
    with attempt(job, "interrupted"):
        pass
    assert not (job / PRUNED_FILE).exists()


def test_the_cost_of_a_job_is_read_from_its_figures(tmp_path: Path) -> None:
    assert cost_of(finished(tmp_path, 0, "dim=8", ndcg=0.2, test=0.1, cpu_ms=3.0)) == {"cpu_ms": 3.0, "memory_mib": 1.0}
    assert cost_of(finished(tmp_path, 1, "dim=8", ndcg=0.2, test=0.1)) == {}
    assert cost_of(started(tmp_path, 2, "dim=8")) == {}


def test_the_best_within_the_budget_is_written_and_the_front_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path, 0, "dim=8", ndcg=0.2, test=0.9, cpu_ms=3.0)
    finished(tmp_path, 1, "dim=16", ndcg=0.3, test=0.1, cpu_ms=6.0)
    compare(tmp_path)
    best = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert best["seed"] == 0
    assert best["run_dir"].startswith("runs/${now:")
    assert {"override hydra/launcher": "local"} in best["defaults"]
    assert best["hydra"]["callbacks"]
    printed = capsys.readouterr().out
    assert f"train.py --config-dir {tmp_path} --config-name best" in printed
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_where_all_are_over_the_budget_none_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path, 0, "dim=8", ndcg=0.2, test=0.9, cpu_ms=3.0, limit=1.0)
    compare(tmp_path)
    assert not (tmp_path / "best.yaml").exists()
    printed = capsys.readouterr().out
    assert "no configuration is within the budget" in printed
    assert "next" not in printed


def test_a_sweep_of_a_click_log_is_chosen_by_the_auc_of_its_target_on_validation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (500, 1)).astype(np.float32)
    for number, noise in enumerate((0.9, 0.3, 0.6)):
        predicted = np.clip(0.5 + 0.3 * (labels - 0.5) + noise * rng.normal(0, 0.3, labels.shape), 0.01, 0.99)
        right = impression_measures(labels, predicted, ("click",), {})
        wrong = impression_measures(labels, 1 - predicted, ("click",), {})
        report = ImpressionReport(
            name="clicks",
            protocol="split by time",
            rows={"training": 900, "validation": 500, "test": 500},
            seeds=(0, 1),
            validation=[right, right],
            test=[wrong, wrong],
            target="click",
            served="",
            seconds=1.0,
            peak_memory_mib=1.0,
        )
        report.save(started(tmp_path, number, f"dim={number}"))
    comparison = compare_jobs(tmp_path)
    assert [one.name for one in comparison.configurations] == ["dim=1", "dim=2", "dim=0"]
    assert (comparison.metric, comparison.failures) == ("auc", ())
    assert len(comparison.configurations[0].by_seed) == 2
    assert comparison.differences == (None, None, None)


def test_the_command_prints_the_table_and_the_next_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path, 0, "dim=8", ndcg=0.2, test=0.9)
    finished(tmp_path, 1, "list=[1,2]", ndcg=0.3, test=0.1)
    compare(tmp_path)
    printed = capsys.readouterr().out
    assert "1 of" not in printed
    line = next(line for line in printed.splitlines() if line.startswith("next"))
    assert line.endswith(f"run_dir={tmp_path}/1 evaluate=test")
    document: dict[str, Any] = json.loads((tmp_path / "comparison.json").read_text())
    assert (document["best"], document["optimised_metric"]) == ("list=[1,2]", "ndcg@10")
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(DataError, match="holds no job of a sweep"):
        compare(tmp_path / "1")
