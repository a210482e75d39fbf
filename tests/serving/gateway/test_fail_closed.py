"""No slate breaks a must, whatever state the stores of rules and items are in: every tier, at a start and while running."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.contracts import Query
from recsys.errors import RulesLostError
from recsys.export.releases import served_release
from recsys.items.store import Edit, ItemStore
from recsys.pipeline import light, recommend
from recsys.policy.rules.store import RuleStore
from recsys.stages import (
    NO_SLATE,
    STALE_ITEMS,
    STALE_RULES,
    load_live_retrieve,
    load_live_rules,
    load_rank,
    read_schema,
    recently_popular,
)
from serving.gateway.container import Dependencies
from serving.gateway.fallback_slates import FallbackSlates
from serving.triton.client import Client
from serving.triton.server import TritonServer

USER = "planted-user-7391"
CHEAP = "rules: [{name: cheap, must: 'price < 40'}]"
CHEAPER = "rules: [{name: cheap, must: 'price < 35'}]"
MOST = 40.0


def publish(store: RuleStore, text: str) -> None:
    head = store.head()
    store.publish(text, who="ann", why="x", expected=head.version if head else None)


def every_file(folder: Path) -> Iterator[Path]:
    yield from (file for file in folder.rglob("*") if file.is_file())


def remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def empty(folder: Path) -> None:
    for file in every_file(folder):
        file.unlink()


def truncate(folder: Path) -> None:
    for file in every_file(folder):
        file.chmod(0o600)
        file.write_bytes(b"")


def garble(folder: Path) -> None:
    for file in every_file(folder):
        file.chmod(0o600)
        file.write_bytes(b"\x00\xffnothing\n")


def lose_texts(folder: Path) -> None:
    remove(folder / "objects")


DAMAGES: dict[str, Callable[[Path], None]] = {
    damage.__name__: damage for damage in (remove, empty, truncate, garble, lose_texts)
}


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Stores of a serve folder, and the stages of a process that starts over them."""

    bundle: Any
    folder: Path
    dear: str
    """an item that became too dear since the training"""
    gone: str
    """an item that was withdrawn"""

    def stages(self) -> tuple[Any, Any, Any]:
        retrieve = load_live_retrieve(self.bundle, self.folder / "items", self.folder / "last_good")
        return retrieve, load_rank(self.bundle), self.rules()

    def rules(self) -> Any:
        return load_live_rules(
            self.bundle,
            self.folder / "rules",
            self.folder / "items",
            self.folder / "exposure",
            self.folder / "last_good",
        )


@pytest.fixture(scope="module")
def prices(trained: Any) -> dict[str, float | None]:
    return dict(trained.dataset.items.select("item", "price").iter_rows())


@pytest.fixture(scope="module")
def published(trained: Any, prices: Any, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Rules and items that were published and served: the stores and their copies. Not to be written to."""
    folder = tmp_path_factory.mktemp("published")
    query = trained.replay.queries([trained.dataset.num_events - 1], k=10)[0]
    cheap = [
        item.item for item in recommend([replace(query, k=50)], trained.stages)[0].items if known(prices, item.item)
    ]
    publish(RuleStore(folder / "rules"), CHEAPER)
    publish(RuleStore(folder / "rules"), CHEAP)
    edits = [Edit(item=cheap[0], columns={"price": 1_000.0}), Edit(item=cheap[1], withdrawn=True)]
    ItemStore(folder / "items").put(read_schema(trained.bundle), edits, who="ann")
    made = Deployment(bundle=trained.bundle, folder=folder, dear=cheap[0], gone=cheap[1])
    made.rules()
    return made


def known(prices: Any, item: str) -> bool:
    return prices[item] is not None and prices[item] < MOST


@pytest.fixture
def deployed(published: Deployment, tmp_path: Path) -> Deployment:
    return replace(published, folder=shutil.copytree(published.folder, tmp_path / "serve"))


@pytest.fixture
def obeyed(prices: Any) -> Callable[[Deployment, list[str]], bool]:
    """Whether no item breaks the must that was published last, by the prices that were published last."""

    def obeyed(deployed: Deployment, items: list[str]) -> bool:
        return all(known(prices, item) for item in items) and not {deployed.dear, deployed.gone} & set(items)

    return obeyed


damaged = st.lists(st.sampled_from([*DAMAGES]), max_size=2)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rules=damaged, items=damaged, copies=damaged, running=st.booleans())
def test_no_slate_of_any_tier_breaks_a_must_whatever_state_the_stores_are_in(
    published: Deployment,
    trained: Any,
    obeyed: Any,
    tmp_path_factory: pytest.TempPathFactory,
    rules: list[str],
    items: list[str],
    copies: list[str],
    running: bool,
) -> None:
    """Of the copies something is left: without any trace of a publication there is nothing to obey."""
    folder = shutil.copytree(published.folder, tmp_path_factory.mktemp("any") / "serve")
    deployed = replace(published, folder=folder)
    stages = deployed.stages() if running else None
    for name in copies:
        if name not in ("remove", "empty") or not (rules or items):
            DAMAGES[name](folder / "last_good")
    for name in rules:
        DAMAGES[name](folder / "rules")
    for name in items:
        DAMAGES[name](folder / "items")
    if stages is None:
        stages = deployed.stages()
    else:
        stages[-1].follower._reload()
        stages[0]._follow()
    query = replace(trained.replay.queries([trained.dataset.num_events - 1], k=20)[0], history=())
    fallbacks = FallbackSlates(stages[0], stages[-1], recently_popular(trained.bundle))
    shown = orjson.dumps(recommend([query], trained.stages)[0])
    tiers: list[Callable[[], list[str]]] = [
        lambda: [item.item for item in recommend([query], stages)[0].items],
        lambda: [item.item for item in recommend([query], light(stages))[0].items],
        lambda: items_of(fallbacks.again(replace(query, k=1), shown)),
        lambda: items_of(fallbacks.popular(query)),
        lambda: items_of(fallbacks.similar(query, next(iter(fallbacks.rows)))),
    ]
    lost = stages[-1].lost is not None
    for tier in tiers:
        try:
            found = tier()
        except RulesLostError:
            assert lost
        else:
            assert not lost
            assert obeyed(deployed, found), (rules, items, copies, running)
    if running or not copies:
        assert not lost, "what was read once goes on"


def items_of(slate: Any) -> list[str]:
    return [] if slate is None else [item["item"] for item in slate["items"]]


@pytest.mark.parametrize("damage", [*DAMAGES])
def test_the_gateway_goes_on_with_the_copy_after_a_restart_and_says_so(
    parts: Dependencies, during: Any, deployed: Deployment, obeyed: Any, damage: str
) -> None:
    DAMAGES[damage](deployed.folder / "rules")
    remove(deployed.folder / "items")
    retrieve, _, rules = deployed.stages()

    async def story(door: Any) -> Any:
        return (await door.recommend(USER, k=10)).json()

    slate = during(replace(parts, retrieve=retrieve, rules=rules), story)
    assert {STALE_RULES, STALE_ITEMS} <= set(slate["degraded"])
    assert slate["items"]
    assert obeyed(deployed, items_of(slate))


@pytest.mark.parametrize("store", ["rules", "items"])
def test_the_gateway_serves_nothing_where_nothing_is_left_and_goes_on_when_it_is_back(
    parts: Dependencies, during: Any, deployed: Deployment, published: Deployment, obeyed: Any, store: str
) -> None:
    remove(deployed.folder / "last_good")
    garble(deployed.folder / store)
    retrieve, _, rules = deployed.stages()

    async def story(door: Any) -> None:
        for _ in range(30):  # the breaker of the tier stays closed: it is not the tier that fails
            refused = await door.recommend(USER, k=10)
            assert refused.status_code == 503
            assert refused.json()["error"].startswith(NO_SLATE)
        similar = await door.client.get(f"/v1/items/{deployed.dear}/similar")
        assert (similar.status_code, similar.json()["error"][: len(NO_SLATE)]) == (503, NO_SLATE)
        assert (await door.client.get("/readyz")).status_code == 503
        ready = await door.internal("/readyz")
        assert ready.status_code == 503
        assert ready.json()["reasons"]["rules"].startswith(NO_SLATE)
        assert str(deployed.folder) not in ready.text
        assert await door.metric("recsys_rules_lost") == 1
        remove(deployed.folder / store)
        shutil.copytree(published.folder / store, deployed.folder / store)
        rules.follower._reload()
        slate = (await door.recommend(USER, k=10)).json()
        assert obeyed(deployed, items_of(slate))
        assert await door.metric("recsys_rules_lost") == 0
        assert "rules" not in (await door.internal("/readyz")).json().get("reasons", {})

    during(replace(parts, retrieve=retrieve, rules=rules, clock=time.monotonic), story)


def test_the_server_obeys_the_copy_after_a_restart_and_refuses_without_one(
    trained: Any, deployed: Deployment, published: Deployment, obeyed: Any, stranger: Query, tmp_path: Path
) -> None:
    exported = trained.folder / "serve"
    # the release alone: other tests serve the folder too and leave copies of what they served in it
    shutil.copytree(exported / "releases", deployed.folder / "releases")
    shutil.copy(exported / "current", deployed.folder / "current", follow_symlinks=False)
    models = served_release(deployed.folder) / "models"
    remove(deployed.folder / "rules")
    remove(deployed.folder / "items")
    with (
        TritonServer(models, probed_models=("recommend", "recommend_light")) as server,
        Client(server.grpc_url) as client,
    ):
        for model in ("recommend", "recommend_light"):
            (slate,) = client.recommend([stranger], model=model)
            assert slate.items
            assert {STALE_RULES, STALE_ITEMS} <= set(slate.degraded)
            assert obeyed(deployed, [item.item for item in slate.items])
    remove(deployed.folder / "last_good")
    shutil.copytree(published.folder / "rules", deployed.folder / "rules")
    lose_texts(deployed.folder / "rules")
    with (
        TritonServer(models, probed_models=("recommend", "recommend_light")) as server,
        Client(server.grpc_url) as client,
    ):
        for model in ("recommend", "recommend_light"):
            with pytest.raises(Exception, match=f"UNAVAILABLE.*{NO_SLATE}"):
                client.recommend([stranger], model=model)
        assert server.probe() is None, "another start brings no rules back"
