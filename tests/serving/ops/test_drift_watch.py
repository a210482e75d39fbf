"""Drift is counted by real processes: gauges appear, a failure is reported once, and the end of the stack ends a count."""

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from recsys.measurement.drift.report import GAUGES
from recsys.pipeline import recommend
from serving.events.parquet import ParquetSink
from serving.events.record import Record, StoredRecord
from serving.layout import DeploymentLayout
from serving.ops.drift_watch import DriftWatch
from serving.processes import until

pytestmark = pytest.mark.slow

PATIENCE_S = 120.0


@pytest.fixture
def layout(trained: Any, tmp_path: Path) -> DeploymentLayout:
    """With a log of slates that were shown."""
    found = DeploymentLayout(serve=trained.folder / "serve", live=tmp_path / "live")
    queries = trained.replay.queries([-1] * 20, k=5)
    slates = recommend(queries, trained.stages)
    records = [Record.impression(query, slate, "recommend") for query, slate in zip(queries, slates, strict=True)]
    sink = ParquetSink(found.events)
    asyncio.run(sink.write([StoredRecord(sequence=at, record=one) for at, one in enumerate(records)]))
    sink.close()
    return found


def watched(
    layout: DeploymentLayout, period_s: float, sentences: list[str]
) -> tuple[threading.Thread, threading.Event]:
    stopped = threading.Event()
    thread = threading.Thread(target=DriftWatch(layout, period_s, sentences.append).run, args=(stopped,))
    thread.start()
    return thread, stopped


def test_a_failure_is_reported_once_and_the_next_count_comes_all_the_same(layout: DeploymentLayout) -> None:
    """A file stands where the folder of results would be."""
    layout.measurement.write_text("in the way")
    sentences: list[str] = []
    thread, stopped = watched(layout, 0.01, sentences)
    try:
        assert until(lambda: bool(sentences), PATIENCE_S)
        layout.measurement.unlink()
        assert until((layout.measurement / GAUGES).is_file, PATIENCE_S)
    finally:
        stopped.set()
        thread.join()
    assert len(sentences) == 1
    assert sentences[0].startswith("drift is not counted: ")
    assert "Traceback" not in sentences[0]


class EndlessWatch(DriftWatch):
    """Counts by a process that would outlast the patience of a test."""

    _command = ("sleep", "600")  # type: ignore[assignment]


def test_the_end_of_the_stack_ends_a_count(layout: DeploymentLayout) -> None:
    sentences: list[str] = []
    stopped = threading.Event()
    thread = threading.Thread(target=EndlessWatch(layout, 0.0, sentences.append).run, args=(stopped,))
    thread.start()
    assert until(lambda: bool(sleepers()), PATIENCE_S)
    stopped.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert not sentences
    assert not sleepers()


def sleepers() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if child.name() == "sleep"]


def test_nothing_is_counted_before_there_is_a_log(layout: DeploymentLayout) -> None:
    shutil.rmtree(layout.events)
    sentences: list[str] = []
    thread, stopped = watched(layout, 0.01, sentences)
    stopped.wait(0.5)
    stopped.set()
    thread.join()
    assert not sentences
    assert not layout.measurement.exists()
