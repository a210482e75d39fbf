"""`python -m recsys drift`: tables of 80 columns, a self-contained page, JSON and gauges; mistakes in one sentence.

The log is of the trained world: its own requests, answered by its own bundle, written by the consumer's sink.
"""

import asyncio
import json
import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from recsys.cli import drift as command
from recsys.cli.main import app
from recsys.errors import sentence_of
from recsys.items.store import Edit, ItemStore
from recsys.pipeline import recommend
from recsys.stages import read_overlay
from serving.events.parquet import ParquetSink
from serving.events.record import Record, StoredRecord

HOUR = 3_600.0


def write(folder, queries, stages):
    slates = recommend(queries, stages)
    records = [Record.impression(query, slate, "recommend") for query, slate in zip(queries, slates, strict=True)]
    sink = ParquetSink(folder)
    asyncio.run(sink.write([StoredRecord(sequence=at, record=one) for at, one in enumerate(records)]))
    sink.close()


@pytest.fixture(scope="module")
def queries(trained):
    """600 requests of an hour; the last ones lack their device."""
    end = float(trained.replay.now.max())
    rows = range(0, trained.dataset.num_events, trained.dataset.num_events // 600)
    asked = trained.replay.queries(list(rows)[:600], k=3)
    return [
        replace(query, request_id=f"r{number}", now=end + number * HOUR / 600) for number, query in enumerate(asked)
    ]


@pytest.fixture(scope="module")
def live(trained, queries, tmp_path_factory):
    folder = tmp_path_factory.mktemp("live")
    write(folder / "events", queries, trained.stages)
    return folder


@pytest.fixture
def drift(live, trained, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(command, "console", type(command.console)(width=80))
    options = ["--bundle", str(trained.folder / "bundle"), "--now", str(float(trained.replay.now.max()) + 2 * HOUR)]
    return lambda *more, log=live / "events": CliRunner().invoke(app, ["drift", str(log), *options, *more])


def test_figures_are_printed_written_and_drawn(drift, live):
    done = drift()
    assert done.exit_code == 0, done.output
    tables, _, files = done.output.partition("read  ")
    assert max(map(len, tables.splitlines())) <= 80
    assert "nearest to their limits" in tables
    assert "600 new requests" in files
    assert re.search(r"next +python -m recsys drift .* --check", files)
    folder = live / "measurement"
    document = json.loads((folder / "drift.json").read_text())
    known = {(one["figure"], one["of"]) for one in document["figures"]}
    assert {("psi", "context.device"), ("wasserstein", "profile.age"), ("degraded", ""), ("log_age_h", "")} <= known
    page = (folder / "drift.html").read_text()
    assert not re.search(r"https?://|<script|src=|@import", page)
    assert "<svg" in page
    assert 'recsys_drift{figure="psi",of="context.device"' in (folder / "drift.prom").read_text()
    assert "read     0 new requests" in drift().output


def test_requests_without_a_column_end_a_check_with_code_1(drift, trained, queries, tmp_path):
    bare = [replace(query, context={}) if number % 3 == 0 else query for number, query in enumerate(queries)]
    write(tmp_path / "events", bare, trained.stages)
    found = drift("--check", log=tmp_path / "events")
    assert found.exit_code == 1
    table, _, _ = found.output.partition("nearest to their limits")
    assert re.search(r"missing +context\.device +\d+ h +0\.3", table), found.output
    assert "alarms among" in found.output
    assert (
        'recsys_drift_alarm{figure="missing",of="context.device",window="24"} 1.0'
        in (tmp_path / "measurement" / "drift.prom").read_text()
    )
    loose = tmp_path / "thresholds.yaml"
    loose.write_text(
        "windows: [1]\nlimits: {missing: 1, psi: null, wasserstein: null, unknown: null, log_age_h: null, degraded: null}\n"
    )
    assert drift("--check", "--thresholds", str(loose), log=tmp_path / "events").exit_code == 0


def test_the_age_of_a_feed_of_items_is_a_figure(drift, trained, tmp_path):
    store = ItemStore(tmp_path / "items")
    item = trained.dataset.items["item"][0]
    store.put(read_overlay(trained.bundle).schema, [Edit(item=item, columns={"price": 3.0})], who="feed")
    limits = tmp_path / "thresholds.yaml"
    limits.write_text("limits: {items_age_h: 24}\n")
    changed = command.newest_change(tmp_path / "items")
    options = ["--items", str(tmp_path / "items"), "--thresholds", str(limits)]
    assert "items_age_h" not in drift(*options, "--now", str(changed + 23 * HOUR)).output.partition("nearest")[0]
    late = drift(*options, "--now", str(changed + 25 * HOUR))
    assert re.search(r"items_age_h", late.output.partition("nearest")[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--thresholds", "{tmp}/none.yaml"], "none.yaml"),
        (["--data", "{tmp}/none.yaml"], "none.yaml"),
        (["--bundle", "{tmp}"], "manifest"),
    ],
)
def test_mistakes_are_one_sentence(drift, tmp_path, options, words):
    done = drift(*(option.format(tmp=tmp_path) for option in options))
    assert done.exit_code != 0
    assert words in (sentence_of(done.exception) or "")
