"""Composition of the gateway process."""

import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from recsys.bundle import Bundle
from recsys.data.forgotten import ForgottenList
from recsys.errors import ServingError
from recsys.experiments.experiment_store import ExperimentStore
from recsys.export.releases import hold_release
from recsys.items.store import ItemStore
from recsys.measurement.drift.report import GAUGES
from recsys.measurement.gauges import FILE
from recsys.policy.exposure.exposure_file import ShareFile
from recsys.stages import (
    load_live_retrieve,
    load_live_rules,
    read_catalogue,
    read_schema,
    read_spec,
    request_types,
)
from serving.disk import disk_problem, free_bytes
from serving.endpoints import Endpoints
from serving.events.log_factory import (
    open_writer,
)
from serving.events.spool import Spool
from serving.events.writer import EventLogWriter
from serving.gateway.api_keys import Authorizer
from serving.gateway.app import build
from serving.gateway.container import Dependencies
from serving.gateway.http_server import Listening, serve_gateway
from serving.gateway.item_writer import ItemStoreWriter
from serving.gateway.live_experiments import LiveExperiments
from serving.gateway.pseudonyms import UserPseudonyms
from serving.gateway.reloaded_keys import ReloadedKeys
from serving.gateway.settings import Settings
from serving.layout import DeploymentLayout
from serving.state.states import StateStore
from serving.triton.async_models import TritonModels
from serving.triton.unix_http import get
from serving.triton.wheel import METRICS_SOCKET
from serving.wiring.storage import StorageLimits, open_user_states

UNIX = "unix:"
TRITON_PAGE_S = 1.0
"""timeout of reading Triton's Prometheus page"""

NamedGauge = tuple[str, str, Callable[[], float]]
"""name, description and value of a metric"""


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
    hold_release(layout.release)
    layout.make_live()
    bundle = Bundle.open(layout.bundle)
    pseudonyms = UserPseudonyms.from_file(layout.identity, store_raw=store_raw)
    authorizer, key_gauges = _authorizer(layout, pseudonyms, jwt_file)
    experiments = LiveExperiments(ExperimentStore(layout.experiments), request_types(read_spec(bundle)))
    states = open_user_states(layout, bundle, endpoints.state, limits.state_ttl_s)
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
        experiments=experiments,
        lifespan=_lifespan(log, states),
    )
    gateway = build(parts)
    gauges = *_spool_gauges(log, spool), *_disk_gauges(layout), *key_gauges, *_experiment_gauges(experiments)
    for name, description, value in gauges:
        gateway.metrics.gauge(name, description, value)
    for page in (FILE, GAUGES):
        gateway.metrics.append(partial(_measured_page, layout.measurement / page))
    if endpoints.triton.url.startswith(UNIX):
        gateway.metrics.append(partial(_triton_page, Path(endpoints.triton.url.removeprefix(UNIX)).parent))
    ends = {"lame_duck_s": settings.lame_duck_s, "drain_s": settings.drain_s}
    serve_gateway(gateway, listening, log=sys.stdout, ready=ready, **ends)


def _experiment_gauges(experiments: LiveExperiments) -> Sequence[NamedGauge]:
    stale = "1 while the published experiments cannot be used and the last ones go on"
    return (
        ("recsys_experiments", "Published experiments", lambda: len(experiments)),
        ("recsys_experiments_stale", stale, lambda: experiments.stale),
    )


def _measured_page(file: Path) -> bytes:
    """Gauges of the last measurement, empty before the first one."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


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
