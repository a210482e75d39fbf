"""Explained slates: what is said to add to a utility is what is missing without it."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from recsys.contracts import Event, Query
from recsys.errors import ConfigError
from recsys.features.encode import encode_queries
from recsys.items.store import Edit, ItemStore
from recsys.pipeline import recommend, through
from recsys.stages import load_explain, load_stages, read_schema

GROUPS = ["collaborative", "popularity", "item", "content", "profile", "context", "history"]


@pytest.fixture(scope="module")
def explain(trained: Any) -> Any:
    return load_explain(trained.bundle)


@pytest.fixture(scope="module")
def answered(trained: Any) -> Any:
    user = (
        trained.dataset.interactions["user"].mode().sort()[0]
    )  # the longest history: each of its events adds or costs something
    query = trained.replay.latest(user, float(trained.replay.timestamps.max()), 20)
    return query, through({"QUERY": [query]}, trained.stages)


def test_a_group_adds_what_the_utility_loses_without_it(trained: Any, explain: Any, answered: Any) -> None:
    query, tensors = answered
    retrieve, rank, rules = trained.stages
    (slate,) = explain(tensors)["SLATE"]
    request, _ = encode_queries(retrieve.spec, retrieve.items, [query])
    without = {
        name: np.zeros_like(one) if name.startswith("history_") else one for name, one in request.tensors().items()
    }
    full, less = (rules.policy.value(rank({**tensors, **changed})["probabilities"])[0] for changed in ({}, without))
    offered = tensors["candidate_rows"][0].tolist()
    explained = [one for one in slate.items if retrieve.items.rows[one.item] in offered]
    assert len(explained) > 1
    for one in explained:
        place = offered.index(retrieve.items.rows[one.item])
        assert one.adds["history"] == pytest.approx(full[place] - less[place], abs=1e-5)
        assert list(one.adds) == GROUPS


def test_the_event_named_is_the_one_whose_absence_costs_most(trained: Any, explain: Any, answered: Any) -> None:
    """Against the cascade asked again without each event, the time until the next one as it was."""
    query, tensors = answered
    retrieve, rank, rules = trained.stages
    rows = encode_queries(retrieve.spec, retrieve.items, [query])[1][0][-retrieve.spec.history_length :]
    full = rules.policy.value(rank(tensors)["probabilities"])[0]
    costs = []
    for place in np.flatnonzero(rows >= 0):
        changed = {
            name: np.where(np.arange(len(rows)).reshape(1, -1, *[1] * (one.ndim - 2)) == place, 0, one).astype(
                one.dtype
            )
            for name, one in tensors.items()
            if name.startswith("history_") and name != "history_gaps"
        }
        costs.append(full - rules.policy.value(rank({**tensors, **changed})["probabilities"])[0])
    offered = tensors["candidate_rows"][0].tolist()
    named = 0
    for one in explain(tensors)["SLATE"][0].items:
        if one.adds:
            mine = [cost[offered.index(retrieve.items.rows[one.item])] for cost in costs]
            most = retrieve.items.ids[rows[rows >= 0][int(np.argmax(mine))]]
            assert one.because_of == (most if max(mine) > 0 else None)
            named += one.because_of is not None
    assert named


def test_nothing_else_of_a_slate_changes_and_a_batch_equals_single_calls(trained: Any, explain: Any) -> None:
    users = trained.dataset.interactions["user"].unique().sort().to_list()[:6]
    queries = [trained.replay.latest(user, float(trained.replay.timestamps.max()), 4) for user in users]
    slates = recommend(queries, (*trained.stages, explain))
    plain = [
        dataclasses.replace(
            slate, items=tuple(dataclasses.replace(one, adds={}, because_of=None) for one in slate.items)
        )
        for slate in slates
    ]
    assert plain == recommend(queries, trained.stages)
    for query, slate in zip(queries, slates, strict=True):
        (alone,) = recommend([query], (*trained.stages, explain))
        for one, other in zip(alone.items, slate.items, strict=True):
            assert one.because_of == other.because_of
            assert one.adds == pytest.approx(other.adds, abs=1e-5)


def test_an_item_that_nobody_offered_has_no_reasons(trained: Any, explain: Any, answered: Any) -> None:
    _, tensors = answered
    slate = tensors["SLATE"][0]
    offered = set(tensors["candidate_rows"][0].tolist())
    stranger = next(item for item, row in trained.stages[0].items.rows.items() if row not in offered)
    pinned = dataclasses.replace(slate.items[0], item=stranger, sources=("rules",))
    for items in ((pinned, *slate.items), (pinned,)):
        (found,) = explain({**tensors, "SLATE": [dataclasses.replace(slate, items=items)]})["SLATE"]
        assert found.items[0] == pinned


def test_items_that_came_since_are_explained_and_named(trained: Any, tmp_path: Any) -> None:
    """A new item met and another one offered; a stage over the bundle's items alone knows neither."""
    like = trained.dataset.items.row(0, named=True)
    columns = {name: like[name] for name in ("category", "tags", "price")}
    new = [Edit(item=item, columns=columns) for item in ("met", "offered")]
    ItemStore(tmp_path).put(read_schema(trained.bundle), new, who="test")
    now = float(trained.replay.timestamps.max())
    met = Event(user="u", item="met", timestamp=now - 60, actions={"click": 1.0, "like": 1.0})
    query = Query(user="u", now=now, k=trained.stages[0].sources.total, history=(met,))
    tensors = through({"QUERY": [query]}, load_stages(trained.bundle, items_store=tmp_path))
    now_known, then_known = (load_explain(trained.bundle, store) for store in (tmp_path, None))
    told, before = (
        {one.item: one for one in explain(tensors)["SLATE"][0].items} for explain in (now_known, then_known)
    )
    assert told["offered"].adds
    assert not before["offered"].adds
    assert now_known._events(query, now_known.rows(), 1) == ["met"]
    assert then_known._events(query, then_known.rows(), 1) == []
    assert {one.because_of for one in before.values()} == {None}


def test_without_a_ranker_there_is_nothing_to_ask(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(trained.bundle), "has", lambda self, name: False)
    with pytest.raises(ConfigError, match="has no ranker whose reasons could be asked for"):
        load_explain(trained.bundle)
