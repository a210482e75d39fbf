"""A gateway in this process: real Triton, real rules, and stores of a few lines where the store is not what is tested."""

import asyncio
import io
import json
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from recsys.data.forgotten import ForgottenList
from recsys.errors import ServingError
from recsys.pipeline import recommend
from recsys.policy.exposure.exposure_file import ShareFile
from recsys.policy.rules import RuleSet
from recsys.stages import load_retrieve, load_rules
from serving.events.record import Record, StoredRecord
from serving.gateway.api_keys import ApiKey, ApiKeys, hash_token
from serving.gateway.app import build
from serving.gateway.container import Dependencies
from serving.gateway.pseudonyms import UserPseudonyms
from serving.gateway.settings import Settings
from serving.state.protocols import UserState
from serving.triton.async_models import Metadata, TritonModels
from serving.triton.server import TritonServer

PATIENT = Settings(budget_ms=20_000, explain_ms=20_000, state_ms=5_000, light_ms=5_000, fallback_ms=5_000, probe_s=20)
"""for tests that are not about time, on a machine that others use as well"""


async def erase_nothing(chosen: Callable[[Record], bool]) -> int:
    return 0


@dataclass(kw_only=True)
class MemoryStates:
    """Implements UserStates; `hold` makes it wait, `away` makes it fail."""

    known: dict[str, UserState] = field(default_factory=dict)
    away: bool = False
    hold: asyncio.Event | None = None

    async def get(self, user: str) -> UserState | None:
        if self.hold is not None:
            await self.hold.wait()
        if self.away:
            raise ServingError("the state store is away; start it")
        return self.known.get(user)

    async def write(self, batch: Sequence[StoredRecord]) -> None: ...

    async def close(self) -> None: ...


@dataclass(kw_only=True)
class MemoryWriter:
    """Implements RecordWriter: each id once."""

    records: dict[str, Record] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    away: bool = False
    hold: asyncio.Event | None = None

    async def append(self, records: Sequence[Record]) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.away:
            raise ServingError("the event log is away; start it")
        self.batches.append(len(records))
        for record in records:
            self.records.setdefault(record.id, record)

    def of_kind(self, kind: str) -> list[Record]:
        return [record for record in self.records.values() if record.kind == kind]


@dataclass(kw_only=True)
class MemoryItems:
    """Implements Items."""

    changes: dict[str, tuple[Mapping[str, Any], bool | None]] = field(default_factory=dict)

    async def put(self, item: str, columns: Mapping[str, Any], *, withdrawn: bool | None, create: bool) -> bool | None:
        if item not in self.changes and not create:
            return None
        created = item not in self.changes
        self.changes[item] = columns, withdrawn
        return created


@dataclass(kw_only=True)
class MemoryExposures:
    """Implements Exposures."""

    shares: dict[str, float] = field(default_factory=dict)
    away: bool = False

    async def exposure(self) -> Mapping[str, float]:
        if self.away:
            raise ServingError("the state store is away; start it")
        return dict(self.shares)


Answering = Callable[[bytes], Awaitable[bytes]]


@dataclass(kw_only=True)
class ScriptedModels:
    """Implements Models: each model does what its function says, and is counted."""

    answers: dict[str, Answering]
    asked: list[tuple[str, float, Metadata]] = field(default_factory=list)

    async def infer(self, model: str, query: bytes, *, time_s: float, metadata: Metadata) -> bytes:
        if model not in self.answers:
            raise ServingError(f"there is no model {model!r}")
        self.asked.append((model, time_s, metadata))
        return await self.answers[model](query)

    async def close(self) -> None: ...


class RequestMiddleware:
    """What a caller sees of a running gateway, and what its operator sees."""

    def __init__(self, parts: Dependencies, gateway: Any, client: httpx.AsyncClient) -> None:
        self.parts, self.gateway, self.client = parts, gateway, client

    async def recommend(self, user: str, headers: Mapping[str, str] | None = None, **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/recommend", json={"user": user, **fields}, headers=headers)

    async def internal(self, path: str) -> httpx.Response:
        """What the port of metrics answers."""
        transport = httpx.ASGITransport(self.gateway.internal)
        async with httpx.AsyncClient(transport=transport, base_url="http://internal") as client:
            return await client.get(path)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log."""
        return [json.loads(line) for line in self.parts.log.getvalue().splitlines()]  # type: ignore[attr-defined]

    async def metric(self, line: str) -> float:
        """The value behind this name and its labels, 0 where the page lacks it."""
        page = self.gateway.metrics.text().decode().splitlines()
        return sum(float(one.removeprefix(line)) for one in page if one.startswith(line + " "))


@pytest.fixture
def memory_writer() -> Callable[[], MemoryWriter]:
    """Makes logs in memory, for one event loop each."""
    return MemoryWriter


@pytest.fixture
def models() -> type[ScriptedModels]:
    """Makes a model server of a few lines."""
    return ScriptedModels


Opened = Callable[..., Any]


@pytest.fixture
def parts(trained: Any, tmp_path: Path) -> Dependencies:
    """Everything in memory, and no model server."""

    async def nobody(query: bytes) -> bytes:
        raise ServingError("no model answers here; start one")

    return Dependencies(
        bundle=trained.bundle,
        retrieve=load_retrieve(trained.bundle),
        rules=load_rules(trained.bundle),
        models=ScriptedModels(answers={"recommend": nobody, "recommend_light": nobody}),
        states=MemoryStates(),
        writer=MemoryWriter(),
        items=MemoryItems(),
        pseudonyms=UserPseudonyms(key=b"a key of tests in these files", store_raw=True),
        exposures=MemoryExposures(),
        share_file=ShareFile(tmp_path / "exposure"),
        forgotten=ForgottenList(tmp_path / "forgotten", b"a key of tests in these files"),
        erase_spool=erase_nothing,
        keys=None,
        settings=PATIENT,
        log=io.StringIO(),
        clock=lambda: asyncio.get_running_loop().time(),
        now=lambda: float(trained.replay.timestamps.max()),
    )


@pytest.fixture
def served_parts(parts: Dependencies, server: TritonServer) -> Callable[[], Dependencies]:
    """The same before the real Triton; a connection belongs to one event loop, so make one a run."""
    return lambda: replace(parts, models=TritonModels(server.grpc_url))


@pytest.fixture
def opened() -> Opened:
    """A gateway between its first and its last breath."""

    @asynccontextmanager
    async def opened(parts: Dependencies) -> AsyncIterator[RequestMiddleware]:
        gateway = build(parts)
        transport = httpx.ASGITransport(gateway.app, raise_app_exceptions=False)
        async with (
            gateway.app.router.lifespan_context(gateway.app),
            httpx.AsyncClient(transport=transport, base_url="http://gateway") as client,
        ):
            yield RequestMiddleware(parts, gateway, client)

    return opened


@pytest.fixture
def during(opened: Opened) -> Callable[[Dependencies, Callable[[RequestMiddleware], Awaitable[Any]]], Any]:
    """Runs a story while a gateway of these parts lives."""

    def during(parts: Dependencies, story: Callable[[RequestMiddleware], Awaitable[Any]]) -> Any:
        async def told() -> Any:
            async with opened(parts) as door:
                return await story(door)

        return asyncio.run(told())

    return during


@pytest.fixture
def items(trained: Any) -> list[str]:
    """Ids of the catalogue, by row."""
    return trained.dataset.items["item"].to_list()


@pytest.fixture
def banned() -> Callable[..., Dependencies]:
    """The same parts under rules that let none of these items pass."""

    def banned(parts: Dependencies, *items: str) -> Dependencies:
        must = " and ".join(f"item != '{item}'" for item in items)
        rules = RuleSet.parse({"rules": [{"name": "not-these", "must": must}]})
        return replace(parts, rules=load_rules(parts.bundle, rules=rules))

    return banned


@pytest.fixture
def keyed() -> Callable[..., Dependencies]:
    """The same parts with one API key, "token", for everything but admin."""

    def keyed(parts: Dependencies, **changes: Any) -> Dependencies:
        key = {"rate": 1.0, "burst": 3, "scopes": ("recommend", "events")} | changes
        ring = ApiKeys([ApiKey(name="all", sha256=hash_token("token"), **key)], clock=lambda: 0.0)
        return replace(parts, keys=ring)

    return keyed


@pytest.fixture
def good_slate(trained: Any) -> Callable[[Dependencies], tuple[Dependencies, dict[str, Any], dict[str, bool]]]:
    """The same parts with models that know one good slate, that slate, and a switch that makes them fail."""

    def good_slate(parts: Dependencies) -> tuple[Dependencies, dict[str, Any], dict[str, bool]]:
        (query,) = trained.replay.queries([trained.dataset.num_events - 1], k=5)
        query, well = replace(query, user="planted-user-7391"), {"now": True}
        (slate,) = recommend([query], trained.stages)

        async def answer(text: bytes) -> bytes:
            if not well["now"]:
                raise TimeoutError
            return slate.to_json().encode()

        parts.states.known[query.user] = UserState(history=query.history)  # type: ignore[attr-defined]
        models = ScriptedModels(answers={"recommend": answer, "recommend_light": answer})
        return replace(parts, models=models), json.loads(slate.to_json()), well

    return good_slate


class _Leaping(selectors.DefaultSelector):
    """Waits for threads, and else no real time: where nothing is ready, the clock of its loop leaps to the next timer."""

    leapt = 0.0
    threads = 0
    """calls that run on threads"""

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(None if self.threads and timeout != 0 else 0)
        if not ready and timeout:
            self.leapt += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes only while everybody waits for it."""

    def __init__(self) -> None:
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        return 1_000.0 + self._leaping.leapt

    def run_in_executor(self, executor: Any, function: Any, *arguments: Any) -> Any:
        self._leaping.threads += 1
        running = super().run_in_executor(executor, function, *arguments)
        running.add_done_callback(self._ended)
        return running

    def _ended(self, _: Any) -> None:
        self._leaping.threads -= 1


@pytest.fixture
def in_virtual_time() -> Callable[[Coroutine[Any, Any, Any]], Any]:
    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(coroutine)

    return run
