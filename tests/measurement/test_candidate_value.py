"""Another policy valued from an own log: the truth is known, since the clicks are drawn from the items alone."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from recsys.cli.main import app
from recsys.contracts import Event, Query
from recsys.errors import ConfigError
from recsys.experiments.slate_off_policy import slate_value
from recsys.measurement.candidate_value import Candidate, slate_log
from recsys.measurement.outcomes import MeasuredLog
from recsys.measurement.settings import MeasurementSettings, Outcome
from recsys.pipeline import recommend
from serving.events.parquet import ParquetSink
from serving.events.record import Record, StoredRecord

REQUESTS, K, DAY = 2_000, 3, 86_400.0
SEEN = (1.0, 0.5, 0.25)
EXPLORING = {"exploration": {"kind": "softmax", "rate": 0.04, "first": 0}}
SETTINGS = {"actions": {"kind": "word"}, "outcomes": {"click": {"value": "kind == 'click'", "window_s": 600}}}


def chance(item: str) -> float:
    """Chance that an item is clicked at the first position."""
    return 0.1 + 0.6 * (int.from_bytes(item.encode(), "big") % 7) / 7


@pytest.fixture(scope="module")
def queries(trained: Any) -> list[Query]:
    rows = np.linspace(0, trained.dataset.num_events - 1, 200).astype(int).tolist()
    asked = trained.replay.queries(rows, k=K)
    start = 1_720_000_000.0
    return [
        replace(asked[number % len(asked)], request_id=f"r{number}", now=start + 20 * number, policy=EXPLORING)
        for number in range(REQUESTS)
    ]


@pytest.fixture(scope="module")
def log(trained: Any, queries: list[Query], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Impressions of an exploring policy, with a click an item by chance."""
    folder, rng = tmp_path_factory.mktemp("live") / "events", np.random.default_rng(0)
    slates = [
        slate for start in range(0, REQUESTS, 100) for slate in recommend(queries[start : start + 100], trained.stages)
    ]
    records = []
    for query, slate in zip(queries, slates, strict=True):
        records.append(Record.impression(query, slate, "recommend"))
        for position, item in enumerate(slate.items):
            if rng.random() < chance(item.item) * SEEN[position]:
                click = Event(
                    user=query.user,
                    item=item.item,
                    timestamp=query.now + 1,
                    actions={"kind": "click"},
                    request_id=query.request_id,
                    position=position,
                )
                records.append(Record.feedback(f"c{query.request_id}.{position}", click))
    last = replace(queries[-1], now=queries[-1].now + DAY, request_id="last")
    records.append(Record.impression(last, recommend([last], trained.stages)[0], "recommend"))
    sink = ParquetSink(folder)
    asyncio.run(sink.write([StoredRecord(sequence=at, record=one) for at, one in enumerate(records)]))
    sink.close()
    return folder


def measured(log: Path, folder: Path) -> MeasuredLog:
    click = Outcome(value="kind == 'click'", window_s=600.0)
    found = MeasuredLog(
        log=log, folder=folder, settings=MeasurementSettings(actions={"kind": "word"}, outcomes={"click": click})
    )
    found.update()
    return found


@pytest.mark.parametrize("overrides", [{}, {"diversity": {"trade_off": 0.9}}])
def test_the_estimate_holds_what_the_candidate_earns(trained, queries, log, tmp_path, overrides):
    candidate = Candidate(bundle=trained.bundle, overrides=overrides)
    own = slate_log(measured(log, tmp_path / "m"), candidate, "click", requests=10_000, days=None)
    assert len(own.users) == REQUESTS
    found = slate_value(own)
    slates = candidate.answers(queries)
    truth = np.mean([sum(chance(item.item) * SEEN[at] for at, item in enumerate(one.items)) for one in slates])
    low, high = found.interval
    assert low <= truth <= high
    assert high - low < 0.5 * truth
    assert found.support == pytest.approx(1, abs=3 / np.sqrt(found.effective))  # three standard errors of weights


def test_overrides_and_outcomes_that_do_not_fit_are_refused(trained, log, tmp_path):
    with pytest.raises(ConfigError, match="the value formula does not have"):
        Candidate(bundle=trained.bundle, overrides={"weights": {"none": 1.0}}).answers([])
    with pytest.raises(ConfigError, match="did you mean 'click'"):
        slate_log(measured(log, tmp_path / "m"), Candidate(bundle=trained.bundle), "clik", requests=10, days=None)


def test_the_command_prints_estimates_and_refuses_what_the_log_cannot_say(trained, log, tmp_path):
    (tmp_path / "measure.yaml").write_text(yaml.safe_dump(SETTINGS))
    run = CliRunner().invoke
    arguments = ["ope", str(log), "--bundle", str(trained.bundle.path), "--outcome", "click"]
    arguments += ["--settings", str(tmp_path / "measure.yaml"), "--out", str(tmp_path / "m")]
    result = run(app, arguments)
    assert result.exit_code == 0, result.output
    assert "position-based" in result.output
    assert "a request" in result.output
    (tmp_path / "rules.yaml").write_text("rules:\n  - {name: last, pin: 0, item: 'i299'}\n")
    few = run(app, [*arguments, "--requests", "50"])
    assert few.exit_code == 1
    assert "effective requests" in few.output
