"""Experiments at the door: arms reach the slates and the log, changes are followed, damage leaves the last ones in use."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from recsys.contracts import query_from_dict
from recsys.experiments.experiment_store import ExperimentStore
from recsys.pipeline import recommend
from recsys.stages import read_spec, request_types
from serving.gateway.container import Dependencies
from serving.gateway.live_experiments import LiveExperiments
from serving.state.protocols import UserState

PATIENCE_S, POLL_S = 30, 0.02
EXPERIMENT = {
    "name": "wider",
    "hypothesis": "more different slates are clicked more",
    "arms": {"control": {"share": 0.5}, "wide": {"share": 0.5, "policy": {"diversity": {"trade_off": 0.05}}}},
    "primary": "click_per_request",
    "start": "2000-01-01",
    "end": "2100-01-01",
}


def text(**changes: Any) -> str:
    return yaml.safe_dump({"experiments": [{**EXPERIMENT, **changes}]})


@pytest.fixture
def store(tmp_path: Path) -> ExperimentStore:
    return ExperimentStore(tmp_path / "experiments")


@pytest.fixture
def live(store: ExperimentStore, trained: Any) -> LiveExperiments:
    store.publish(text(), who="ann", why="x")
    return LiveExperiments(store, request_types(read_spec(trained.bundle)), every_s=POLL_S)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(POLL_S)


def test_arms_reach_slates_log_and_metrics(
    served_parts: Callable[[], Dependencies], during: Any, live: LiveExperiments, trained: Any
) -> None:
    """A slate of the other arm is the one that its own policy makes of the logged query."""
    parts = replace(served_parts(), experiments=live)
    queries = trained.replay.queries(range(0, trained.dataset.num_events, trained.dataset.num_events // 12), k=6)
    for one in queries:
        parts.states.known[one.user] = UserState(history=one.history, profile=one.profile)  # type: ignore[attr-defined]

    async def story(door: Any) -> float:
        for one in queries:
            assert (await door.recommend(one.user, k=6)).status_code == 200
        await until(lambda: len(parts.writer.of_kind("impression")) == len({one.user for one in queries}))  # type: ignore[attr-defined]
        return await door.metric('recsys_slates_by_arm_total{arm="wide",experiment="wider"}')  # type: ignore[no-any-return]

    counted = during(parts, story)
    records = parts.writer.of_kind("impression")  # type: ignore[attr-defined]
    arms = [record.body["query"]["arms"]["wider"] for record in records]
    assert set(arms) == {"control", "wide"}
    assert counted >= arms.count("wide")
    changed = 0
    for record, arm in zip(records, arms, strict=True):
        logged = record.body["query"]
        assert logged.get("policy", {}) == EXPERIMENT["arms"][arm].get("policy", {})  # type: ignore[index]
        (again,) = recommend([query_from_dict(logged)], trained.stages)
        shown = [item["item"] for item in record.body["slate"]["items"]]
        assert [item.item for item in again.items] == shown
        (plain,) = recommend([replace(query_from_dict(logged), policy={})], trained.stages)
        same = [item.item for item in plain.items] == shown
        assert same or arm == "wide"
        changed += not same
    assert changed, "the override changes no slate, so this test shows nothing"


def test_interleaved_slates_are_served_logged_with_their_teams_and_made_again(
    served_parts: Callable[[], Dependencies], during: Any, store: ExperimentStore, trained: Any
) -> None:
    store.publish(text(interleave=True), who="ann", why="x")
    live = LiveExperiments(store, request_types(read_spec(trained.bundle)), every_s=POLL_S)
    parts = replace(served_parts(), experiments=live)
    queries = trained.replay.queries(range(0, trained.dataset.num_events, trained.dataset.num_events // 12), k=6)
    users = {one.user for one in queries}

    async def story(door: Any) -> list[Any]:
        answers = [(await door.recommend(user, k=6)).json() for user in sorted(users)]
        await until(lambda: len(parts.writer.of_kind("impression")) == len(users))  # type: ignore[attr-defined]
        return answers

    answers = during(parts, story)
    assert {item["team"] for answer in answers for item in answer["items"] if "team" in item} == {"control", "wide"}
    for record in parts.writer.of_kind("impression"):  # type: ignore[attr-defined]
        logged = query_from_dict(record.body["query"])
        assert logged.arms == {"wider": "interleaved"}
        (again,) = recommend([logged], trained.stages)
        shown = [(item["item"], item.get("team")) for item in record.body["slate"]["items"]]
        assert [(item.item, item.team) for item in again.items] == shown


def test_a_new_version_is_followed_and_a_damaged_one_is_not(
    store: ExperimentStore, live: LiveExperiments, trained: Any
) -> None:
    (query,) = trained.replay.queries([0], k=3)
    assert live.assign(query)[0]

    async def story() -> None:
        head = store.head()
        store.publish("experiments: []", who="ann", why="end", expected=head and head.version)
        await until(lambda: len(live) == 0)
        assert live.assign(query) == ({}, {})
        store.rollback(who="ann", why="again")
        await until(lambda: len(live) == 1)
        (store.folder / "HEAD").write_text("{}")
        await until(lambda: live.stale)

    asyncio.run(story())
    assert live.assign(query)[0], "the experiments that were read last go on"


def test_a_version_that_does_not_fit_the_bundle_leaves_the_last_one(
    store: ExperimentStore, live: LiveExperiments, trained: Any
) -> None:
    (query,) = trained.replay.queries([0], k=3)
    head = store.head()
    store.publish(text(when="user.shoe_size > 3"), who="ann", why="x", expected=head and head.version)
    asyncio.run(until(lambda: live.stale))
    assert live.assign(query)[0]
