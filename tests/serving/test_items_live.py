"""The real tritonserver follows the item store beside its bundle, as this process does, and drops no request over it.

One server for all tests, whose store holds a withdrawn item when it starts.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recsys.contracts import Query, Slate
from recsys.items.store import LOG, Edit, ItemStore
from recsys.pipeline import recommend
from recsys.policy.rules.store import RuleStore
from recsys.stages import STALE_ITEMS, Stages, load_stages, read_schema
from serving.triton.client import Client
from serving.triton.server import TritonServer

PATIENCE_S = 60
NEW = "brand new"


@pytest.fixture(scope="module")
def queries(trained: Any) -> list[Query]:
    return trained.replay.queries(range(0, 240, 8), k=50)


@pytest.fixture(scope="module")
def store(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> ItemStore:
    folder = tmp_path_factory.mktemp("items") / "serve"
    shutil.copytree(trained.folder / "serve", folder, symlinks=True)
    return ItemStore(folder / "items")


@pytest.fixture(scope="module")
def withdrawn(trained: Any, store: ItemStore, queries: list[Query]) -> str:
    """An item that is withdrawn before the server starts."""
    item = recommend(queries, trained.stages)[0].items[0].item
    store.put(read_schema(trained.bundle), [Edit(item=item, withdrawn=True)], who="ann")
    return item


@pytest.fixture(scope="module")
def served(store: ItemStore, withdrawn: str) -> Iterator[TritonServer]:
    folder = store.folder.parent
    with TritonServer(folder / "current" / "models", log=folder.parent / "triton.log") as server:
        yield server


@pytest.fixture
def client(served: TritonServer) -> Iterator[Client]:
    with Client(served.grpc_url) as client:
        yield client


@pytest.fixture
def stages(trained: Any, store: ItemStore) -> Stages:
    return load_stages(trained.bundle, rules_store=store.folder.parent / "rules", items_store=store.folder)


@pytest.fixture
def put(trained: Any, store: ItemStore) -> Callable[..., None]:
    schema = read_schema(trained.bundle)

    def put(item: str, *, withdrawn: bool | None = None, **columns: Any) -> None:
        store.put(schema, [Edit(item=item, columns=columns, withdrawn=withdrawn)], who="ann")

    return put


def shown(slates: list[Slate]) -> set[str]:
    return {place.item for slate in slates for place in slate.items}


def until_both(client: Client, stages: Stages, queries: list[Query], holds: Callable[[list[Slate]], bool]) -> None:
    """Ask until both answers are as wanted and, each of their stages having followed by then, the same."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        here, there = recommend(queries, stages), client.recommend(queries)
        different = [one.request_id for one, other in zip(here, there, strict=True) if told(one) != told(other)]
        if holds(here) and holds(there) and not different:
            break
        assert time.monotonic() < deadline, different
    for one, other in zip(here, there, strict=True):
        utilities = [[place.utility for place in slate.items] for slate in (one, other)]
        np.testing.assert_allclose(*utilities, atol=1e-5, rtol=0)


def told(slate: Slate) -> tuple[Any, ...]:
    return slate.degraded, slate.rules, [(place.item, place.sources, place.rules) for place in slate.items]


def test_a_server_that_starts_later_knows_what_changed_before(
    client: Client, withdrawn: str, queries: list[Query]
) -> None:
    assert withdrawn not in shown(client.recommend([replace(queries[0], k=50)]))


def test_the_server_and_the_process_give_the_same_slates_after_every_change(
    trained: Any, client: Client, stages: Stages, put: Callable[..., None], store: ItemStore, queries: list[Query]
) -> None:
    # a new item has places among the candidates, not in a short slate
    queries = [replace(query, k=100) for query in queries]
    before = recommend(queries, stages)
    assert [told(slate) for slate in before] == [told(slate) for slate in client.recommend(queries)]
    liked, dear, gone, another = (place.item for place in before[0].items[:4])
    content = trained.dataset.items.filter(item=liked).drop("item").row(0, named=True)
    put(NEW, **content)
    until_both(client, stages, queries, lambda slates: NEW in shown(slates))
    RuleStore(store.folder.parent / "rules").publish("rules: [{name: a, must: 'not price > 900'}]", who="ann", why="x")
    put(dear, price=1_000)
    until_both(client, stages, queries, lambda slates: dear not in shown(slates))
    put(gone, withdrawn=True)
    until_both(client, stages, queries, lambda slates: gone not in shown(slates))
    with (store.folder / LOG).open("ab") as log:
        log.write(b'{"number":9,"item":"half')
    put(another, withdrawn=True)
    until_both(client, stages, queries, lambda slates: another not in shown(slates))
    store.compact()
    put(gone, withdrawn=False)
    until_both(client, stages, queries, lambda slates: gone in shown(slates))
    light = client.recommend(queries, model="recommend_light")
    assert gone in shown(light)
    assert another not in shown(light)
    assert not any(STALE_ITEMS in slate.degraded for slate in light)


def test_changes_beside_running_requests_drop_none(
    trained: Any, served: TritonServer, stages: Stages, put: Callable[..., None], queries: list[Query]
) -> None:
    """Every answer is whole, and what was withdrawn before is in none of the answers after it was gone once."""
    errors: list[Exception] = []
    batches: list[list[Slate]] = []
    stopped = threading.Event()

    def ask() -> None:
        with Client(served.grpc_url) as client:
            while not stopped.is_set():
                try:
                    batches.append(client.recommend(queries[:8]))
                except Exception as error:
                    errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    gone = recommend(queries[:8], stages)[0].items[0].item
    put(gone, withdrawn=True)
    for number in range(5):
        put(f"new {number}", price=float(number))
    put("new 4", price=1.0)
    deadline = time.monotonic() + PATIENCE_S
    while not batches or gone in shown(batches[-1]):
        assert time.monotonic() < deadline
    at = len(batches)
    while len(batches) < at + 5:
        assert time.monotonic() < deadline
    stopped.set()
    asking.join()
    assert errors == []
    assert not any(gone in shown(batch) for batch in batches[at:])
    assert all(len(slate.items) == 50 for batch in batches for slate in batch)
    assert not any(STALE_ITEMS in slate.degraded for batch in batches for slate in batch)
