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
from recsys.measurement.candidate_value import AnsweredLog, Candidate
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
    return logged(trained, queries, tmp_path_factory.mktemp("live") / "events")


@pytest.fixture(scope="module")
def short_log(trained: Any, queries: list[Query], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slates of two items, of which half of the users say enough."""
    return logged(trained, [replace(one, k=2) for one in queries], tmp_path_factory.mktemp("short") / "events")


def logged(trained: Any, queries: list[Query], folder: Path) -> Path:
    """Impressions of an exploring policy, with a click an item by chance."""
    rng = np.random.default_rng(0)
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
    answered = AnsweredLog.of(measured(log, tmp_path / "m"), candidate, "click", requests=10_000, days=None)
    own = answered.under(overrides)
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
        AnsweredLog.of(measured(log, tmp_path / "m"), Candidate(bundle=trained.bundle), "clik", requests=10, days=None)


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


def test_prepared_requests_fill_the_slates_of_any_policy(trained, queries):
    candidate = Candidate(bundle=trained.bundle)
    prepared = candidate.prepared(queries[:100])
    for overrides in ({}, {"diversity": {"trade_off": 0.6}}):
        slates = Candidate(bundle=trained.bundle, overrides=overrides).answers(queries[:100])
        assert prepared.items(overrides) == [[item.item for item in one.items] for one in slates]
    assert prepared.items({}) != prepared.items({"diversity": {"trade_off": 0.6}})
    dropped = {"sources": {"two_tower": 0.0}}
    slates = Candidate(bundle=trained.bundle, overrides=dropped).answers(queries[:100])
    assert prepared.items(dropped) == [[item.item for item in one.items] for one in slates]
    assert prepared.items(dropped) != prepared.items({})
    with pytest.raises(ConfigError, match="does not have"):
        prepared.items({"weights": {"none": 1.0}})
    with pytest.raises(ConfigError, match="does not have"):  # before a request is answered
        Candidate(bundle=trained.bundle, overrides={"weights": {"none": 1.0}}).prepared([])


def proposed(log, trained, tmp_path, *options):
    (tmp_path / "measure.yaml").write_text(yaml.safe_dump(SETTINGS))
    arguments = ["experiments", "propose", str(log), "--bundle", str(trained.bundle.path), "--outcome", "click"]
    arguments += ["--settings", str(tmp_path / "measure.yaml"), "--out", str(tmp_path / "m"), *options]
    return CliRunner().invoke(app, arguments)


def test_a_proposal_is_an_experiment_that_fits_the_bundle(trained, short_log, tmp_path):
    file = tmp_path / "experiments.yaml"
    result = proposed(short_log, trained, tmp_path, "--within", "diversity.trade_off=0.9:1", "--write", str(file))
    assert result.exit_code == 0, result.output
    assert "judged by" in result.output
    document = yaml.safe_load(file.read_text())["experiments"][0]
    assert 0.9 <= document["arms"]["proposed"]["policy"]["diversity"]["trade_off"] <= 1
    assert document["least_share"] == 0.2
    check = CliRunner().invoke(app, ["experiments", "check", str(file), "--bundle", str(trained.bundle.path)])
    assert check.exit_code == 0, check.output


@pytest.mark.parametrize(
    ("within", "said"),
    [
        ("diversity.trade_of=0.8:1", "did you mean 'diversity.trade_off'"),
        ("diversity.trade_off=0.8", "write a number and its bounds"),
        ("diversity.trade_off=1:0.8", "the lower one first"),
        ("diversity.trade_off=0.8:7", "trade_off"),
    ],
)
def test_bounds_that_do_not_fit_the_policy_are_refused(trained, log, tmp_path, within, said):
    result = proposed(log, trained, tmp_path, "--within", within)
    assert isinstance(result.exception, ConfigError) or result.exit_code == 2
    assert said in str(result.exception) + result.output
