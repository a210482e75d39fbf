"""An impression record is a slate that can be made again, bit for bit: its query, its bundle, its version of the rules."""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from recsys.contracts import Query, query_from_dict
from recsys.errors import ServingError
from recsys.export.releases import served_release
from recsys.pipeline import light, recommend
from recsys.policy.exposure.exposure_file import ShareFile
from recsys.policy.rules import RuleSet
from recsys.policy.rules.store import RuleStore
from recsys.stages import load_live_rules, load_rules
from serving.events.record import Record
from serving.gateway.container import Dependencies
from serving.state.protocols import UserState
from serving.triton.async_models import TritonModels
from serving.triton.server import TritonServer

EVEN = "{name: even, exposure: item, least: 0, most: 0.02, strength: 30}"
VERSIONS = [f"rules: [{EVEN}]", f"rules: [{EVEN}, {{name: cheap, must: 'price < 60'}}]"]
GATEWAYS_FLAGS = (
    "rung:",
    "recommend:",
    "recommend_light:",
    "last_good:",
    "state:",
    "exposure:",
    "impressions:",
    "rules:stale",
)
USERS = 6
PATIENCE_S = 60


@pytest.fixture
def served(trained: Any, tmp_path: Path) -> Iterator[tuple[Path, TritonServer]]:
    serve = shutil.copytree(trained.folder / "serve", tmp_path / "serve", symlinks=True)
    with TritonServer(served_release(serve) / "models") as server:
        yield serve, server


def replayed(record: Record, trained: Any, store: RuleStore) -> dict[str, Any]:
    """The slate of a record, from nothing but the record, the bundle that it names and the rules that it names."""
    query, slate = record.body["query"], record.body["slate"]
    assert slate["bundle"] == trained.bundle.fingerprint
    rules = RuleSet.parse(store.read(slate["rules"]))
    retrieve, rank, _ = trained.stages
    stages = retrieve, rank, load_rules(trained.bundle, rules=rules)
    (made,) = recommend([query_from_dict(query)], light(stages) if record.body["rung"] == "recommend_light" else stages)
    return orjson.loads(made.to_json())


def compared(slate: Any) -> dict[str, Any]:
    """Everything but the flags that the gateway adds."""
    flags = [flag for flag in slate["degraded"] if not flag.startswith(GATEWAYS_FLAGS)]
    return {**{name: value for name, value in slate.items() if name != "exposure"}, "degraded": flags}


class Failing:
    """Models of a server of which one is away."""

    def __init__(self, models: TritonModels) -> None:
        self.models, self.away = models, ""

    async def infer(self, model: str, query: bytes, **more: Any) -> bytes:
        if model == self.away:
            raise ServingError("it is away")
        return await self.models.infer(model, query, **more)

    async def close(self) -> None:
        await self.models.close()


@pytest.fixture
def live(parts: Dependencies, served: tuple[Path, TritonServer]) -> Dependencies:
    """A gateway over the serve folder of a real server."""
    serve, server = served
    RuleStore(serve / "rules").publish(VERSIONS[0], who="ann", why="x")
    return replace(
        parts,
        models=Failing(TritonModels(server.grpc_url)),
        rules=load_live_rules(parts.bundle, serve / "rules", None, serve / "exposure"),
        share_file=ShareFile(serve / "exposure"),
        settings=replace(parts.settings, exposure_every_s=1.0),
    )


@pytest.fixture
def queries(trained: Any, live: Dependencies) -> list[Query]:
    """Users with a history that the states know."""
    found = trained.replay.queries(range(0, trained.dataset.num_events, trained.dataset.num_events // USERS), k=10)
    for query in found:
        live.states.known[query.user] = UserState(history=query.history, profile=query.profile)  # type: ignore[attr-defined]
    return found


async def ask(door: Any, queries: list[Query], number: int) -> None:
    for place, query in enumerate(queries):
        headers = {"x-request-id": f"{query.user}.{number}"}
        answer = await door.recommend(query.user, k=5 + place, context=device(query), headers=headers)
        assert answer.status_code == 200, answer.text


def device(query: Query) -> dict[str, Any]:
    return {name: value for name, value in query.context.items() if name == "device"}


async def until(door: Any, holds: Callable[[Record], bool]) -> None:
    """Ask until a record is as wanted."""
    async with asyncio.timeout(PATIENCE_S):
        while not (records := impressions(door)) or not holds(records[-1]):
            await door.recommend("nobody", k=3)
            await asyncio.sleep(0.01)


def impressions(door: Any) -> list[Record]:
    return door.parts.writer.of_kind("impression")  # type: ignore[no-any-return]


def test_records_replay_bit_for_bit_while_exposure_and_rules_change(
    live: Dependencies, opened: Any, trained: Any, served: tuple[Path, TritonServer], queries: list[Query]
) -> None:
    store, items = RuleStore(served[0] / "rules"), trained.dataset.items["item"].to_list()

    async def story() -> list[Record]:
        async with opened(live) as door:
            for number, version in enumerate([0, 1, 0, 1]):
                share = (1 + number) / 16
                live.exposures.shares |= {f"item={item}": share * (place % 3) for place, item in enumerate(items)}  # type: ignore[attr-defined]
                await ask(door, queries, 2 * number)
                await until(door, lambda record, share=share: share in record.body["query"]["exposure"].values())  # type: ignore[misc]
                await ask(door, queries, 2 * number + 1)
                head = store.head()
                if number:
                    text = VERSIONS[version]
                    name = store.publish(text, who="ann", why="x", expected=head and head.version).version
                    await until(door, lambda record, name=name: record.body["slate"]["rules"] == name)  # type: ignore[misc]
                live.models.away = "recommend" if number == 2 else ""  # type: ignore[attr-defined]
            await ask(door, queries, 100)
        return impressions(door)

    records = asyncio.run(story())
    assert {record.body["rung"] for record in records} == {"recommend", "recommend_light"}
    assert len({record.body["slate"]["rules"] for record in records}) == 2
    assert len({json.dumps(record.body["query"]["exposure"]) for record in records}) > 4
    for record in records:
        logged = orjson.loads(record.to_json())["body"]["slate"]
        assert compared(replayed(record, trained, store)) == compared(logged)


def test_the_same_request_asked_again_may_differ_and_each_record_keeps_its_own(
    live: Dependencies, opened: Any, trained: Any, served: tuple[Path, TritonServer], queries: list[Query]
) -> None:
    """The user acted and items were shown meanwhile: the request id fixes the draws, not what they are drawn from."""
    query = queries[-1]

    async def story() -> list[Record]:
        async with opened(live) as door:
            first = (await door.recommend(query.user, k=5, headers={"x-request-id": "one"})).json()
            again = (await door.recommend(query.user, k=5, headers={"x-request-id": "one"})).json()
            assert again["items"] == first["items"], "nothing moved"
            acted = replace(query.history[-1], item=first["items"][0]["item"])
            live.states.known[query.user] = UserState(history=(*query.history, acted), profile=query.profile)  # type: ignore[attr-defined]
            later = (await door.recommend(query.user, k=5, headers={"x-request-id": "two"})).json()
            assert first["items"][0]["item"] not in {item["item"] for item in later["items"]}
        return impressions(door)

    records = asyncio.run(story())
    assert len(records) >= 2
    for record in records:
        assert compared(replayed(record, trained, RuleStore(served[0] / "rules"))) == compared(record.body["slate"])
