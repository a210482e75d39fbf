"""Users of the arms of an experiment that holds on one surface and for some days: nobody is lost by what else they did."""

import asyncio
from datetime import date
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from recsys.cli.main import app
from recsys.contracts import Query, Slate, SlateItem
from recsys.measurement.arms import arm_users
from recsys.measurement.kpis import Period
from recsys.measurement.outcomes import MeasuredLog
from recsys.measurement.settings import MeasurementSettings, Outcome
from serving.events.parquet import ParquetSink
from serving.events.record import Record, StoredRecord

USERS, FIRST, DAY = 40, 1_704_153_600.0, 86_400.0
"""the first day is 2024-01-02"""
CLICK = {"value": "kind == 'click'", "window_s": 60}
DOCUMENT = {
    "experiments": [
        {
            "name": "wider",
            "hypothesis": "x",
            "arms": {"control": {"share": 0.5}, "wide": {"share": 0.5}},
            "surfaces": ["home"],
            "primary": "click_per_request",
            "start": "2024-01-02",
            "end": "2024-01-03",
        }
    ]
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Each user asks at home, with an arm, elsewhere, and at home again when the experiment is over; one was in two arms."""
    records = []
    for number in range(USERS):
        arm = {"wider": "wide" if number % 2 else "control"}
        asked = [("home", FIRST, arm), ("search", FIRST + 60, {}), ("home", FIRST + DAY + 60, {})]
        asked += [("home", FIRST + 90, {"wider": "wide"})] if number == 0 else []
        for at, (surface, now, arms) in enumerate(asked):
            query = Query(user=f"u{number}", now=now, surface=surface, arms=arms, request_id=f"{number}.{at}")
            item = SlateItem(item="a", utility=1.0, sources=("towers",), probabilities={})
            slate = Slate(
                user=query.user, request_id=query.request_id, items=(item,), degraded=(), bundle="b", rules="r"
            )
            records.append(Record.impression(query, slate, "recommend"))
    last = Query(user="late", now=FIRST + 3 * DAY, request_id="last")
    slate = Slate(user="late", request_id="last", items=(), degraded=(), bundle="b", rules="r")
    records.append(Record.impression(last, slate, "recommend"))
    sink = ParquetSink(tmp_path / "events")
    asyncio.run(sink.write([StoredRecord(sequence=at, record=one) for at, one in enumerate(records)]))
    sink.close()
    return tmp_path / "events"


def test_requests_without_an_arm_leave_nobody_out(log, tmp_path):
    settings = MeasurementSettings(actions={"kind": "word"}, outcomes={"click": Outcome(**CLICK)}, by=("arms.wider",))
    measured = MeasuredLog(log=log, folder=tmp_path / "m", settings=settings)
    measured.update()
    names = {"control": "control", "treatment": "wide"}
    for last in (date(2024, 1, 2), date(2024, 1, 3)):
        found = arm_users(measured, "arms.wider", names, Period(first=date(2024, 1, 2), last=last))["click_per_request"]
        assert {arm: len(users.x) for arm, users in found.items()} == {
            "control": USERS // 2 - 1,
            "treatment": USERS // 2,
        }
        assert found["control"].y.tolist() == [1.0] * (USERS // 2 - 1), "of the requests that had an arm"


def test_an_experiment_that_serves_no_more_is_reported(log, tmp_path):
    run, store = CliRunner().invoke, str(tmp_path / "store")
    (tmp_path / "experiments.yaml").write_text(yaml.safe_dump(DOCUMENT))
    (tmp_path / "none.yaml").write_text("experiments: []\n")
    (tmp_path / "measure.yaml").write_text(yaml.safe_dump({"actions": {"kind": "word"}, "outcomes": {"click": CLICK}}))
    publish = ["experiments", "publish", "--store", store, "--who", "ann", "--why", "x"]
    assert run(app, [*publish, str(tmp_path / "experiments.yaml")]).exit_code == 0
    version = (tmp_path / "store" / "HEAD").read_text().split('"version":"')[1][:12]
    assert run(app, [*publish, str(tmp_path / "none.yaml"), "--from", version]).exit_code == 0
    report = ["experiments", "report", "wider", str(log), "--store", store, "--out", str(tmp_path / "m")]
    result = run(app, [*report, "--settings", str(tmp_path / "measure.yaml")])
    assert result.exit_code == 0, result.output
    assert f"{USERS - 1}" in result.output
