"""ASGI application of the gateway: routes over its container."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from serving.gateway.container import Container, Dependencies
from serving.gateway.http_error import HTTPError
from serving.gateway.metrics import Metrics
from serving.gateway.openapi import document
from serving.gateway.readiness import Readiness
from serving.gateway.request_middleware import error_response, json_response
from serving.gateway.routes import routes

RETRY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Application with the objects that the HTTP server uses."""

    app: FastAPI
    """its lifespan warms up, starts and drains background work"""
    metrics: Metrics
    readiness: Readiness


def build(dependencies: Dependencies) -> Gateway:
    """Build the application; the dependencies are not called before its lifespan starts."""
    container = Container(dependencies)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with dependencies.lifespan:
            await container.lifespan.start()
            yield
            await container.lifespan.stop()

    app = FastAPI(title="recsys", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    declared = routes(container.parser)
    openapi = document(declared, keyed=dependencies.keys is not None)
    app.openapi = lambda: openapi  # type: ignore[method-assign]
    for route in declared:
        admission = container.slates if route.slates else container.admission
        endpoint = container.middleware.endpoint(route.name, route.scope, route.handler(container), admission)
        app.router.add_route(route.path.replace("}", ":path}"), endpoint, methods=[route.method])
    for path, probe in _probes(container.metrics, container.readiness).items():
        app.router.add_route(path, probe, methods=["GET"])
    app.add_exception_handler(HTTPException, container.middleware.unknown)  # type: ignore[arg-type]
    return Gateway(app=app, metrics=container.metrics, readiness=container.readiness)


def _probes(metrics: Metrics, readiness: Readiness) -> dict[str, Callable[[Request], Awaitable[Response]]]:
    """Health and metrics routes, without API key."""

    async def healthz(request: Request) -> Response:
        return json_response(200, {"status": "alive"})

    async def readyz(request: Request) -> Response:
        if reasons := readiness.reasons:
            return error_response(HTTPError(503, "the gateway is not ready", retry_after_s=RETRY_S), reasons=reasons)
        return json_response(200, {"status": "ready"})

    async def page(request: Request) -> Response:
        return Response(await asyncio.to_thread(metrics.text), media_type=CONTENT_TYPE_LATEST)

    return {"/healthz": healthz, "/readyz": readyz, "/metrics": page}
