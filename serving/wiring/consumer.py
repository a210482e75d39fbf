"""Composition of the consumer process: the log into user states and Parquet."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial

import prometheus_client as prometheus
import uvloop

from recsys.bundle import Bundle
from recsys.data.forgotten import ForgottenList
from recsys.errors import ServingError
from recsys.export.releases import hold_release
from serving.endpoints import Endpoints, Server
from serving.events.archive import ArchiveReader
from serving.events.consumer import Consumer
from serving.events.forgetting import forget_periodically
from serving.events.log_factory import (
    ClosableReader,
    LogLimits,
    open_eraser,
    open_reader,
    open_retention,
)
from serving.events.parquet import ParquetSink
from serving.events.retention import JetStreamRetention
from serving.gateway.pseudonyms import UserPseudonyms
from serving.layout import DeploymentLayout
from serving.ops.forgetting import forgetting_sinks
from serving.ops.mending import mend_states
from serving.process_tuning import freeze_heap, lower_priority
from serving.processes import HOST
from serving.state.protocols import DamagedStore
from serving.state.seeding import seed_once
from serving.state.states import StateStore
from serving.wiring.storage import StorageLimits, open_user_states

STATE_POLL_S, PARQUET_POLL_S, PARQUET_LINGER_S = 0.1, 1.0, 10.0
"""a poll costs both sides a millisecond; an event reaches the slate after the next poll"""
STATE_BATCH, REBUILD_BATCH, PARQUET_BATCH = 500, 2_000, 20_000
STATE_CHECK_S = 5.0
FORGET_PERIOD_S = 1.0
RETENTION_PERIOD_S = 30.0
"""between two truncations of the log"""

logger = logging.getLogger(__name__)


def run_consumer(
    layout: DeploymentLayout, endpoints: Endpoints, *, port: int, store_raw: bool, limits: StorageLimits
) -> None:
    """Write the log to the states promptly and to Parquet in large batches, independently, until SIGTERM.

    A damaged states.db is moved aside first and rebuilt. DamagedStore when the states are damaged while it runs: the next
    start mends them.
    """
    layout.check()
    hold_release(layout.release)
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
    states, broker = open_user_states(layout, bundle, endpoints.state, limits.state_ttl_s), endpoints.broker
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
