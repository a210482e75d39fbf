"""Stages that follow an item store: what changed counts in the next slates, and what came is found by its content.

Shapes: N items of the bundle.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.contracts import CandidateBatch, Event, Query, Slate
from recsys.features.batches import ItemBatch
from recsys.features.spec import UNKNOWN
from recsys.index import ExactIndex
from recsys.items.content import ITEM_TOWER
from recsys.items.store import LOG, Change, Edit, ItemStore
from recsys.pipeline import recommend
from recsys.policy.rules.store import RuleStore
from recsys.stages import (
    STALE_ITEMS,
    UNKNOWN_ROWS,
    LiveRetrieve,
    LiveRules,
    OnnxModel,
    Stages,
    load_stages,
    read_overlay,
    read_rule_items,
    read_schema,
    read_spec,
)
from recsys.stages.stage import known

PATIENCE_S = 60
NEW = "brand new"


@pytest.fixture
def store(tmp_path: Path) -> ItemStore:
    return ItemStore(tmp_path / "items")


@pytest.fixture
def rules(tmp_path: Path) -> RuleStore:
    return RuleStore(tmp_path / "rules")


@pytest.fixture
def stages(trained: Any, store: ItemStore, rules: RuleStore) -> Stages:
    return load_stages(trained.bundle, rules_store=rules.folder, items_store=store.folder)


@pytest.fixture
def put(trained: Any, store: ItemStore) -> Callable[..., None]:
    schema = read_schema(trained.bundle)

    def put(item: str, *, withdrawn: bool | None = None, **columns: Any) -> None:
        store.put(schema, [Edit(item=item, columns=columns, withdrawn=withdrawn)], who="ann")

    return put


@pytest.fixture
def queries(trained: Any) -> list[Query]:
    return trained.replay.queries(range(0, 240, 8), k=10)


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < deadline
    return found


def followed(stages: Stages, num: int) -> None:
    """Wait until both stages know so many items."""
    first, last = stages[0], stages[-1]
    assert isinstance(first, LiveRetrieve)
    assert isinstance(last, LiveRules)
    until(lambda: len(first.now.items) == len(last.policy.items) == num)


def shown(slates: list[Slate]) -> set[str]:
    return {place.item for slate in slates for place in slate.items}


def content_of(trained: Any, item: str) -> dict[str, Any]:
    record = dict(trained.dataset.items.filter(item=item).row(0, named=True))
    del record["item"]
    return record


def offered(stages: Stages, queries: list[Query]) -> np.ndarray:
    return stages[0]({"QUERY": queries})["candidate_rows"]


def test_an_item_is_encoded_and_embedded_as_in_training(trained: Any) -> None:
    items = read_rule_items(trained.bundle)
    ids = trained.dataset.items["item"].to_list()
    encoded = items.content.encode(ids, [items.overlay.record(row) for row in range(len(ids))])
    table = trained.bundle.arrays("item_table.safetensors")
    assert set(encoded) == set(table)
    for name, part in encoded.items():
        np.testing.assert_array_equal(part, table[name][:-1])
    np.testing.assert_allclose(items.content.vectors(encoded), items.vectors, rtol=0, atol=1e-5)


def test_a_new_item_with_the_content_of_another_is_found_beside_it(
    trained: Any, stages: Stages, put: Callable[..., None], queries: list[Query]
) -> None:
    """It is known to every stage in the row behind the last, and takes its place in histories too."""
    num = len(trained.dataset.items)
    liked = recommend(queries, trained.stages)[0].items[0].item
    put(NEW, **content_of(trained, liked))
    followed(stages, num + 1)
    retrieve, rules = stages[0], stages[-1]
    row = retrieve.now.items.rows[NEW]
    assert (row, rules.policy.items[row]) == (num, NEW)
    assert (offered(stages, queries) == num).any()
    twin = retrieve.now.items.rows[liked]
    for part, rows in retrieve.now.items.encoded.items():
        start = 1 if part == "ids" else 0
        np.testing.assert_array_equal(rows[num, start:], rows[twin, start:])
    assert retrieve.now.items.encoded["ids"][num, 0] == UNKNOWN
    met = Event(user="x", item=NEW, timestamp=queries[0].now - 1, actions={"click": 1.0})
    again = recommend([replace(queries[0], history=(*queries[0].history, met))], stages)
    assert NEW not in shown(again)
    only = recommend([Query(user="x", now=queries[0].now, history=(met,))], stages)[0]
    assert "history:unknown" not in only.degraded


def test_retrieval_equals_one_over_an_index_of_all_vectors(
    trained: Any, stages: Stages, put: Callable[..., None], queries: list[Query]
) -> None:
    ids = trained.dataset.items["item"].to_list()
    put(NEW, **content_of(trained, ids[5]))
    put(ids[3], **content_of(trained, ids[9]))
    put(ids[7], withdrawn=True)
    put("another", price=3.0)
    followed(stages, len(ids) + 2)
    now = stages[0].now
    index = ExactIndex(now.sources.index.vectors(np.arange(len(ids) + 2)))
    index.remove(np.array([7]))
    plain = replace(now, sources=now.sources.with_new_items(index, np.empty(0, int), now.sources.hidden))
    found, wanted = now({"QUERY": queries}), plain({"QUERY": queries})
    for name in ("candidate_rows", "merged_scores", "candidate_scores"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-6)
    changed = now.sources.index.vectors(np.array([3, 9, 4]))
    own = trained.bundle.arrays("item_vectors.safetensors")["vectors"]
    assert np.abs(changed[0] - own[3]).max() > 1e-3
    np.testing.assert_array_equal(changed[1:], own[[9, 4]])
    np.testing.assert_allclose(stages[-1].policy.similarity.units[3], changed[0], rtol=0, atol=1e-5)


def test_an_item_without_any_content_has_the_vector_of_one_of_which_nothing_is_known(
    trained: Any, stages: Stages, put: Callable[..., None]
) -> None:
    put(NEW)
    followed(stages, len(trained.dataset.items) + 1)
    spec = read_spec(trained.bundle)
    tower = OnnxModel(trained.bundle.file(ITEM_TOWER), ItemBatch.specs(spec.sizes))
    widths = spec.items.widths
    ids = np.zeros((1, widths["ids"]), dtype=np.int64)
    ids[0, 0] = UNKNOWN
    numbers = np.array([spec.items.missing_numbers], dtype=np.float32)
    nothing = {"item_ids": ids, "item_numbers": numbers, "item_vectors": np.zeros((1, widths["vectors"]), np.float32)}
    found = stages[0].now.sources.index.vectors(np.array([len(trained.dataset.items)]))
    np.testing.assert_allclose(found, tower(nothing), rtol=0, atol=1e-6)


def test_what_is_withdrawn_is_nowhere_not_even_pinned_and_comes_back(
    trained: Any, stages: Stages, put: Callable[..., None], rules: RuleStore, queries: list[Query]
) -> None:
    item = recommend(queries, stages)[0].items[0].item
    row = stages[0].now.items.rows[item]
    text = f"rules: [{{name: first, pin: 0, item: '{item}'}}]"
    rules.publish(text, who="ann", why="x")
    stranger = replace(queries[0], user="x", history=())
    until(lambda: recommend([stranger], stages)[0].items[0].rank == -1)
    put(item, withdrawn=True)
    until(lambda: item not in shown(recommend([stranger, *queries], stages)))
    until(lambda: not (offered(stages, queries) == row).any())
    put(item, withdrawn=False)
    until(lambda: (offered(stages, queries) == row).any())
    until(lambda: recommend([stranger], stages)[0].items[0].item == item)


def test_changed_columns_count_in_rules_at_once_and_so_does_stock(
    stages: Stages, put: Callable[..., None], rules: RuleStore, queries: list[Query]
) -> None:
    rules.publish(
        "rules: [{name: a, must: '(missing(price) or price <= 900) and (missing(stock) or stock >= 1)'}]",
        who="ann",
        why="x",
    )
    until(lambda: stages[-1].policy.rules.hash == rules.head().version)
    dear, gone = (place.item for place in recommend(queries, stages)[0].items[:2])
    assert {dear, gone} <= shown(recommend(queries, stages))
    put(dear, price=1_000)
    put(gone, stock=0)
    until(lambda: not {dear, gone} & shown(recommend(queries, stages)))
    put(gone, stock=None)
    until(lambda: gone in shown(recommend(queries, stages)))
    assert dear not in shown(recommend(queries, stages))


def test_changes_are_followed_where_nobody_asks(trained: Any, stages: Stages, put: Callable[..., None]) -> None:
    first = stages[0]
    assert isinstance(first, LiveRetrieve)
    put(NEW)
    until(lambda: len(first._now.items) == len(trained.dataset.items) + 1)


def test_rows_that_the_rules_do_not_know_yet_are_left_out_and_said(
    trained: Any, stages: Stages, put: Callable[..., None], queries: list[Query]
) -> None:
    num = len(trained.dataset.items)
    put(NEW, **content_of(trained, recommend(queries, stages)[0].items[0].item))
    followed(stages, num + 1)
    behind = (*stages[:-1], trained.stages[-1])
    slates = recommend(queries, behind)
    ahead = (offered(stages, queries) == num).any(axis=1)
    assert ahead.any()
    assert [UNKNOWN_ROWS in slate.degraded for slate in slates] == ahead.tolist()
    assert NEW not in shown(slates)
    assert all(len(slate.items) == 10 for slate in slates)


def test_candidates_that_are_all_known_are_left_as_they_are() -> None:
    scores = np.zeros((1, 2), np.float32)
    candidates = CandidateBatch(
        rows=np.array([[1, -1]]), scores=scores, source_scores=scores[..., None], degraded=((),)
    )
    assert known(candidates, 2) is candidates
    assert known(candidates, 1).rows.tolist() == [[-1, -1]]


def test_a_store_that_cannot_be_read_leaves_the_items_as_they_were_and_slates_say_so(
    stages: Stages, put: Callable[..., None], store: ItemStore, queries: list[Query], caplog: pytest.LogCaptureFixture
) -> None:
    item = recommend(queries, stages)[0].items[0].item
    put(item, withdrawn=True)
    until(lambda: item not in shown(recommend(queries, stages)))
    whole = (store.folder / LOG).read_bytes()
    with caplog.at_level(logging.ERROR):
        (store.folder / LOG).write_bytes(whole + b"nonsense\n")
        slate = until(lambda: next((one for one in recommend(queries, stages) if STALE_ITEMS in one.degraded), None))
        until(lambda: stages[-1].items.stale and "they go on serving as they were" in caplog.text)
    assert item not in shown(recommend(queries, stages))
    assert slate.degraded.count(STALE_ITEMS) == 1
    (store.folder / LOG).write_bytes(whole)
    until(lambda: not any(STALE_ITEMS in one.degraded for one in recommend(queries, stages)))


def test_columns_of_another_bundle_are_left_out_and_said(trained: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A store may be older than the bundle beside it."""
    overlay, item = read_overlay(trained.bundle), trained.dataset.items["item"][0]
    change = Change(number=1, item=item, columns={"prise": 1, "price": 2.0}, withdrawn=None, when="", who="ann")
    after, delta = overlay.after([change])
    assert after.record(0)["price"] == 2.0
    assert "prise" not in after.record(0)
    assert delta.named == (frozenset({"price"}),)
    assert "unknown column 'prise'; did you mean 'price'?; that column is left out" in caplog.text


def test_hidden_values_hold_for_items_that_changed_or_came_and_leave_the_others(
    trained: Any, stages: Stages, put: Callable[..., None], queries: list[Query]
) -> None:
    column = next(name for name, kind in read_schema(trained.bundle).rule_types.items() if kind == "category")
    liked = recommend(queries, stages)[0].items[0].item
    put(NEW, **{**content_of(trained, liked), column: "tired of"})
    put(liked, **{column: "tired of"})
    followed(stages, len(trained.dataset.items) + 1)
    until(lambda: stages[-1].policy.rules.row_of.get(NEW) is not None)
    hiding = [
        replace(one, hidden={column: ("tired of",), "item": (one.history[0].item,)}) for one in queries if one.history
    ]
    slates = recommend(hiding, stages)
    assert not {NEW, liked} & set(shown(slates))
    assert all(len(slate.items) == 10 for slate in slates)
    rows = stages[0].now.items.rows
    assert not np.isin(stages[0]({"QUERY": hiding})["candidate_rows"], [rows[NEW], rows[liked]]).any()
    assert not any(flag.startswith("hidden:") for slate in slates for flag in slate.degraded)
