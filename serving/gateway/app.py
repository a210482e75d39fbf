"""ASGI application of the gateway: routes over its container."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.routing import Route

from recsys.schema import Schema
from serving.gateway.anonymous_budget import AnonymousBudget
from serving.gateway.connection_limits import ConnectionLimits
from serving.gateway.container import Container, Dependencies
from serving.gateway.http_error import HTTPError
from serving.gateway.metrics import Metrics
from serving.gateway.openapi import document
from serving.gateway.readiness import Readiness
from serving.gateway.request_middleware import JSON, error_response, json_response
from serving.gateway.routes import routes

RETRY_S = 1.0


class IdConvertor(StringConvertor):
    """Id in a path, whatever characters it has. Starlette's own `path` knows no newline: `a%0Ab` would be no path at all."""

    regex = r"[\s\S]*"


register_url_convertor("id", IdConvertor())


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Application with the objects that the HTTP server uses."""

    app: FastAPI
    """its lifespan warms up, starts and drains background work"""
    internal: Starlette
    """for a port that no caller reaches"""
    metrics: Metrics
    readiness: Readiness
    anonymous: AnonymousBudget
    connection_limits: ConnectionLimits
    keyed: bool
    """whether requests need an API key"""


def build(dependencies: Dependencies) -> Gateway:
    """Build the application; the dependencies are not called before its lifespan starts."""
    container = Container(dependencies)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with dependencies.lifespan:
            await container.lifespan.start()
            yield
            await container.lifespan.stop()

    app = FastAPI(openapi_url=None, redirect_slashes=False, lifespan=lifespan)
    declared = routes(container.parser)
    openapi = document(declared, keyed=dependencies.keys is not None)
    for route in declared:
        admission = container.slates if route.slates else container.admission
        endpoint = container.middleware.endpoint(route.name, route.scope, route.handler(container), admission)
        app.router.add_route(route.path.replace("}", ":id}"), endpoint, methods=[route.method])
    for path, answer in _keyless(container, openapi).items():
        app.router.add_route(path, answer, methods=["GET"])
    app.add_exception_handler(HTTPException, container.middleware.unknown)  # type: ignore[arg-type]
    return Gateway(
        app=app,
        internal=_internal(container),
        metrics=container.metrics,
        readiness=container.readiness,
        anonymous=container.anonymous,
        connection_limits=container.settings.connections,
        keyed=dependencies.keys is not None,
    )


def _keyless(container: Container, openapi: Schema) -> dict[str, Callable[[Request], Awaitable[Response]]]:
    """Routes without API key. Details and metrics are on a port of their own."""
    readiness, keyless, budget = container.readiness, container.middleware.keyless, container.anonymous
    document = orjson.dumps(openapi)

    def ready() -> Response:
        return _not_ready() if readiness.reasons else json_response(200, {"status": "ready"})

    return {
        "/healthz": keyless(budget.probe_wait_s, lambda: json_response(200, {"status": "alive"})),
        "/readyz": keyless(budget.probe_wait_s, ready),
        "/openapi.json": keyless(budget.wait_s, lambda: Response(document, media_type=JSON)),
    }


def _internal(container: Container) -> Starlette:
    """Metrics and health of the process for its operator."""
    metrics, readiness, keys = container.metrics, container.readiness, container.dependencies.keys

    async def healthz(request: Request) -> Response:
        return json_response(200, {"status": "alive"})

    async def readyz(request: Request) -> Response:
        if reasons := readiness.reasons:
            return _not_ready(reasons=reasons)
        warnings = {} if keys is None else keys.warnings
        return json_response(200, {"status": "ready", **({"warnings": dict(warnings)} if warnings else {})})

    async def page(request: Request) -> Response:
        return Response(await asyncio.to_thread(metrics.text), media_type=CONTENT_TYPE_LATEST)

    probes = {"/healthz": healthz, "/readyz": readyz, "/metrics": page}
    return Starlette(routes=[Route(path, probe) for path, probe in probes.items()])


def _not_ready(**fields: Any) -> Response:
    return error_response(HTTPError(503, "the gateway is not ready", retry_after_s=RETRY_S), **fields)
