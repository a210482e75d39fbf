"""The real tritonserver follows the rule store beside its bundle, and drops no request over it.

One server for all tests, in this order: the first one finds an empty store, the last one leaves a damaged one.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from recsys.bundle import Bundle
from recsys.contracts import Query, Slate
from recsys.pipeline import recommend
from recsys.policy.exposure.exposure_file import ShareFile
from recsys.policy.rules import RuleSet
from recsys.policy.rules.audit import HEAD
from recsys.policy.rules.store import RuleStore
from recsys.stages import STALE_RULES, load_stages
from serving.triton.client import Client
from serving.triton.server import TritonServer

PATIENCE_S = 60
CHEAP = "rules: [{name: cheap, must: 'not price < 10'}]"
DEAR = "rules: [{name: dear, must: 'not price > 10'}]"
EVEN = "rules: [{name: even, exposure: item, least: 0, most: 0.1, strength: 30}]"
MISFIT = "rules: [{name: misfit, must: 'not prise > 10'}]"


@dataclass
class Load:
    """What clients saw who never stop asking."""

    batches: list[list[Slate]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)

    @property
    def slates(self) -> list[Slate]:
        return [slate for batch in self.batches for slate in batch]


@pytest.fixture(scope="module")
def served(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server of its own: its store is that of this file alone."""
    folder = tmp_path_factory.mktemp("rules")
    shutil.copytree(trained.folder / "serve", folder / "serve", symlinks=True)
    with TritonServer(folder / "serve" / "current" / "models", log=folder / "triton.log") as server:
        yield server


@pytest.fixture
def store(served: TritonServer) -> RuleStore:
    return RuleStore(served.repository.parents[2] / "rules")


@pytest.fixture
def queries(trained: Any) -> list[Query]:
    return trained.replay.queries(range(0, 160, 20), k=10)


def publish(store: RuleStore, text: str) -> str:
    head = store.head()
    return store.publish(text, who="ann", why="x", expected=head.version if head else None).version


@contextmanager
def asking(server: TritonServer, queries: list[Query], num_clients: int = 2) -> Iterator[Load]:
    load, stopped = Load(), threading.Event()

    def ask() -> None:
        with Client(server.grpc_url) as client:
            while not stopped.is_set():
                try:
                    load.batches.append(client.recommend(queries))
                except Exception as error:
                    load.errors.append(error)

    clients = [threading.Thread(target=ask) for _ in range(num_clients)]
    for client in clients:
        client.start()
    try:
        yield load
    finally:
        stopped.set()
        for client in clients:
            client.join()


def until(server: TritonServer, query: Query, wanted: Callable[[Slate], bool]) -> Slate:
    """Ask until the slate is as wanted."""
    deadline = time.monotonic() + PATIENCE_S
    with Client(server.grpc_url) as client:
        while not wanted(slate := client.recommend([query])[0]):
            assert time.monotonic() < deadline, slate
    return slate


def prices(trained: Any, slates: list[Slate]) -> list[float]:
    known = dict(trained.dataset.items.select("item", "price").iter_rows())
    found = (known[shown.item] for slate in slates for shown in slate.items)
    return [price for price in found if price is not None]


def test_publish_and_rollback_change_the_slates_and_every_answer_is_of_one_version(
    trained: Any, served: TritonServer, store: RuleStore, queries: list[Query]
) -> None:
    own = RuleSet.parse(trained.bundle.document("rules.yaml")).hash
    assert until(served, queries[0], lambda slate: True).rules == own
    cheap = publish(store, CHEAP)
    until(served, queries[0], lambda slate: slate.rules == cheap)
    with asking(served, queries) as load:
        dear = publish(store, DEAR)
        until(served, queries[0], lambda slate: slate.rules == dear)
        store.rollback(who="bob", why="x")
        until(served, queries[0], lambda slate: slate.rules == cheap)
    assert load.errors == []
    assert {len({slate.rules for slate in batch}) for batch in load.batches} == {1}
    by_version = {version: [slate for slate in load.slates if slate.rules == version] for version in (cheap, dear)}
    assert sum(map(len, by_version.values())) == len(load.slates)
    assert all(by_version.values())
    assert all(slate.items and STALE_RULES not in slate.degraded for slate in load.slates)
    assert min(prices(trained, by_version[cheap])) >= 10
    assert max(prices(trained, by_version[dear])) <= 10
    assert len(store.verify()) == 3


def test_the_process_and_the_server_read_the_same_store(
    trained: Any, served: TritonServer, store: RuleStore, queries: list[Query]
) -> None:
    stages = load_stages(Bundle.open(trained.bundle.path), rules_store=store.folder)
    own = yaml.safe_dump(trained.bundle.document("rules.yaml"))
    for text in (DEAR, own, CHEAP):
        version = publish(store, text)
        until(served, queries[0], lambda slate, version=version: slate.rules == version)
        deadline = time.monotonic() + PATIENCE_S
        while recommend(queries[:1], stages)[0].rules != version:
            assert time.monotonic() < deadline
        here = recommend(queries, stages)
        with Client(served.grpc_url) as client:
            there = client.recommend(queries)
        assert [[shown.item for shown in slate.items] for slate in here] == [
            [shown.item for shown in slate.items] for slate in there
        ]
        assert [slate.rules for slate in there] == [slate.rules for slate in here] == [version] * len(queries)


def test_what_was_shown_to_everybody_reaches_the_server_beside_the_queries(
    trained: Any, served: TritonServer, store: RuleStore, queries: list[Query]
) -> None:
    even = publish(store, EVEN)
    before = until(served, queries[0], lambda slate: slate.rules == even)
    worn_out = {place.item for place in before.items[:3]}
    shares = {f"item={item}": 0.9 * (item in worn_out) for item in trained.dataset.items["item"]}
    ShareFile(served.repository.parents[2] / "exposure").write(shares)
    after = until(served, queries[0], lambda slate: bool(slate.exposure))
    assert not worn_out & {place.item for place in after.items}
    assert after.exposure.items() <= shares.items()


def test_rules_that_do_not_fit_leave_the_old_ones_and_the_slates_say_so(
    trained: Any, served: TritonServer, store: RuleStore, queries: list[Query]
) -> None:
    cheap = publish(store, CHEAP)
    until(served, queries[0], lambda slate: slate.rules == cheap)
    with asking(served, queries) as load:
        publish(store, MISFIT)
        assert until(served, queries[0], lambda slate: STALE_RULES in slate.degraded).rules == cheap
        dear = publish(store, DEAR)
        assert STALE_RULES not in until(served, queries[0], lambda slate: slate.rules == dear).degraded
        (store.folder / "draft").write_text("nonsense")
        (store.folder / "draft").replace(store.folder / HEAD)  # at once: half a file would be said as well
        assert until(served, queries[0], lambda slate: STALE_RULES in slate.degraded).rules == dear
    assert load.errors == []
    assert {slate.rules for slate in load.slates} <= {cheap, dear}
    log = served.log.read_text()
    assert log.count("; the older version stays active") == 2
    assert "unknown" in log
    assert "HEAD was altered" in log
