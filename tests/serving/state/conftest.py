"""The stores of user states, each on its real server or file."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass

import pytest
import redis

from recsys.features import spec as features
from recsys.features.spec import FeatureSpec
from serving.endpoints import Server
from serving.state.exposure_counts import ExposureCounts
from serving.state.protocols import KeyValueStore
from serving.state.states import StateStore
from serving.state.store_factory import SQLITE, open_states, open_store
from serving.state.valkey_server import ValkeyServer

VALUES = {"genres": {"a": ("war",), "b": ("war", "drama"), "c": ()}, "studio": {"a": ("x",), "b": ("y",), "c": ("y",)}}


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where states are kept, and its bytes past all of our code."""

    url: str
    spec: FeatureSpec

    @asynccontextmanager
    async def opened(self, **options: object) -> AsyncIterator[StateStore]:
        defaults = {"read_timeout_s": 10.0, "write_timeout_s": 10.0, "ttl_s": None}
        exposure = ExposureCounts(values=lambda: VALUES, half_life_s=80.0)
        states = open_states(Server(url=self.url), self.spec, exposure=exposure, **defaults | options)
        try:
            yield states
        finally:
            await states.close()

    @asynccontextmanager
    async def table(self, **options: object) -> AsyncIterator[KeyValueStore]:
        table = open_store(
            Server(url=self.url), **{"read_timeout_s": 10.0, "write_timeout_s": 10.0, "ttl_s": None} | options
        )
        try:
            yield table
        finally:
            await table.close()

    def raw(self) -> dict[bytes, bytes]:
        if self.url.startswith(SQLITE):
            with closing(sqlite3.connect(self.url.removeprefix(SQLITE))) as connection:
                return dict(connection.execute("SELECT key, value FROM states"))
        with redis.Redis.from_url(self.url) as server:
            return {key.removeprefix(b"recsys:"): server.get(key) for key in server.scan_iter()}

    def put(self, key: bytes, value: bytes) -> None:
        if self.url.startswith(SQLITE):
            with closing(sqlite3.connect(self.url.removeprefix(SQLITE))) as connection, connection:
                connection.execute("INSERT OR REPLACE INTO states (key, value) VALUES (?, ?)", (key, value))
            return
        with redis.Redis.from_url(self.url) as server:
            server.set(b"recsys:" + key, value)


@pytest.fixture(scope="session")
def spec() -> FeatureSpec:
    return FeatureSpec(
        items=features.TableSpec(name="items", columns=()),
        profile=features.TableSpec(name="profile", columns=()),
        context=features.TableSpec(name="context", columns=()),
        history_length=3,
        actions=("click", "rating"),
        objectives={"watch": "click", "like": "rating >= 4"},
        target="like",
    )


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session", params=["sqlite", "redis"])
def empty(
    request: pytest.FixtureRequest, spec: FeatureSpec, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Store]:
    """Makes an empty store of one kind."""
    if request.param == "sqlite":
        return lambda: Store(url=f"{SQLITE}{tmp_path_factory.mktemp('states') / 'states.db'}", spec=spec)
    url = request.getfixturevalue("valkey").server.url

    def flushed() -> Store:
        with redis.Redis.from_url(url) as server:
            server.flushall()
        return Store(url=url, spec=spec)

    return flushed


@pytest.fixture
def store(empty: Callable[[], Store]) -> Store:
    return empty()
