"""The last stage beside the file of what was shown: it decides as if every query brought all counters, and says which did."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.contracts import PAD, Query, Slate
from recsys.pipeline import recommend
from recsys.policy.exposure.exposure_file import ShareFile, Shares
from recsys.policy.rules import RuleSet
from recsys.policy.rules.store import RuleStore
from recsys.stages import STALE_EXPOSURE, LiveRules, Stages, load_live_rules, load_rules, read_catalogue

PATIENCE_S = 60
RULES = """
rules:
  - {name: house, pin: 3, item: PINNED}
  - {name: even, exposure: item, least: 0.005, most: 0.02, strength: 2}
  - {name: mixed, exposure: category, least: 0.2, most: 0.3}
  - {name: not-a-third-time, frequency: 2}
"""


@pytest.fixture(scope="module")
def queries(trained: Any) -> list[Query]:
    return trained.replay.queries(range(0, 240, 12), k=10)


@pytest.fixture(scope="module")
def shares(trained: Any) -> Shares:
    """Of every item and category, and of many that the catalogue does not have."""
    catalogue, rng = read_catalogue(trained.bundle), np.random.default_rng(3)
    categories = catalogue["category"].drop_nulls().unique().sort()
    keys = [*(f"item={item}" for item in catalogue["item"]), *(f"category={one}" for one in categories)]
    return {key: float(rng.uniform(0, 0.04)) for key in (*keys, *(f"item=gone {number}" for number in range(500)))}


@pytest.fixture
def file(tmp_path: Path) -> ShareFile:
    return ShareFile(tmp_path / "exposure")


@pytest.fixture(scope="module")
def rules(trained: Any, queries: list[Query]) -> str:
    """They pin what most queries are not offered."""
    items = trained.stages[-1].policy.items
    offered = np.bincount(trained.stages[0]({"QUERY": queries})["candidate_rows"].ravel() + 1, minlength=len(items) + 1)
    return RULES.replace("PINNED", repr(items[offered[1:].argmin()]))


@pytest.fixture
def live(trained: Any, tmp_path: Path, file: ShareFile, shares: Shares, rules: str) -> Stages:
    RuleStore(tmp_path / "rules").publish(rules, who="ann", why="x", expected=None)
    file.write(shares)
    return *trained.stages[:-1], load_live_rules(trained.bundle, tmp_path / "rules", None, file.path.parent)


@pytest.fixture
def plain(trained: Any, rules: str) -> Stages:
    """The same rules; a query brings its counters itself."""
    return *trained.stages[:-1], load_rules(trained.bundle, rules=RuleSet.parse(rules))


def bare(slates: list[Slate]) -> list[Slate]:
    return [replace(slate, exposure={}) for slate in slates]


def test_slates_are_those_of_queries_that_bring_every_counter(
    live: Stages, plain: Stages, queries: list[Query], shares: Shares
) -> None:
    found = recommend(queries, live)
    assert bare(found) == recommend([replace(query, exposure=shares) for query in queries], plain)
    assert bare(found) != recommend(queries, plain)


def test_rules_that_an_arm_adds_read_the_counters_too(
    trained: Any, tmp_path: Path, file: ShareFile, queries: list[Query], shares: Shares
) -> None:
    """Nothing that serves everybody reads exposure."""
    file.write(shares)
    added = {"name": "even", "exposure": "item", "least": 0.005, "most": 0.02, "strength": 2}
    stages = (*trained.stages[:-1], load_live_rules(trained.bundle, tmp_path / "none", None, file.path.parent))
    asked = [replace(query, policy={"rules": {"add": [added]}}) for query in queries]
    found = recommend(asked, stages)
    assert all(slate.exposure for slate in found)
    assert bare(found) == recommend([replace(query, exposure=shares) for query in asked], trained.stages)
    assert bare(found) != bare(recommend(queries, stages))


def test_a_slate_tells_what_decided_and_that_is_enough_to_make_it_again(
    live: Stages, plain: Stages, queries: list[Query], shares: Shares
) -> None:
    for query, slate in zip(queries, recommend(queries, live), strict=True):
        candidates = live[0]({"QUERY": [query]})["candidate_rows"][0]
        policy = live[-1].policy
        rows = np.concatenate([candidates[candidates != PAD], policy.rules.pinned_rows])
        told = {key for key in slate.exposure if key.startswith("item=")}
        assert told == {f"item={item}" for item in policy.items[rows]}
        assert slate.exposure == {key: shares[key] for key in slate.exposure}
        assert recommend([replace(query, exposure=slate.exposure)], plain) == bare([slate])


def test_what_a_query_brings_comes_first_and_is_not_told_again(
    live: Stages, plain: Stages, queries: list[Query], shares: Shares
) -> None:
    (first,) = recommend(queries[:1], live)
    best = first.items[0].item
    own = replace(queries[0], exposure={f"item={best}": 0.9}, impressions={best: 2.0})
    (slate,) = recommend([own], live)
    assert best not in {place.item for place in slate.items}
    assert not own.exposure.keys() & slate.exposure.keys()
    assert bare([slate]) == recommend([replace(own, exposure={**shares, **own.exposure})], plain)


def test_rules_that_read_none_take_none(trained: Any, tmp_path: Path, file: ShareFile, queries: list[Query]) -> None:
    file.write({"item=a": 0.5})
    stages = *trained.stages[:-1], load_live_rules(trained.bundle, tmp_path / "rules", None, file.path.parent)
    found = recommend(queries, stages)
    assert found == recommend(queries, trained.stages)
    assert all('"exposure"' not in slate.to_json() for slate in found)


def test_a_damaged_file_is_said_by_every_slate(live: Stages, file: ShareFile, queries: list[Query]) -> None:
    assert all(STALE_EXPOSURE not in slate.degraded for slate in recommend(queries, live))
    file.path.write_text("nonsense")
    last = live[-1]
    assert isinstance(last, LiveRules)
    assert last.shares is not None
    deadline = time.monotonic() + PATIENCE_S
    while not last.shares.current().stale:
        assert time.monotonic() < deadline
    assert all(slate.exposure and STALE_EXPOSURE in slate.degraded for slate in recommend(queries, live))
