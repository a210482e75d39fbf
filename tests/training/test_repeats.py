"""A grocery: everybody buys the same few things every week. Where repeats are allowed they are asked for, found and served."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.contracts import Event, Query
from recsys.data.sources.tables import Tables
from recsys.data.splits import TEST, GlobalTime
from recsys.pipeline import recommend
from recsys.policy.repeat import Repeat
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.replay.replay import Replay
from recsys.stages import Retrieve, load_stages

pytestmark = pytest.mark.slow

USERS, ITEMS, WEEKS, WEEK_S = 40, 40, 10, 7 * 86_400
DESCRIPTION = """
interactions: {file: events.csv, user: user, item: item, timestamp: ts, actions: {amount: number}}
objectives: {buy: "amount >= 1"}
target: buy
"""


def staples(user: int) -> list[int]:
    return np.random.default_rng(user).choice(ITEMS, 4, replace=False).tolist()


@pytest.fixture(scope="module")
def grocery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("grocery"), np.random.default_rng(0)
    rows = ["user,item,ts,amount"]
    for week in range(WEEKS):
        for user in range(USERS):
            bought = [*(item for item in staples(user) if rng.random() < 0.9), int(rng.integers(ITEMS))]
            rows += [f"u{user},i{item},{week * WEEK_S + rng.integers(5 * 86_400)},1" for item in bought]
    (folder / "events.csv").write_text("\n".join(rows) + "\n")
    (folder / "shop.yaml").write_text(DESCRIPTION)
    return folder / "shop.yaml"


@pytest.fixture(scope="module")
def trained_grocery(
    grocery: Path, composed: Any, run: Any, tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    kept = [one for one in tiny if not one.startswith(("data.", "recipe="))]
    overrides = [
        "data=tables",
        f"data.description={grocery}",
        "policy.repeat.default=always",
        "evaluation.baselines={}",
    ]
    return run(composed(tmp_path_factory.mktemp("grocery_run"), *kept, *overrides))


def questions(grocery: Path, repeat: Repeat) -> EvaluationQueries:
    dataset = Tables(description=str(grocery)).load()
    protocol = GlobalTime(rank=0.1, validation=0.1, test=0.2, cuts=1, later=0.0, horizon_days=None)
    (split,) = protocol.splits(dataset)
    bars = repeat.compile(tuple(dataset.description.objectives), clock=True)
    return EvaluationQueries.of(dataset, split, Replay(dataset, split, bars), TEST)


@pytest.mark.parametrize("days", ["never", "always", 5, 9])
def test_targets_and_what_is_removed_follow_the_bars(grocery: Path, days: Any) -> None:
    test = questions(grocery, Repeat(default=days, objectives={}))
    replay, targets = test.replay, test.targets
    for number, row in enumerate(test.rows.tolist()):
        query = replay.query(row, 10)
        newest = {event.item: event.timestamp for event in query.history}
        barred = {
            item
            for item, at in newest.items()
            if days == "never" or (days != "always" and query.now - at < days * 86_400)
        }
        removed = {replay.dataset.items["item"][int(one)] for one in test.removed[[number]].indices}
        assert removed == barred
        own = targets.items[targets.indptr[number] : targets.indptr[number + 1]]
        mine = (replay.users == replay.users[row]) & (test.split.periods == TEST)
        after = {replay.dataset.items["item"][int(one)] for one in replay.items[mine]}
        assert {replay.dataset.items["item"][int(one)] for one in own} == after - barred


def test_staples_are_found_measured_and_served_again(trained_grocery: Any) -> None:
    report, bundle = trained_grocery
    assert "seen items removed but for repeats" in report.protocol
    assert report.rows["retrieval"]["recall@10"] > 0.6
    stages = load_stages(bundle)
    assert isinstance(stages[0], Retrieve)
    assert "history" in stages[0].sources.names
    history = tuple(
        Event(user="new", item=f"i{item}", timestamp=(week + WEEKS - 3.0) * WEEK_S, actions={"amount": 1.0})
        for week in range(3)
        for item in staples(7)
    )
    query = Query(user="new", now=WEEKS * WEEK_S, k=10, history=history)
    (slate,) = recommend([query], stages)
    shown = [one.item for one in slate.items]
    assert {f"i{item}" for item in staples(7)} <= set(shown)
    assert shown[0] in {f"i{item}" for item in staples(7)}
