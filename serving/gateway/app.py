"""The gateway as an ASGI application: parts in, routes out."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TextIO

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from recsys.bundle import Bundle
from serving.events.record import Writer
from serving.gateway.documents import Documents
from serving.gateway.door import Door, Handler, json_response, refused
from serving.gateway.fallbacks import Fallbacks, RulesStage
from serving.gateway.identities import Exposure, Identities
from serving.gateway.impressions import Impressions
from serving.gateway.keys import Keyring, Scope
from serving.gateway.ladder import Ladder
from serving.gateway.lifetime import Lifetime
from serving.gateway.logs import RequestLog
from serving.gateway.metrics import Metrics
from serving.gateway.openapi import document
from serving.gateway.readiness import Readiness
from serving.gateway.recommending import Recommending
from serving.gateway.refusals import Refusal
from serving.gateway.rungs import FULL, LIGHT, Rungs
from serving.gateway.settings import Settings
from serving.gateway.tending import Items, Tending
from serving.gateway.triton import Models
from serving.gateway.user_states import StateReader
from serving.state.contract import UserStates


@dataclass(frozen=True, kw_only=True)
class Parts:
    """All that the gateway speaks to. What stands behind a protocol may be away; the gateway answers all the same."""

    bundle: Bundle
    rules: RulesStage
    """of this bundle"""
    models: Models
    states: UserStates
    writer: Writer
    items: Items
    identities: Identities
    exposure: Exposure
    keys: Keyring | None
    """None lets everybody do everything, for this machine alone"""
    settings: Settings
    log: TextIO
    """one JSON line a request"""
    clock: Callable[[], float]
    """seconds, rising"""
    now: Callable[[], float]
    """unix seconds"""
    beside: AbstractAsyncContextManager[None]
    """what lives as long as the application"""


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """The parts put together."""

    app: FastAPI
    metrics: Metrics
    readiness: Readiness
    lifetime: Lifetime


def create_app(parts: Parts) -> FastAPI:
    """The application alone; its lifespan warms up, starts and drains what works in the background."""
    return build(parts).app


def build(parts: Parts) -> Gateway:
    """The application with what a server wants to see of it."""
    settings, fallbacks = parts.settings, Fallbacks(parts.bundle, parts.rules)
    metrics = Metrics(parts.rules.policy.sources)
    log = RequestLog(parts.log, context=settings.logged_context)
    impressions = Impressions(
        parts.writer,
        most=settings.impressions_most,
        batch=settings.impressions_batch,
        pause_s=settings.impressions_pause_s,
        count=metrics.impressions,
    )
    rungs = Rungs(parts.models, fallbacks, settings, clock=parts.clock)
    readiness = Readiness(parts.models, (FULL, LIGHT), every_s=settings.probe_every_s, within_s=settings.probe_s)
    lifetime = Lifetime(
        models=parts.models, fallbacks=fallbacks, impressions=impressions, readiness=readiness, settings=settings
    )
    door = Door(
        keys=parts.keys,
        log=log,
        metrics=metrics,
        body_bytes=settings.limits.body_bytes,
        most_at_once=settings.requests_at_once,
    )
    documents = Documents.of(parts.bundle, limits=settings.limits, now=parts.now)
    recommending = _recommending(parts, door, documents, rungs, impressions, metrics, log)
    tending = Tending(
        door=door,
        documents=documents,
        fallbacks=fallbacks,
        items=parts.items,
        identities=parts.identities,
        writer=parts.writer,
        exposure=parts.exposure,
        metrics=metrics,
        events_s=settings.events_s,
        now=parts.now,
    )
    app = _app(parts, door, metrics, readiness, lifetime, _routes(recommending, tending))
    return Gateway(app=app, metrics=metrics, readiness=readiness, lifetime=lifetime)


def _recommending(
    parts: Parts,
    door: Door,
    documents: Documents,
    rungs: Rungs,
    impressions: Impressions,
    metrics: Metrics,
    log: RequestLog,
) -> Recommending:
    state_breaker, steps = rungs.breaker(), rungs.all()
    metrics.watch({"state": state_breaker, **{rung.name: rung.breaker for rung in steps}})
    metrics.gauge("recsys_impressions_waiting", "Impressions that are not in the log yet", lambda: len(impressions))
    return Recommending(
        door=door,
        documents=documents,
        identities=parts.identities,
        states=StateReader(parts.states, breaker=state_breaker, slice_s=parts.settings.state_ms / 1_000),
        exposure=parts.exposure,
        ladder=Ladder(steps, clock=parts.clock, watched=metrics),
        impressions=impressions,
        metrics=metrics,
        log=log,
        budget_ms=parts.settings.budget_ms,
        clock=parts.clock,
        now=parts.now,
    )


Route = tuple[str, str, Scope, Handler]
"""method, path, scope of the key, handler"""


def _routes(recommending: Recommending, tending: Tending) -> tuple[Route, ...]:
    return (
        ("POST", "/v1/recommend", "recommend", recommending),
        ("POST", "/v1/events", "events", tending.events),
        ("GET", "/v1/items/{item:path}/similar", "recommend", tending.similar),
        ("PUT", "/v1/items/{item:path}", "admin", tending.put_item),
    )


def _app(
    parts: Parts, door: Door, metrics: Metrics, readiness: Readiness, lifetime: Lifetime, routes: tuple[Route, ...]
) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with parts.beside:
            await lifetime.begin()
            yield
            await lifetime.end()

    app = FastAPI(title="recsys", redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    told = document(Documents.of(parts.bundle, limits=parts.settings.limits, now=parts.now), parts.keys is not None)
    app.openapi = lambda: told  # type: ignore[method-assign]
    for method, path, scope, handler in routes:
        app.router.add_route(path, door.endpoint(f"{method} {path}", scope, handler), methods=[method])
    for path, endpoint in _probes(metrics, readiness).items():
        app.router.add_route(path, endpoint, methods=["GET"])
    app.add_exception_handler(HTTPException, door.unknown)  # type: ignore[arg-type]
    return app


def _probes(metrics: Metrics, readiness: Readiness) -> dict[str, Callable[[Request], Awaitable[Response]]]:
    """Routes for the machines around the gateway; they need no key."""

    async def healthz(request: Request) -> Response:
        return json_response(200, {"status": "alive"})

    async def readyz(request: Request) -> Response:
        if reasons := readiness.reasons:
            return refused(Refusal(503, "the gateway is not ready", retry_after_s=1.0), reasons=reasons)
        return json_response(200, {"status": "ready"})

    async def page(request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return {"/healthz": healthz, "/readyz": readyz, "/metrics": page}
