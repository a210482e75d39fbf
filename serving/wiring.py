"""Composition of the gateway and consumer processes from a deployment layout and the endpoints of their servers."""

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import prometheus_client as prometheus
import uvloop

from recsys.bundle import Bundle
from recsys.data.forgotten import ForgottenList
from recsys.errors import DataError, QueryError, ServingError
from recsys.items.schema import ItemSchema
from recsys.items.store import Edit, ItemStore, Position
from recsys.policy.exposure.exposure_file import ShareFile
from recsys.policy.rules import RuleSet
from recsys.policy.rules.hot_reload import HotReloader
from recsys.policy.rules.store import RuleStore
from recsys.stages import load_live_retrieve, load_live_rules, read_catalogue, read_schema, read_spec
from serving.disk import disk_problem, free_bytes
from serving.endpoints import Endpoints, Server
from serving.events.archive import ArchiveReader
from serving.events.consumer import Consumer
from serving.events.forgetting import forget_periodically
from serving.events.log_factory import (
    DEFAULT_LIMITS,
    ClosableReader,
    LogLimits,
    open_eraser,
    open_reader,
    open_retention,
    open_writer,
)
from serving.events.parquet import ParquetSink
from serving.events.retention import JetStreamRetention
from serving.events.spool import Spool
from serving.events.writer import EventLogWriter
from serving.forgetting import forgetting_sinks
from serving.gateway.api_keys import Authorizer
from serving.gateway.app import build
from serving.gateway.container import Dependencies
from serving.gateway.http_server import Listening, serve_gateway
from serving.gateway.pseudonyms import UserPseudonyms
from serving.gateway.reloaded_keys import ReloadedKeys
from serving.gateway.settings import Settings
from serving.gateway.triton_models import TritonModels
from serving.layout import DeploymentLayout
from serving.mending import mend_states
from serving.process_tuning import freeze_heap, lower_priority
from serving.processes import HOST
from serving.state.exposure_counts import ExposureColumns, ExposureCounts, Values
from serving.state.protocols import DamagedStore
from serving.state.seeding import SeedResult, seed, seed_once
from serving.state.states import StateStore
from serving.state.store_factory import open_states
from serving.triton_wheel import METRICS_SOCKET
from serving.unix_http import get

HALF_LIFE_S = 7 * 86_400.0
"""of exposure counts"""
STATE_READ_TIMEOUT_S, STATE_WRITE_TIMEOUT_S = 0.05, 5.0
"""of one call of the state store"""
STATE_POLL_S, PARQUET_POLL_S, PARQUET_LINGER_S = 0.1, 1.0, 10.0
"""a poll costs both sides a millisecond; an event reaches the slate after the next poll"""
STATE_BATCH, REBUILD_BATCH, PARQUET_BATCH = 500, 2_000, 20_000
STATE_CHECK_S = 5.0
FORGET_PERIOD_S = 1.0
RETENTION_PERIOD_S = 30.0
"""between two truncations of the log"""
AUTHOR = "gateway"
UNIX = "unix:"
TRITON_PAGE_S = 1.0
"""timeout of reading Triton's Prometheus page"""

NamedGauge = tuple[str, str, Callable[[], float]]
"""name, description and value of a metric"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageLimits:
    """Sizes and ages of the data that is kept while serving."""

    log: LogLimits = DEFAULT_LIMITS
    """of the broker"""
    spool_bytes: int = 1 << 30
    state_ttl_s: float | None = None
    """time to live of a state after the last event of its user; None keeps all"""
    event_days: float | None = None
    """age at which days of the Parquet log are removed; None keeps all"""


class ItemStoreWriter:
    """Writes catalogue edits of the gateway to the item store. known: ids of the bundle's catalogue."""

    def __init__(self, store: ItemStore, schema: ItemSchema, known: Collection[str]) -> None:
        self._store, self._schema, self._known, self._position = store, schema, set(known), Position()
        self._lock = asyncio.Lock()

    async def put(self, item: str, columns: Mapping[str, Any], *, withdrawn: bool | None, create: bool) -> bool | None:
        """Store the edit; return whether the item is new, None for an unknown item without `create`.

        QueryError for an edit that does not fit the catalogue, ServingError on a disk error.
        """
        edit = Edit(item=item, columns=columns, withdrawn=withdrawn)
        try:
            async with self._lock:
                return await asyncio.to_thread(self._put, edit, create)
        except DataError as error:
            raise QueryError(str(error)) from None
        except OSError as error:
            raise ServingError(f"{self._store.folder} cannot be written ({error.strerror})") from None

    def _put(self, edit: Edit, create: bool) -> bool | None:
        changes, self._position = self._store.read(self._position)
        self._known.update(change.item for change in changes)
        new = edit.item not in self._known
        if new and not create:
            return None
        self._store.put(self._schema, [edit], who=AUTHOR)
        return new


def run_gateway(
    layout: DeploymentLayout,
    endpoints: Endpoints,
    *,
    listening: Listening,
    store_raw: bool,
    settings: Settings,
    limits: StorageLimits,
    ready: Callable[[str, str], None],
    jwt_file: Path | None = None,
) -> None:
    """Serve until SIGTERM. ServingError and ConfigError when the gateway cannot be composed.

    jwt_file: settings of tokens that are accepted beside API keys
    """
    layout.check()
    layout.make_live()
    bundle = Bundle.open(layout.bundle)
    pseudonyms = UserPseudonyms.from_file(layout.identity, store_raw=store_raw)
    authorizer, key_gauges = _authorizer(layout, pseudonyms, jwt_file)
    states = _states(layout, bundle, endpoints.state, limits.state_ttl_s)
    spool = Spool(layout.spool, max_bytes=limits.spool_bytes)
    log = EventLogWriter(broker=open_writer(endpoints.broker, limits.log), spool=spool)
    parts = Dependencies(
        bundle=bundle,
        retrieve=load_live_retrieve(bundle, layout.items, layout.last_good),
        rules=load_live_rules(bundle, layout.rules, layout.items, layout.exposure, layout.last_good),
        models=TritonModels(endpoints.triton.url, ca=endpoints.triton.ca),
        states=states,
        exposures=states,
        share_file=ShareFile(layout.exposure),
        writer=log,
        items=ItemStoreWriter(ItemStore(layout.items), read_schema(bundle), read_catalogue(bundle)["item"]),
        pseudonyms=pseudonyms,
        forgotten=ForgottenList(layout.forgotten, pseudonyms.key),
        erase_spool=spool.erase,
        keys=authorizer,
        settings=settings,
        log=sys.stdout,
        clock=time.monotonic,
        now=time.time,
        checks={"disk": partial(disk_problem, layout.live), "spool": partial(disk_problem, layout.spool)},
        recovered=spool.recovered,
        lifespan=_lifespan(log, states),
    )
    gateway = build(parts)
    for name, description, value in (*_spool_gauges(log, spool), *_disk_gauges(layout), *key_gauges):
        gateway.metrics.gauge(name, description, value)
    if endpoints.triton.url.startswith(UNIX):
        gateway.metrics.append(partial(_triton_page, Path(endpoints.triton.url.removeprefix(UNIX)).parent))
    serve_gateway(
        gateway,
        listening,
        lame_duck_s=settings.lame_duck_s,
        drain_s=settings.drain_s,
        log=sys.stdout,
        ready=ready,
    )


def _triton_page(sockets: Path) -> bytes:
    """Prometheus page of the Triton whose sockets are in this folder, empty while it does not answer."""
    try:
        return get(sockets / METRICS_SOCKET, "/metrics", timeout_s=TRITON_PAGE_S)
    except ServingError:
        return b""


@asynccontextmanager
async def _lifespan(log: EventLogWriter, states: StateStore) -> AsyncIterator[None]:
    """Keep log and states open for the lifetime of the application."""
    async with log:
        try:
            yield
        finally:
            await states.close()


def _disk_gauges(layout: DeploymentLayout) -> Sequence[NamedGauge]:
    folders = layout.live, layout.spool
    return (
        ("recsys_disk_free_bytes", "Free bytes of the fullest disk", lambda: min(map(free_bytes, folders))),
        ("recsys_disk_full", "1 if a disk is full", lambda: float(any(map(disk_problem, folders)))),
    )


def _spool_gauges(log: EventLogWriter, spool: Spool) -> Sequence[NamedGauge]:
    return (
        ("recsys_spool_damaged_records", "Damaged lines of the spool that were skipped", lambda: spool.damaged),
        ("recsys_spool_bytes", "Bytes in the spool, waiting for the broker", lambda: log.spool_bytes),
        ("recsys_spooled_records", "Records written to the spool", lambda: log.spooled),
        ("recsys_drained_records", "Records moved from the spool to the broker", lambda: log.drained),
        ("recsys_rejected_records", "Records refused by both broker and spool", lambda: log.rejected),
    )


def _authorizer(
    layout: DeploymentLayout, pseudonyms: UserPseudonyms, jwt_file: Path | None
) -> tuple[Authorizer, Sequence[NamedGauge]]:
    """Keys of the layout, and tokens beside them where their settings are given; with the gauges of both."""
    keys = ReloadedKeys(layout.keys, clock=time.monotonic)
    stale = "1 while the file of API keys cannot be read and the last ones are in use"
    gauges: list[NamedGauge] = [
        ("recsys_keys", "API keys in use", lambda: len(keys)),
        ("recsys_keys_stale", stale, lambda: keys.stale),
    ]
    if jwt_file is None:
        return keys, gauges
    from serving.gateway import jwt_settings, jwt_tokens, signing_keys

    settings = jwt_settings.JwtSettings.from_file(jwt_file)
    issuer_keys = signing_keys.SigningKeys(settings)
    stale = "1 while the keys of the token issuer cannot be read"
    gauges.append(("recsys_token_issuer_stale", stale, lambda: issuer_keys.stale))
    logged, clock = pseudonyms.logged, time.monotonic
    return jwt_tokens.JwtAuthorizer(settings, issuer_keys, keys, logged=logged, clock=clock), gauges


def run_seed(layout: DeploymentLayout, state: Server, *, store_raw: bool, again: bool) -> SeedResult | None:
    """Seed the state store with the users of the training data; None if that is done already and not `again`.

    With `again`, BundleError for a bundle without users; ServingError for a store that does not answer.
    """
    layout.check()
    layout.make_live()
    bundle = Bundle.open(layout.bundle)
    pseudonyms = UserPseudonyms.from_file(layout.identity, store_raw=store_raw)
    forgotten = ForgottenList(layout.forgotten, pseudonyms.key).current()

    async def run() -> SeedResult | None:
        states = _states(layout, bundle, state, None)
        try:
            return await (seed if again else seed_once)(states, bundle, pseudonyms.stored, forgotten)
        finally:
            await states.close()

    return asyncio.run(run())


def run_consumer(
    layout: DeploymentLayout, endpoints: Endpoints, *, port: int, store_raw: bool, limits: StorageLimits
) -> None:
    """Write the log to the states promptly and to Parquet in large batches, independently, until SIGTERM.

    A damaged states.db is moved aside first and rebuilt. DamagedStore when the states are damaged while it runs: the next
    start mends them.
    """
    layout.check()
    layout.make_live()
    lower_priority()
    bundle = Bundle.open(layout.bundle)
    if endpoints.state.url == layout.sqlite:
        mend_states(layout, logger.warning)
    freeze_heap()
    uvloop.run(_consume(layout, bundle, endpoints, limits, port, store_raw))


async def _consume(
    layout: DeploymentLayout, bundle: Bundle, endpoints: Endpoints, limits: StorageLimits, port: int, store_raw: bool
) -> None:
    states, broker = _states(layout, bundle, endpoints.state, limits.state_ttl_s), endpoints.broker
    parquet = ParquetSink(layout.events, keep_days=limits.event_days, may_delete=lambda: not layout.rebuild.exists())
    pseudonyms = UserPseudonyms.from_file(layout.identity, store_raw=store_raw)
    forgotten = ForgottenList(layout.forgotten, pseudonyms.key)

    async def clear_and_seed() -> None:
        await states.clear()
        await seed_once(states, bundle, pseudonyms.stored, forgotten.current())

    readers = {
        "states": _state_reader(layout, broker, limits.log, clear_and_seed),
        "parquet": open_reader(
            broker, limits.log, name="parquet", limit=PARQUET_BATCH, linger_s=PARQUET_LINGER_S, poll_s=PARQUET_POLL_S
        ),
    }
    eraser = open_eraser(broker)
    sinks = forgetting_sinks(layout, states, parquet, forgotten, eraser)
    consumers = {
        name: Consumer(reader=reader, sinks=[sinks[name]], fatal=(DamagedStore,)) for name, reader in readers.items()
    }
    retention = open_retention(broker, limits.log)
    _export_metrics(consumers, states, retention, port)
    stop_requested = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop_requested.set)
    running = [asyncio.create_task(consumer.run()) for consumer in consumers.values()]
    running.append(asyncio.create_task(_check_periodically(states)))
    running += [] if retention is None else [asyncio.create_task(_truncate_periodically(retention, consumers.values()))]
    running.append(asyncio.create_task(forget_periodically(tuple(sinks.values()), eraser, forgotten, FORGET_PERIOD_S)))
    ended = asyncio.create_task(stop_requested.wait())
    await asyncio.wait([*running, ended], return_when=asyncio.FIRST_COMPLETED)
    for task in (*running, ended):
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for reader in readers.values():
        await reader.close()
    for closed in (retention, eraser):
        if closed is not None:
            await closed.close()
    await states.close()
    for task in running:
        if not task.cancelled() and (error := task.exception()):
            raise error


def _state_reader(
    layout: DeploymentLayout, broker: Server, limits: LogLimits, clear_and_seed: Callable[[], Awaitable[None]]
) -> ClosableReader:
    """Reader of the log for the states; during a rebuild it replays the Parquet archive first."""
    log = open_reader(broker, limits, name="states", limit=STATE_BATCH, linger_s=0.0, poll_s=STATE_POLL_S)
    if not layout.rebuild.exists():
        return log

    def remove_marker() -> None:
        layout.rebuild.unlink(missing_ok=True)
        logger.warning("the states were rebuilt from %s", layout.events)

    logger.warning("the states are being rebuilt from %s", layout.events)
    return ArchiveReader(layout.events, log, limit=REBUILD_BATCH, on_start=clear_and_seed, on_done=remove_marker)


async def _truncate_periodically(retention: JetStreamRetention, consumers: Collection[Consumer]) -> None:
    """Truncate the log up to the position that all consumers have reached."""
    while True:
        with contextlib.suppress(ServingError):  # the readers report it
            await retention.truncate(min(consumer.sequence for consumer in consumers))
        await asyncio.sleep(RETENTION_PERIOD_S)


async def _check_periodically(states: StateStore) -> None:
    """Raise DamagedStore when the states are lost, also while no event comes."""
    while True:
        await asyncio.sleep(STATE_CHECK_S)
        try:
            await states.check()
        except DamagedStore:
            raise
        except ServingError as error:  # busy, or without a descriptor: the next check tells
            logger.warning("the states could not be checked: %s", error)


def _export_metrics(
    consumers: Mapping[str, Consumer], states: StateStore, retention: JetStreamRetention | None, port: int
) -> None:
    """Serve consumer progress and log size as Prometheus metrics."""
    malformed = prometheus.Gauge("recsys_consumer_malformed", "Malformed records that were skipped")
    malformed.set_function(lambda: states.malformed)
    damaged = prometheus.Gauge("recsys_consumer_damaged", "Unreadable states, replaced by empty ones")
    damaged.set_function(lambda: states.damaged)
    if retention is not None:
        full = prometheus.Gauge(
            "recsys_log_full_share", "Size of the log as a share of its maximum; at 1 it refuses records"
        )
        full.set_function(lambda: retention.num_bytes / retention.max_bytes)
    for attribute, name, description in (
        ("waiting", "waiting", "Unread records"),
        ("num_written", "folded", "Records written to the sink since the start"),
        ("retries", "retries", "Retried calls"),
        ("delay_s", "delay_seconds", "Age of the newest record when it was written to the sink"),
        ("newest", "newest_timestamp", "Timestamp of the newest record written to the sink"),
    ):
        gauge = prometheus.Gauge(f"recsys_consumer_{name}", description, ("sink",))
        for sink, consumer in consumers.items():
            gauge.labels(sink).set_function(partial(getattr, consumer, attribute))
    prometheus.start_http_server(port, addr=HOST)


def _states(layout: DeploymentLayout, bundle: Bundle, server: Server, ttl_s: float | None) -> StateStore:
    """States that count the column values named by the active exposure rules; invalid rules leave the previous ones active."""
    columns = ExposureColumns(bundle)

    def exposure_values(rules: RuleSet | None) -> Values:
        return columns(RuleSet.parse(bundle.document("rules.yaml")) if rules is None else rules)

    follower = HotReloader(RuleStore(layout.rules), exposure_values)
    exposure_counts = ExposureCounts(values=lambda: follower.current().value, half_life_s=HALF_LIFE_S)
    return open_states(
        server,
        read_spec(bundle),
        exposure=exposure_counts,
        read_timeout_s=STATE_READ_TIMEOUT_S,
        write_timeout_s=STATE_WRITE_TIMEOUT_S,
        ttl_s=ttl_s,
    )
