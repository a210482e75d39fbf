"""The table of cases: what counts as right, and that nothing runs twice."""

import json

import polars as pl
import pytest

from benchmarks.claims.data import first_hour
from benchmarks.claims.data.data_check import figures, measure, tables, write
from benchmarks.lib.measured_process import ProcessResult, run_measured
from recsys.errors import ConfigError


@pytest.mark.parametrize(
    ("code", "output", "outcome"),
    [
        (2, "reading\nerror: a.csv, row 3: 'x' is no time; write one\n", first_hour.SENTENCE),
        (1, "Traceback (most recent call last):\n  File\nIndexError: 0\n", first_hour.TRACEBACK),
        (2, "Traceback (most recent call last):\nerror: both\n", first_hour.TRACEBACK),
        (2, "Usage: recsys\n", first_hour.TRACEBACK),
        (-9, "", first_hour.TRACEBACK),
    ],
)
def test_only_one_sentence_with_its_exit_code_is_a_right_refusal(code, output, outcome):
    done = ProcessResult(code=code, output=output, seconds=1.0, cpu_s=1.0, peak_mib=1.0)
    assert first_hour.ending(done)[0] == outcome


def test_a_process_that_fails_keeps_its_code_its_output_and_its_peak(tmp_path):
    code = "import sys; held = bytearray(90_000_000); print(len(held)); sys.exit(5)"
    done = run_measured(["-c", code], tmp_path)
    assert (done.code, done.output.strip()) == (5, "90000000")
    assert 90 < done.peak_mib < 200
    assert run_measured(["-c", "import time; time.sleep(60)"], tmp_path, limit_s=0.2).code == -9


def test_a_refused_log_ends_at_its_step_and_is_not_run_again(tmp_path, capsys):
    case, runs = tmp_path / "cases" / "prices", tmp_path / "runs"
    case.mkdir(parents=True)
    (case / "numbers.csv").write_text("price,weight\n1.5,2.5\n3.5,1.25\n", encoding="utf-8")
    assert first_hour.main([str(case.parent), f"--runs={runs}"]) == 0
    kept = runs / "prices" / first_hour.OUTCOME
    result = json.loads(kept.read_text(encoding="utf-8"))
    assert (result["outcome"], result["step"], result["rows"]) == (first_hour.SENTENCE, "init", None)
    assert "no column looks like the ids of users" in result["words"]
    kept.write_text(json.dumps(result | {"outcome": first_hour.TRACEBACK}), encoding="utf-8")
    assert first_hour.main([str(case.parent), f"--runs={runs}"]) == 1
    assert "0 of 1 cases are right" in capsys.readouterr().out
    assert [file.name for file in case.iterdir()] == ["numbers.csv"]


def test_unknown_cases_and_options_are_refused(tmp_path):
    (tmp_path / "one").mkdir()
    for arguments in ([], [str(tmp_path / "nowhere")], [str(tmp_path), "two"], [str(tmp_path), "--fast"]):
        with pytest.raises(ConfigError):
            first_hour.read(arguments)
    assert [case.name for case in first_hour.read([str(tmp_path)])[0]] == ["one"]


def test_the_large_log_has_every_user_and_item_and_is_measured(tmp_path):
    made = tables(events=600, users=80, items=50, seed=0)
    assert (made["events"]["user"].n_unique(), made["events"]["item"].n_unique()) == (80, 50)
    assert made["events"]["at"].is_sorted()
    write(tmp_path, made)
    assert pl.read_csv(tmp_path / "events.csv").equals(pl.read_parquet(tmp_path / "events.parquet"))
    rows = measure(tmp_path, ("parquet",))
    assert [(row["command"], row["files"]) for row in rows] == [("data check", "parquet"), ("data init", "parquet")]
    assert (tmp_path / "parquet.html").stat().st_size > 1_000
    assert set(figures(rows)) == {"data_check_parquet_s", "data_init_parquet_s"}
