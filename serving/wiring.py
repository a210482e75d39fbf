"""The gateway and the consumer as processes: put together from a place and from where the others listen."""

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
from typing import Any

import prometheus_client as prometheus
import uvloop

from recsys.bundle import Bundle
from recsys.errors import DataError, QueryError, ServingError
from recsys.items.schema import ItemSchema
from recsys.items.store import Edit, ItemStore, Position
from recsys.policy.exposure_file import ShareFile
from recsys.policy.hot_reload import HotReloader
from recsys.policy.rules import RuleSet
from recsys.policy.store import RuleStore
from recsys.stages import load_live_retrieve, load_live_rules, read_catalogue, read_schema, read_spec
from serving.events.archive import ArchiveReader
from serving.events.consumer import Consumer
from serving.events.jetstream import JetStreamRoom
from serving.events.log import EventLog
from serving.events.opening import OpenReader, open_reader, open_room, open_writer
from serving.events.partitions import PartitionSink
from serving.events.record import Sink
from serving.events.spool import Spool
from serving.gateway.app import build
from serving.gateway.assembly import Parts
from serving.gateway.identity import Identity
from serving.gateway.keys import Keyring, read_keys
from serving.gateway.server import serve_gateway
from serving.gateway.settings import Settings
from serving.gateway.triton import TritonModels
from serving.place import Place
from serving.processes import HOST
from serving.quiet import settle, stand_back
from serving.state.exposure import Amortised, NamedColumns, Values
from serving.state.opening import open_states
from serving.state.seeding import Seeding, seed, seed_once
from serving.state.states import States

HALF_LIFE_S = 7 * 86_400.0
"""of what exposure rules count"""
READ_S, WRITE_S = 0.05, 5.0
"""a call of the state store may take so long"""
FOLD_POLL_S, PARQUET_POLL_S, PARQUET_LINGER_S = 0.1, 1.0, 10.0
"""looking costs both sides a millisecond, and who did something sees it in the slate after the next look"""
FOLD_ROWS, REBUILD_ROWS, PARQUET_ROWS = 500, 2_000, 20_000
ROOM_S = 30.0
"""between two looks at how full the log is"""
WHO = "gateway"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """Where the others listen."""

    broker: str
    """nats://host:port or kafka://host:port"""
    state: str
    """sqlite:///path or redis://host:port"""
    triton: str = ""
    """host:port of its gRPC; the consumer needs none"""


class Shelf:
    """The item store as the gateway writes it. known: ids of the bundle's catalogue."""

    def __init__(self, store: ItemStore, schema: ItemSchema, known: Collection[str]) -> None:
        self._store, self._schema, self._known, self._position = store, schema, set(known), Position()
        self._one_at_a_time = asyncio.Lock()

    async def put(self, item: str, columns: Mapping[str, Any], *, withdrawn: bool | None, create: bool) -> bool | None:
        """QueryError for what does not fit the catalogue, ServingError where the disk refuses."""
        edit = Edit(item=item, columns=columns, withdrawn=withdrawn)
        try:
            async with self._one_at_a_time:
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
        self._store.put(self._schema, [edit], who=WHO)
        return new


def run_gateway(
    place: Place,
    neighbours: Neighbours,
    *,
    port: int,
    store_raw: bool,
    settings: Settings,
    ready: Callable[[str], None],
) -> None:
    """Serve until SIGTERM. ServingError and ConfigError for what cannot be put together."""
    place.check()
    place.make_live()
    bundle = Bundle.open(place.bundle)
    states = _states(place, bundle, neighbours)
    log = EventLog(broker=open_writer(neighbours.broker), spool=Spool(place.spool))
    parts = Parts(
        bundle=bundle,
        retrieve=load_live_retrieve(bundle, place.items),
        rules=load_live_rules(bundle, place.rules, place.items, place.exposure),
        models=TritonModels(neighbours.triton),
        states=states,
        exposures=states,
        share_file=ShareFile(place.exposure),
        writer=log,
        items=Shelf(ItemStore(place.items), read_schema(bundle), read_catalogue(bundle)["item"]),
        identities=Identity.from_file(place.identity, store_raw=store_raw),
        keys=Keyring(read_keys(place.keys), clock=time.monotonic),
        settings=settings,
        log=sys.stdout,
        clock=time.monotonic,
        now=time.time,
        beside=_beside(log, states),
    )
    gateway = build(parts)
    for name, told, value in _watched(log):
        gateway.metrics.gauge(name, told, value)
    serve_gateway(gateway, host=HOST, port=port, drain_s=settings.drain_s, log=sys.stdout, ready=ready)


@asynccontextmanager
async def _beside(log: EventLog, states: States) -> AsyncIterator[None]:
    """What lives as long as the application does."""
    async with log:
        try:
            yield
        finally:
            await states.close()


def _watched(log: EventLog) -> Sequence[tuple[str, str, Callable[[], float]]]:
    return (
        ("recsys_spool_bytes", "Waiting for the broker", lambda: log.spool_bytes),
        ("recsys_spooled_records", "Put into the spool", lambda: log.spooled),
        ("recsys_drained_records", "Brought from the spool to the broker", lambda: log.drained),
        ("recsys_rejected_records", "Refused, neither broker nor spool could take them", lambda: log.rejected),
    )


def run_seed(place: Place, state: str, *, store_raw: bool, again: bool) -> Seeding | None:
    """Give the store at this URL the users of the training data; None where that was done, unless it is done `again`.

    BundleError for a bundle that carries no users, where `again`; ServingError for a store that does not answer.
    """
    place.check()
    place.make_live()
    bundle = Bundle.open(place.bundle)
    stored = Identity.from_file(place.identity, store_raw=store_raw).stored

    async def seeded() -> Seeding | None:
        states = _states(place, bundle, Neighbours(broker="", state=state))
        try:
            return await (seed if again else seed_once)(states, bundle, stored)
        finally:
            await states.close()

    return asyncio.run(seeded())


def run_consumer(place: Place, neighbours: Neighbours, *, port: int, store_raw: bool) -> None:
    """Fold the log into the states at once and into Parquet in larger pieces, each at its own pace, until SIGTERM."""
    place.check()
    place.make_live()
    stand_back()
    bundle = Bundle.open(place.bundle)
    settle()
    uvloop.run(_consume(place, bundle, neighbours, port, store_raw))


async def _consume(place: Place, bundle: Bundle, neighbours: Neighbours, port: int, store_raw: bool) -> None:
    states, broker = _states(place, bundle, neighbours), neighbours.broker

    async def begin_anew() -> None:
        await states.clear()
        await seed_once(states, bundle, Identity.from_file(place.identity, store_raw=store_raw).stored)

    readers = {
        "states": _reader_of_states(place, broker, begin_anew),
        "parquet": open_reader(
            broker, name="parquet", limit=PARQUET_ROWS, linger_s=PARQUET_LINGER_S, poll_s=PARQUET_POLL_S
        ),
    }
    sinks: Mapping[str, Sink] = {"states": states, "parquet": PartitionSink(place.events)}
    consumers = {name: Consumer(reader=reader, sinks=[sinks[name]]) for name, reader in readers.items()}
    room = open_room(broker)
    _show(consumers, states, room, port)
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    running = [asyncio.create_task(consumer.run()) for consumer in consumers.values()]
    running += [] if room is None else [asyncio.create_task(_keep(room, consumers.values()))]
    ended = asyncio.create_task(told.wait())
    await asyncio.wait([*running, ended], return_when=asyncio.FIRST_COMPLETED)
    for task in (*running, ended):
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for reader in readers.values():
        await reader.close()
    if room is not None:
        await room.close()
    await states.close()
    for task in running:
        if not task.cancelled() and (error := task.exception()):
            raise error


def _reader_of_states(place: Place, broker: str, begin_anew: Callable[[], Awaitable[None]]) -> OpenReader:
    """Of the log, behind the training data and all that there is of the log as Parquet where the states are made anew."""
    log = open_reader(broker, name="states", limit=FOLD_ROWS, linger_s=0.0, poll_s=FOLD_POLL_S)
    if not place.rebuild.exists():
        return log

    def done() -> None:
        place.rebuild.unlink(missing_ok=True)
        logger.warning("the states were made anew from %s", place.events)

    logger.warning("the states are made anew from %s", place.events)
    return ArchiveReader(place.events, log, limit=REBUILD_ROWS, begin=begin_anew, done=done)


async def _keep(room: JetStreamRoom, consumers: Collection[Consumer]) -> None:
    """Room in the log, by what all of them are done with."""
    while True:
        with contextlib.suppress(ServingError):  # the readers say so themselves
            await room.make(min(consumer.sequence for consumer in consumers))
        await asyncio.sleep(ROOM_S)


def _show(consumers: Mapping[str, Consumer], states: States, room: JetStreamRoom | None, port: int) -> None:
    """How far each is and how full the log, for Prometheus."""
    malformed = prometheus.Gauge("recsys_consumer_malformed", "Records that no state could be made of")
    malformed.set_function(lambda: states.malformed)
    damaged = prometheus.Gauge("recsys_consumer_damaged", "States that could not be read, whose users began anew")
    damaged.set_function(lambda: states.damaged)
    if room is not None:
        full = prometheus.Gauge("recsys_log_full_share", "Of the bytes that the log may have; at 1 it refuses")
        full.set_function(lambda: room.num_bytes / room.max_bytes)
    for attribute, name, told in (
        ("waiting", "waiting", "Records that are not read yet"),
        ("folded", "folded", "Records that reached the sink since the start"),
        ("retries", "retries", "Calls that had to be made again"),
        ("delay_s", "delay_seconds", "Age of the newest record when it had reached the sink"),
        ("newest", "newest_timestamp", "Of the newest record that reached the sink"),
    ):
        gauge = prometheus.Gauge(f"recsys_consumer_{name}", told, ("sink",))
        for sink, consumer in consumers.items():
            gauge.labels(sink).set_function(partial(getattr, consumer, attribute))
    prometheus.start_http_server(port, addr=HOST)


def _states(place: Place, bundle: Bundle, neighbours: Neighbours) -> States:
    """Counting what the exposure rules name that serve at the moment: of rules that do not fit, those before them."""
    columns = NamedColumns(bundle)

    def counted(rules: RuleSet | None) -> Values:
        return columns(RuleSet.parse(bundle.document("rules.yaml")) if rules is None else rules)

    follower = HotReloader(RuleStore(place.rules), counted)
    amortised = Amortised(values=lambda: follower.current().value, half_life_s=HALF_LIFE_S)
    return open_states(
        neighbours.state,
        read_spec(bundle),
        exposure=amortised,
        read_timeout_s=READ_S,
        write_timeout_s=WRITE_S,
        ttl_s=None,
    )
