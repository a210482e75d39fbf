"""What every request passes, whatever it asks: its id and trace, key and rate, size, errors in one shape, log, metrics."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from recsys.errors import QueryError, ServingError, where
from serving.gateway.keys import Keyring, Scope
from serving.gateway.logs import RequestLog
from serving.gateway.metrics import Metrics
from serving.gateway.refusals import Refusal
from serving.gateway.slots import AdmissionQueue, Busy
from serving.gateway.trace import Trace, request_id

JSON = "application/json"
BODY_S = 5.0
"""the last byte of a body must have come after so long"""
RETRY_S = 1.0
UNKNOWN_ROUTE = "unknown"
DEFECT = "something is wrong on our side; the server's log has this request id"

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Call:
    """One request on its way through the door."""

    request: Request
    request_id: str
    trace: Trace
    started: float = field(default_factory=time.perf_counter)
    waited_s: float = 0.0
    """for admission"""
    told: dict[str, Any] = field(default_factory=dict)
    """what the log line says beside the usual"""
    after: Callable[[], None] | None = None
    """to be done when the answer has gone out"""
    status: int = 200
    """of an answer that is no refusal"""


Handler = Callable[[Call], Awaitable[bytes]]
"""-> the body of the answer, JSON; raises Refusal, QueryError or ServingError for another status"""


class Door:
    """Wraps handlers into endpoints. keys: None lets everybody do everything, for this machine alone."""

    def __init__(
        self, *, keys: Keyring | None, log: RequestLog, metrics: Metrics, body_bytes: int, admission: AdmissionQueue
    ) -> None:
        self._keys, self._log, self._metrics = keys, log, metrics
        self._body_bytes, self._admission = body_bytes, admission

    def endpoint(self, route: str, scope: Scope, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            call = Call(request=request, request_id=request_id(None), trace=_trace(request))
            response = await self._answered(call, scope, handler)
            return _Closing(response, lambda: self._done(route, response.status_code, call))

        return endpoint

    async def body(self, request: Request) -> bytes:
        """The whole body. Refusal 413 as soon as it is known to be too large."""
        told = request.headers.get("content-length", "")
        if told.isascii() and told.isdigit() and int(told[:12]) > self._body_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                async for part in request.stream():
                    body += part
                    if len(body) > self._body_bytes:
                        raise self._too_large()
        except TimeoutError:
            raise QueryError(f"the body did not arrive within {BODY_S:g} s; send it at once") from None
        return bytes(body)

    async def unknown(self, request: Request, error: HTTPException) -> Response:
        """No such route, or not with this method."""
        call = Call(request=request, request_id=request_id(None), trace=_trace(request))
        response = refused(Refusal(error.status_code, _unknown(error.status_code)), call.request_id)
        response.headers.update(error.headers or {})
        return _Closing(response, lambda: self._done(UNKNOWN_ROUTE, error.status_code, call))

    async def _answered(self, call: Call, scope: Scope, handler: Handler) -> Response:
        try:
            self._admit(call, scope)
            async with self._admission.admitted():
                call.waited_s = time.perf_counter() - call.started
                body = await handler(call)
            return Response(body, call.status, {"x-request-id": call.request_id}, JSON)
        except Busy:
            crowded = Refusal(503, "too many requests are being answered; ask again", retry_after_s=RETRY_S)
            return refused(crowded, call.request_id)
        except Refusal as refusal:
            return refused(refusal, call.request_id)
        except QueryError as error:
            return refused(Refusal(400, str(error)), call.request_id)
        except ServingError:
            return refused(
                Refusal(503, "a part of the service is away; ask again", retry_after_s=RETRY_S), call.request_id
            )
        except ClientDisconnect:
            return refused(Refusal(400, "the connection was closed before the body had come"), call.request_id)
        except Exception as error:
            logger.error("request %s failed with %s", call.request_id, where(error))
            return refused(Refusal(500, DEFECT), call.request_id)

    def _admit(self, call: Call, scope: Scope) -> None:
        headers = call.request.headers
        call.request_id = request_id(headers.get("x-request-id"))
        if self._keys is not None:
            call.told["key"] = self._keys.admit(headers.get("authorization"), scope)

    def _done(self, route: str, status: int, call: Call) -> None:
        seconds = time.perf_counter() - call.started
        self._metrics.answered(route, status, seconds)
        if call.after is not None and status == 200:
            call.after()
        self._log.write(
            request_id=call.request_id,
            trace_id=call.trace.trace_id,
            route=route,
            status=status,
            ms=round(1_000 * seconds, 2),
            **call.told,
        )

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than {self._body_bytes:,} bytes; send less at once")


class _Closing(Response):
    """A response, and what is done behind it."""

    def __init__(self, response: Response, done: Callable[[], None]) -> None:
        self._response, self._done = response, done

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            self._done()


def _trace(request: Request) -> Trace:
    return Trace.of(request.headers.get("traceparent"), request.headers.get("tracestate"))


def json_response(status: int, document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, headers, JSON)


def refused(refusal: Refusal, id: str | None = None, **more: Any) -> Response:
    """The one shape of all errors; `more` stands beside the sentence."""
    id = id or request_id(None)
    headers = {"x-request-id": id}
    if refusal.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(refusal.retry_after_s)))
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    return json_response(refusal.status, {"error": refusal.sentence, "request_id": id, **more}, headers)


def _unknown(status: int) -> str:
    if status == 405:
        return "this path does not know the method; /openapi.json lists what it knows"
    return "there is nothing under this path; /openapi.json lists what there is"
