"""`python -m recsys measure`: a table of 80 columns, a self-contained page, Parquet and gauges; mistakes in one sentence."""

import re

import polars as pl
import pytest
from typer.testing import CliRunner

from recsys.cli import measure as command
from recsys.cli.main import app
from recsys.data.simulation.shop import SimulatedShop
from recsys.data.simulation.simulated_log import SimulatedLog
from recsys.data.simulation.visits import reactions, visits
from recsys.errors import sentence_of

SETTINGS = """
actions: {kind: word, amount: number, seconds: number}
outcomes:
  click: {value: "kind == 'click'", window_s: 3600}
  revenue: {value: "where(kind == 'buy', amount)", window_s: 86400, credit: linear}
by: [context.arm]
return_days: [1]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    shop = SimulatedShop(users=40, items=30, days=2, slate=3, seed=0, arms={"control": 0.0, "<treatment>": 0.5})
    shown = visits(shop)
    SimulatedLog(history=1, files_per_day=1).write(folder / "events", shop, shown, reactions(shop, shown))
    (folder / "measurement.yaml").write_text(SETTINGS)
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(command, "console", type(command.console)(width=80))
    settings = ["--settings", str(folder / "measurement.yaml")]
    return lambda *more: CliRunner().invoke(app, ["measure", str(folder / "events"), *settings, *more])


def test_figures_are_printed_written_and_drawn(folder, run):
    done = run()
    assert done.exit_code == 0, done.output
    tables, _, files = done.output.partition("read  ")
    assert max(map(len, tables.splitlines())) <= 80
    assert re.search(r"click@10 +\d+\.\d\d% +\d+\.\d\d% +\d+\.\d\d% +\d+", tables)
    assert "by context.arm" in tables
    assert "by bundle" not in tables  # there is one
    assert "next     python -m recsys measure" in files
    figures = pl.read_parquet(folder / "measurement" / "kpis.parquet")
    assert {"all", "surface", "context.arm", "day"} <= set(figures["split"])
    page = (folder / "measurement" / "page.html").read_text()
    assert not re.search(r"https?://|<script|src=|@import", page)
    assert "<treatment>" not in page
    assert page.count("<svg") == 2 * page.count("<h2>by ")
    assert 'metric="click@10"' in (folder / "measurement" / "metrics.prom").read_text()
    again = run()
    assert "read     0 new rows" in again.output
    assert again.output.partition("read  ")[0] == tables


def test_the_objectives_of_a_description_are_measured_without_reading_its_tables(folder, tmp_path):
    (tmp_path / "description.yaml").write_text(
        "interactions: {file: away.csv, user: u, item: i, timestamp: t, actions: {kind: word, seconds: number}}\n"
        "objectives: {click: \"kind == 'click'\", long: seconds > 60}\ntarget: click\n"
    )
    options = ["--data", str(tmp_path / "description.yaml"), "--out", str(tmp_path / "out"), "--days", "1"]
    done = CliRunner().invoke(app, ["measure", str(folder / "events"), *options, "--until", "2024-01-01"])
    assert done.exit_code == 0, done.output
    found = pl.read_parquet(tmp_path / "out" / "kpis.parquet").filter(pl.col("split") == "all")
    rates = dict(found.select("metric", "estimate").iter_rows())
    assert 0 < rates["long@10"] < rates["click@10"] < 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "x.yaml"], "either --data"),
        (["--until", "yesterday"], "--until is 'yesterday'"),
        (["--until", "1999-12-31"], "no impression is from 1999-12-04 to 1999-12-31"),
    ],
)
def test_a_mistake_is_one_sentence(run, options, words):
    done = run(*options)
    assert words in sentence_of(done.exception)


def test_a_log_shorter_than_its_windows_says_so(folder, tmp_path):
    text = (folder / "measurement.yaml").read_text()
    (tmp_path / "long.yaml").write_text(re.sub(r"window_s: \d+", "window_s: 31000000", text))
    options = ["--settings", str(tmp_path / "long.yaml"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["measure", str(folder / "events"), *options])
    assert "no window of an outcome is over" in sentence_of(done.exception)
