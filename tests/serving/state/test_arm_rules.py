"""Exposure rules that arms of experiments add are counted as published ones are."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from recsys.contracts import Query, Slate, SlateItem
from recsys.experiments.experiment_store import ExperimentStore
from serving.endpoints import Server
from serving.events.record import Record, StoredRecord
from serving.state.arm_rules import ArmRules
from serving.wiring.storage import open_user_states

FAIR = {"name": "fair", "exposure": "category", "least": 0.1, "most": 0.5}


def text(*added: dict[str, Any]) -> str:
    arms = {"control": {"share": 0.5}, "fair": {"share": 0.5, "policy": {"rules": {"add": list(added)}}}}
    experiment = {"name": "fairer", "hypothesis": "h", "arms": arms, "primary": "click_per_request"}
    return yaml.safe_dump({"experiments": [{**experiment, "start": "2000-01-01", "end": "2100-01-01"}]})


@pytest.fixture
def store(tmp_path: Path) -> ExperimentStore:
    return ExperimentStore(tmp_path / "experiments")


def impression(item: str) -> StoredRecord:
    slate = Slate(
        user="u",
        request_id="r",
        items=(SlateItem(item=item, utility=0.0, sources=(), probabilities={}),),
        degraded=(),
        bundle="b",
        rules="c",
    )
    return StoredRecord(
        sequence=1, record=Record.impression(Query(user="u", now=1e9, request_id="r"), slate, "recommend")
    )


def test_shown_items_are_counted_by_the_column_of_an_arm(store: ExperimentStore, trained: Any, tmp_path: Path) -> None:
    layout: Any = SimpleNamespace(rules=tmp_path / "rules", experiments=store.folder)
    item, category = next(
        (item, value)
        for item, value in trained.dataset.items.select("item", "category").iter_rows()
        if value is not None
    )

    async def shares(file: str) -> dict[str, float]:
        states = open_user_states(layout, trained.bundle, Server(url=f"sqlite:///{tmp_path / file}"), None)
        try:
            await states.write([impression(item)])
            return dict(await states.exposure())
        finally:
            await states.close()

    assert asyncio.run(shares("before.db")) == {}
    store.publish(text(FAIR), who="ann", why="x")
    assert asyncio.run(shares("after.db"))[f"category={category}"] == 1.0


def test_a_rule_of_an_arm_that_does_not_fit_is_left_out(store: ExperimentStore, trained: Any, tmp_path: Path) -> None:
    layout: Any = SimpleNamespace(rules=tmp_path / "rules", experiments=store.folder)
    store.publish(
        text({**FAIR, "exposure": "shoe_size"}, {**FAIR, "name": "fair-items", "exposure": "item"}), who="ann", why="x"
    )

    async def shares() -> dict[str, float]:
        states = open_user_states(layout, trained.bundle, Server(url=f"sqlite:///{tmp_path / 's.db'}"), None)
        try:
            await states.write([impression(trained.dataset.items["item"][0])])
            return dict(await states.exposure())
        finally:
            await states.close()

    assert {key.partition("=")[0] for key in asyncio.run(shares())} == {"item"}


def test_another_version_is_followed_and_a_damaged_store_leaves_the_last_one(store: ExperimentStore) -> None:
    arms = ArmRules(store)
    assert arms.follow() == ()
    store.publish(text(FAIR), who="ann", why="x")
    before = arms.follow()
    assert [rule.name for rule in arms.rules] == ["fair"]
    assert arms.follow() is before
    head = store.head()
    assert head is not None
    second = text(FAIR, {**FAIR, "name": "fair-items", "exposure": "item"})
    store.publish(second, who="ann", why="y", expected=head.version)
    assert arms.stamp() is not None
    assert arms.follow() is not before
    (store.folder / "HEAD").write_text("{}")
    assert [rule.name for rule in arms.follow()] == ["fair", "fair-items"]  # type: ignore[attr-defined]
    assert arms.stale
