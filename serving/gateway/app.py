"""The gateway as an ASGI application: parts in, routes out."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from serving.gateway.assembly import Assembly, Parts
from serving.gateway.door import Handler, json_response, refused
from serving.gateway.keys import Scope
from serving.gateway.metrics import Metrics
from serving.gateway.openapi import document
from serving.gateway.readiness import Readiness
from serving.gateway.refusals import Refusal

RETRY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """The application with what a server wants to see of it."""

    app: FastAPI
    """its lifespan warms up, starts and drains what works in the background"""
    metrics: Metrics
    readiness: Readiness


def build(parts: Parts) -> Gateway:
    """Nothing is asked of the parts before the application's lifespan begins."""
    made = Assembly(parts)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with parts.beside:
            await made.lifetime.begin()
            yield
            await made.lifetime.end()

    app = FastAPI(title="recsys", redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    told = document(made.documents, keyed=parts.keys is not None)
    app.openapi = lambda: told  # type: ignore[method-assign]
    for method, path, scope, handler in _routes(made):
        app.router.add_route(path, made.door.endpoint(f"{method} {path}", scope, handler), methods=[method])
    for path, endpoint in _probes(made.metrics, made.readiness).items():
        app.router.add_route(path, endpoint, methods=["GET"])
    app.add_exception_handler(HTTPException, made.door.unknown)  # type: ignore[arg-type]
    return Gateway(app=app, metrics=made.metrics, readiness=made.readiness)


def _routes(made: Assembly) -> tuple[tuple[str, str, Scope, Handler], ...]:
    """Method, path, scope that a key needs, handler."""
    return (
        ("POST", "/v1/recommend", "recommend", made.recommending),
        ("POST", "/v1/events", "events", made.tending.events),
        ("POST", "/v1/onboarding", "events", made.tending.onboard),
        ("GET", "/v1/items/{item:path}/similar", "recommend", made.tending.similar),
        ("PUT", "/v1/items/{item:path}", "admin", made.tending.put_item),
        ("PUT", "/v1/users/{user:path}", "events", made.tending.put_user),
    )


def _probes(metrics: Metrics, readiness: Readiness) -> dict[str, Callable[[Request], Awaitable[Response]]]:
    """Routes for the machines around the gateway; they need no key."""

    async def healthz(request: Request) -> Response:
        return json_response(200, {"status": "alive"})

    async def readyz(request: Request) -> Response:
        if reasons := readiness.reasons:
            return refused(Refusal(503, "the gateway is not ready", retry_after_s=RETRY_S), reasons=reasons)
        return json_response(200, {"status": "ready"})

    async def page(request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return {"/healthz": healthz, "/readyz": readyz, "/metrics": page}
