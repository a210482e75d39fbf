"""`python -m recsys experiments` as people type it, on a log of a shop whose truth is known."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from recsys.contracts import Event, Query, Slate, SlateItem
from recsys.data.simulation.shop import SimulatedShop
from recsys.data.simulation.simulated_log import EXPERIMENT, SimulatedLog
from recsys.data.simulation.visits import reactions, visits
from recsys.data.sources.planted import DAY, START
from recsys.experiments.experiment_set import ExperimentSet
from recsys.experiments.experiment_store import ExperimentStore
from serving.events.parquet import ParquetSink
from serving.events.record import Record, StoredRecord

Capture = pytest.CaptureFixture[str]
MEASURED = {
    "actions": {"kind": "word"},
    "outcomes": {"click": {"value": "kind == 'click'", "window_s": 3600}},
    "k": [5],
}


def document(**changes: Any) -> str:
    one = {
        "name": EXPERIMENT,
        "hypothesis": "a shift of the logit is clicked more",
        "arms": {"control": {"share": 0.5}, "better": {"share": 0.5, "policy": {"diversity": {"trade_off": 0.5}}}},
        "primary": "click_per_request",
        "guardrails": ["click_users"],
        "start": "2024-01-02",
        "end": "2024-01-04",
        "planned_users": 400,
    }
    return yaml.safe_dump({"experiments": [{**one, **changes}]}, sort_keys=False)


@pytest.fixture(scope="module")
def shop_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days of a shop, arms differ since the second one."""
    arms = {"control": 0.0, "better": 0.9}
    shop = SimulatedShop(users=400, items=50, days=3, slate=5, seed=0, arms=arms, arms_from=1)
    shown = visits(shop)
    folder = tmp_path_factory.mktemp("live") / "events"
    SimulatedLog().write(folder, shop, shown, reactions(shop, shown))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "experiments.yaml").write_text(document())
    (tmp_path / "measure.yaml").write_text(yaml.safe_dump(MEASURED))
    return tmp_path


@pytest.fixture
def published(folder: Path, typed: Any, capsys: Capture) -> Path:
    arguments = ("experiments", "publish", folder / "experiments.yaml", "--store", folder / "store", "--why", "x")
    assert typed(*arguments, "--who", "ann") == 0
    capsys.readouterr()
    return folder / "store"


def test_check_lists_what_a_file_says_and_what_to_type_next(
    folder: Path, typed: Any, trained: Any, capsys: Capture
) -> None:
    assert typed("experiments", "check", folder / "experiments.yaml", "--bundle", trained.bundle.path, width=100) == 0
    printed = capsys.readouterr().out
    assert "better 50%" in printed
    assert "next     python -m recsys experiments publish" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"when": "user.shoe_size > 3"}, "user.shoe_size"),
        (
            {"arms": {"a": {"share": 0.5}, "b": {"share": 0.5, "policy": {"weights": {"none": 1}}}}},
            "arms.b.policy.weights names 'none'",
        ),
        ({"end": "2023-01-01"}, "not after its start"),
    ],
)
@pytest.mark.parametrize("command", ["check", "publish"])
def test_what_does_not_fit_the_bundle_is_refused_in_one_sentence(
    command: str, changes: dict[str, Any], message: str, folder: Path, typed: Any, trained: Any, capsys: Capture
) -> None:
    (folder / "experiments.yaml").write_text(document(**changes))
    more = ("--store", folder / "store", "--why", "x") if command == "publish" else ()
    arguments = ("experiments", command, folder / "experiments.yaml", "--bundle", trained.bundle.path, *more)
    assert typed(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (folder / "store").exists()


def test_versions_are_listed_compared_and_undone(published: Path, folder: Path, typed: Any, capsys: Capture) -> None:
    (folder / "experiments.yaml").write_text(document(users=0.5))
    more = ("--store", published, "--who", "bob")
    first = published.joinpath("HEAD").read_text().split('"version":"')[1][:12]
    publish = ("experiments", "publish", folder / "experiments.yaml", "--why", "half", "--from", first)
    assert typed(*publish, *more) == 0
    assert typed("experiments", "diff", first, "--store", published) == 0
    assert "changed  shop" in capsys.readouterr().out
    assert typed("experiments", "rollback", "--why", "back", *more) == 0
    assert typed("experiments", "history", "--store", published) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines() if "UTC" not in line and first in line].count("*") == 1
    assert printed.count("bob") == 2


def test_the_report_of_a_better_arm_says_so(
    published: Path, shop_log: Path, folder: Path, typed: Any, capsys: Capture
) -> None:
    arguments = ("experiments", "report", EXPERIMENT, shop_log, "--store", published, "--out", folder / "out")
    assert typed(*arguments, "--settings", folder / "measure.yaml", width=80) == 0
    printed = capsys.readouterr().out
    assert "better against control, ship" in printed
    assert "ship     treatment is better" in printed
    commands = ("page ", "next ")  # a path or a command is not broken
    assert max(len(line) for line in printed.splitlines() if not line.startswith(commands)) <= 80
    page = (folder / "out" / "page.html").read_text()
    assert "a shift of the logit is clicked more" in page
    assert "<script" not in page
    assert "relative to control" in page


def test_a_report_shows_effects_by_cohort_drawn_towards_their_mean(
    published: Path, shop_log: Path, folder: Path, typed: Any, capsys: Capture
) -> None:
    out = folder / "cohorts"
    arguments = ("experiments", "report", EXPERIMENT, shop_log, "--store", published, "--out", out)
    options = ("--settings", folder / "measure.yaml", "--by", "profile.segment")
    assert typed(*arguments, *options, width=80) == 0
    printed = capsys.readouterr().out
    table = printed.partition("by profile.segment")[2].partition("page ")[0]
    rows = [line.split() for line in table.splitlines() if line.strip().startswith("s")]
    assert [row[0] for row in rows] == ["s0", "s1", "s2", "s3"]
    found, shrunk = (np.array([float(row[column]) for row in rows]) for column in (1, 2))
    assert np.std(shrunk) < np.std(found)
    assert (shrunk > 0).all()
    assert "profile.segment" in (out / "page.html").read_text()


def test_a_report_by_a_split_that_is_not_measured_is_refused(
    published: Path, shop_log: Path, folder: Path, typed: Any, capsys: Capture
) -> None:
    arguments = ("experiments", "report", EXPERIMENT, shop_log, "--store", published, "--out", folder / "wrong")
    assert typed(*arguments, "--settings", folder / "measure.yaml", "--by", "surfac") == 2
    assert "--by names 'surfac'; did you mean 'surface'" in capsys.readouterr().err


def test_a_report_says_when_an_effect_that_matters_is_excluded(
    shop_log: Path, folder: Path, typed: Any, capsys: Capture
) -> None:
    for effect, said in ((5.0, True), (0.001, False)):
        (folder / "experiments.yaml").write_text(document(effect=effect))
        store = folder / f"store{effect}"
        assert typed("experiments", "publish", folder / "experiments.yaml", "--store", store, "--why", "x") == 0
        arguments = ("experiments", "report", EXPERIMENT, shop_log, "--store", store, "--out", folder / "out")
        assert typed(*arguments, "--settings", folder / "measure.yaml") == 0
        assert ("is excluded: it may end" in capsys.readouterr().out) == said


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({}, "shp", "did you mean 'shop'"),
        ({"primary": "buy_per_request"}, EXPERIMENT, "'buy_per_request', which is not measured"),
        ({"start": "2025-01-02", "end": "2025-01-04"}, EXPERIMENT, "has not begun"),
        ({"arms": {"control": {"share": 0.5}, "new": {"share": 0.5}}}, EXPERIMENT, "no user was in the arm 'new'"),
    ],
)
def test_a_report_that_cannot_be_made_says_why(
    changes: dict[str, Any], name: str, message: str, shop_log: Path, folder: Path, typed: Any, capsys: Capture
) -> None:
    (folder / "experiments.yaml").write_text(document(**changes))
    publish = ("experiments", "publish", folder / "experiments.yaml", "--store", folder / "store", "--why", "x")
    assert typed(*publish, "--who", "ann") == 0
    arguments = ("experiments", "report", name, shop_log, "--store", folder / "store", "--out", folder / "out")
    assert typed(*arguments, "--settings", folder / "measure.yaml") == 2
    assert message in capsys.readouterr().err


def test_a_plan_names_users_and_days(shop_log: Path, folder: Path, typed: Any, capsys: Capture) -> None:
    arguments = ("experiments", "plan", shop_log, "--settings", folder / "measure.yaml", "--out", folder / "out")
    assert typed(*arguments, "--metric", "click_per_request", "--effect", "0.05") == 0
    printed = capsys.readouterr().out
    assert "in both arms find 0.05" in printed
    assert "sound" in printed
    assert typed(*arguments, "--metric", "clicks_per_request", "--effect", "0.05") == 2
    assert "did you mean 'click_per_request'" in capsys.readouterr().err


def test_shares_move_to_the_arm_that_earns_most(shop_log: Path, folder: Path, typed: Any, capsys: Capture) -> None:
    (folder / "experiments.yaml").write_text(document(least_share=0.1))
    store = folder / "moving"
    publish = ("experiments", "publish", folder / "experiments.yaml", "--store", store, "--why", "x", "--who", "ann")
    assert typed(*publish) == 0
    before = ExperimentStore(store).current().version
    arguments = ("experiments", "allocate", EXPERIMENT, shop_log, "--store", store, "--out", folder / "out")
    options = ("--settings", folder / "measure.yaml")
    capsys.readouterr()
    assert typed(*arguments, *options, width=80) == 0
    printed = capsys.readouterr().out
    assert [line.split()[-2:] for line in printed.splitlines() if line.strip().startswith("better")] == [
        ["50.0%", "90.0%"]
    ]
    assert "--publish" in printed
    assert ExperimentStore(store).current().version == before
    assert typed(*arguments, *options, "--publish", "--who", "bob") == 0
    entry = ExperimentStore(store).current()
    (now,) = ExperimentSet.parse(ExperimentStore(store).text(entry.text)).experiments
    assert {name: arm.share for name, arm in now.arms.items()} == {"control": 0.1, "better": 0.9}
    assert (entry.who, entry.parent) == ("bob", before)
    assert "better is the best with 100%" in entry.why
    assert now.arms["better"].policy == {"diversity": {"trade_off": 0.5}}


def test_shares_of_an_experiment_without_a_least_share_are_fixed(
    published: Path, shop_log: Path, folder: Path, typed: Any, capsys: Capture
) -> None:
    arguments = ("experiments", "allocate", EXPERIMENT, shop_log, "--store", published, "--out", folder / "out")
    assert typed(*arguments, "--settings", folder / "measure.yaml") == 2
    assert "has no least_share, so its shares are fixed" in capsys.readouterr().err


def test_shares_by_a_metric_that_is_not_measured_are_refused(
    shop_log: Path, folder: Path, typed: Any, capsys: Capture
) -> None:
    (folder / "experiments.yaml").write_text(document(least_share=0.1, primary="buy_users"))
    store = folder / "moving"
    publish = ("experiments", "publish", folder / "experiments.yaml", "--store", store, "--why", "x", "--who", "ann")
    assert typed(*publish) == 0
    arguments = ("experiments", "allocate", EXPERIMENT, shop_log, "--store", store, "--out", folder / "out")
    assert typed(*arguments, "--settings", folder / "measure.yaml") == 2
    assert "'buy_users', which is not measured; known: click" in capsys.readouterr().err


class Clock(datetime):
    """The clock of the store at a moment of the log."""

    moment: datetime

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return cls.moment


def test_a_report_over_changed_shares_compares_each_period_within_itself(
    folder: Path, tmp_path: Path, typed: Any, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight days: 50 to 50 until the fourth, 10 to 90 from the fifth on; clicks double on the last days for everybody.

    Pooled, the arm that got the good days would be better; within periods it is not.
    """
    monkeypatch.setattr("recsys.policy.rules.store.datetime", Clock)
    store = folder / "moving"
    moments = (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 4, 12, tzinfo=UTC))
    for moment, shares in zip(moments, ((0.5, 0.5), (0.9, 0.1)), strict=True):
        monkeypatch.setattr(Clock, "moment", moment, raising=False)
        arms = dict(zip(("control", "better"), ({"share": one} for one in shares), strict=True))
        text = document(arms=arms, start="2024-01-01", end="2024-01-09", least_share=0.1, guardrails=[])
        before = ExperimentStore(store).current()
        ExperimentStore(store).publish(text, who="ann", why="x", expected=before and before.version)
    log = tmp_path / "events"
    write_two_periods(log)
    capsys.readouterr()
    arguments = ("experiments", "report", EXPERIMENT, log, "--store", store, "--out", folder / "out", "--one-look")
    assert typed(*arguments, "--settings", folder / "measure.yaml", width=100) == 0
    printed = capsys.readouterr().out
    assert "wait" in printed
    row = next(line.split() for line in printed.splitlines() if "click_per_request" in line)
    control, treatment, difference = map(float, row[2:5])
    assert abs(difference) < 0.05
    assert control == pytest.approx(treatment, abs=0.05)


def write_two_periods(folder: Path) -> None:
    """One request a user and day; every second user clicks on the first days, all on the last ones, whatever the arm."""
    records = []
    for day in range(8):
        for user in range(400):
            late = day >= 4
            arm = "better" if user % 10 < (1 if late else 5) else "control"
            now = START + day * DAY + user
            query = Query(user=f"d{day}u{user}", now=now, request_id=f"{day}-{user}", arms={EXPERIMENT: arm})
            items = (SlateItem(item="a", utility=1.0, sources=(), probabilities={}),)
            slate = Slate(user=query.user, request_id=query.request_id, items=items, degraded=(), bundle="b", rules="r")
            records.append(Record.impression(query, slate, "recommend"))
            if late or user // 10 % 2:
                event = Event(
                    user=query.user, item="a", timestamp=now + 5, actions={"kind": "click"}, request_id=query.request_id
                )
                records.append(Record.feedback(f"e{day}-{user}", event))
    sink = ParquetSink(folder)
    asyncio.run(sink.write([StoredRecord(sequence=at, record=one) for at, one in enumerate(records)]))
    sink.close()


def test_a_report_of_interleaved_arms_says_which_one_is_preferred(
    folder: Path, tmp_path: Path, typed: Any, capsys: Capture
) -> None:
    """Users click from hardly to always; of what they click, items of the better arm are 6 of 10."""
    (folder / "experiments.yaml").write_text(document(interleave=True, guardrails=[], start="2024-01-01"))
    arguments = ("experiments", "publish", folder / "experiments.yaml", "--store", folder / "duel", "--why", "x")
    assert typed(*arguments, "--who", "ann") == 0
    log = tmp_path / "events"
    write_interleaved(log)
    capsys.readouterr()
    arguments = ("experiments", "report", EXPERIMENT, log, "--store", folder / "duel", "--out", folder / "out")
    assert typed(*arguments, "--settings", folder / "measure.yaml", width=100) == 0
    printed = capsys.readouterr().out
    row = next(line.split() for line in printed.splitlines() if "click_per_request" in line)
    control, treatment, difference = map(float, row[2:5])
    assert treatment / (control + treatment) == pytest.approx(0.6, abs=0.04)
    assert difference == pytest.approx(treatment - control, abs=0.002)
    assert "ship" in printed
    assert row[-1] == "500"
    page = (folder / "out" / "page.html").read_text()
    assert "every user saw both" in page
    assert "CUPED" not in page
    assert "Sample ratio" not in page


def write_interleaved(folder: Path) -> None:
    """Four slates a user, of two items of each arm and a pinned one, which everybody clicks."""
    rng, records = np.random.default_rng(0), []
    for user in range(500):
        clicks = rng.random()
        for visit in range(4):
            now = START + user * 10 + visit
            query = Query(user=f"u{user}", now=now, request_id=f"{user}-{visit}", arms={EXPERIMENT: "interleaved"})
            teams = ("control", "better", None, "better", "control")
            items = tuple(
                SlateItem(item=f"i{at}", utility=1.0, sources=(), probabilities={}, team=team)
                for at, team in enumerate(teams)
            )
            slate = Slate(user=query.user, request_id=query.request_id, items=items, degraded=(), bundle="b", rules="r")
            records.append(Record.impression(query, slate, "recommend"))
            for at, team in enumerate(teams):
                if rng.random() < {"control": 0.4 * clicks, "better": 0.6 * clicks, None: 1.0}[team]:
                    event = Event(
                        user=query.user,
                        item=f"i{at}",
                        timestamp=now + 1,
                        actions={"kind": "click"},
                        request_id=query.request_id,
                        position=at,
                    )
                    records.append(Record.feedback(f"e{user}-{visit}-{at}", event))
    last = Query(user="last", now=START + DAY / 2, request_id="last")
    records.append(
        Record.impression(
            last, Slate(user="last", request_id="last", items=(), degraded=(), bundle="b", rules="r"), "recommend"
        )
    )
    sink = ParquetSink(folder)
    asyncio.run(sink.write([StoredRecord(sequence=at, record=one) for at, one in enumerate(records)]))
    sink.close()


def test_a_folder_without_published_rules_is_refused(folder: Path, typed: Any, trained: Any, capsys: Capture) -> None:
    arguments = ("experiments", "check", folder / "experiments.yaml", "--bundle", trained.bundle.path)
    assert typed(*arguments, "--rules", folder / "ruels") == 2
    assert "holds no published rules" in " ".join(capsys.readouterr().err.split())
