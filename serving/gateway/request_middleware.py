"""Common handling of all requests: id and trace, API key and rate, size, admission, error shape, log, metrics."""

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

from recsys.errors import QueryError, RulesLostError, ServingError, where
from serving.gateway.anonymous_budget import AnonymousBudget
from serving.gateway.api_keys import Authorizer, Scope
from serving.gateway.bulkhead import AdmissionQueue, BulkheadFull
from serving.gateway.caller import Caller
from serving.gateway.connection_limits import peer_of
from serving.gateway.http_error import HTTPError
from serving.gateway.metrics import Metrics
from serving.gateway.request_log import RequestLog
from serving.gateway.trace import Trace, request_id

JSON = "application/json"
BODY_S = 5.0
"""timeout of receiving a body"""
RETRY_S = 1.0
UNKNOWN_ROUTE = "unknown"
DEFECT_MESSAGE = "internal error; the server's log has this request id"

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class RequestContext:
    """State of one request in the gateway."""

    request: Request
    request_id: str
    trace: Trace
    caller: Caller = field(default_factory=Caller)
    started: float = field(default_factory=time.perf_counter)
    waited_s: float = 0.0
    """from the headers to the admission: for the body, and in the queue"""
    body: bytes = b""
    log_fields: dict[str, Any] = field(default_factory=dict)
    """additional fields of the log line"""
    after_response: Callable[[], None] | None = None
    """called once the response is sent"""
    status: int = 200
    """status of a successful response"""
    logged: bool = True
    """whether the request has a line in the log"""

    @property
    def key(self) -> str:
        """Name of the API key, by which requests take turns."""
        return self.caller.name


Handler = Callable[[RequestContext], Awaitable[bytes]]
"""context -> JSON body; raises HTTPError, QueryError or ServingError for another status"""


class RequestMiddleware:
    """Wraps handlers into endpoints. keys: None disables authorization, for local use only."""

    def __init__(
        self,
        *,
        keys: Authorizer | None,
        anonymous: AnonymousBudget,
        log: RequestLog,
        metrics: Metrics,
        max_body_bytes: int,
    ) -> None:
        self._keys, self._anonymous, self._log, self._metrics = keys, anonymous, log, metrics
        self._max_body_bytes = max_body_bytes

    def endpoint(
        self, route: str, scope: Scope, handler: Handler, admission: AdmissionQueue
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            context = RequestContext(request=request, request_id=request_id(None), trace=_trace(request))
            response = await self._respond(context, scope, handler, admission)
            return _ResponseWithCallback(
                response, lambda sent: self._finish(route, response.status_code, context, sent=sent)
            )

        return endpoint

    async def _body(self, request: Request) -> bytes:
        """Receive the whole body. HTTPError 413 as soon as it is known to be too large."""
        length = request.headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:12]) > self._max_body_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                async for part in request.stream():
                    body += part
                    if len(body) > self._max_body_bytes:
                        raise self._too_large()
        except TimeoutError:
            raise QueryError(f"the body did not arrive within {BODY_S:g} s; send it at once") from None
        return bytes(body)

    async def unknown(self, request: Request, error: HTTPException) -> Response:
        """Respond to an unknown route or method."""
        context = RequestContext(request=request, request_id=request_id(None), trace=_trace(request))
        response = error_response(self._refusal(context, error), context.request_id)
        response.headers.update(error.headers or {})
        return _ResponseWithCallback(
            response, lambda sent: self._finish(UNKNOWN_ROUTE, response.status_code, context, sent=sent)
        )

    def _refusal(self, context: RequestContext, error: HTTPException) -> HTTPError:
        try:
            self._charge(context)
        except HTTPError as beyond_budget:
            return beyond_budget
        return HTTPError(error.status_code, _not_found(error.status_code))

    def keyless(
        self, wait_s: Callable[[str], float], answer: Callable[[], Response]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Endpoint that needs no key. wait_s: takes from the budget of a peer."""

        async def endpoint(request: Request) -> Response:
            seconds = wait_s(_peer(request))
            return error_response(_beyond_budget(seconds)) if seconds else answer()

        return endpoint

    async def _respond(
        self, context: RequestContext, scope: Scope, handler: Handler, admission: AdmissionQueue
    ) -> Response:
        try:
            self._authorize(context, scope)
            # before the admission: a caller whose body is slow takes nobody's place
            context.body = await self._body(context.request)
            async with admission.admitted(most_s=_budget_s(context.request), key=context.key):
                context.waited_s = time.perf_counter() - context.started
                body = await handler(context)
            return Response(body, context.status, {"x-request-id": context.request_id}, JSON)
        except BulkheadFull:
            overloaded = HTTPError(503, "too many requests are in flight; try again", retry_after_s=RETRY_S)
            return error_response(overloaded, context.request_id)
        except HTTPError as error:
            return error_response(error, context.request_id)
        except QueryError as error:
            return error_response(HTTPError(400, str(error)), context.request_id)
        except RulesLostError as error:
            return error_response(HTTPError(503, str(error), retry_after_s=RETRY_S), context.request_id)
        except ServingError as error:
            logger.error("request %s: %s", context.request_id, error)
            return error_response(
                HTTPError(503, "a part of the service is down; try again", retry_after_s=RETRY_S), context.request_id
            )
        except ClientDisconnect:
            return error_response(
                HTTPError(400, "the connection was closed before the body arrived"), context.request_id
            )
        except Exception as error:
            logger.error("request %s failed with %s", context.request_id, where(error))
            return error_response(HTTPError(500, DEFECT_MESSAGE), context.request_id)

    def _authorize(self, context: RequestContext, scope: Scope) -> None:
        headers = context.request.headers
        try:
            context.request_id = request_id(headers.get("x-request-id"))
            if self._keys is not None:
                context.caller = self._keys.admit(headers.get("authorization"), scope)
                context.log_fields |= {"key": context.caller.name, "tenant": context.caller.tenant}
                self._anonymous.trust(_peer(context.request))
        except (HTTPError, QueryError):
            self._charge(context)
            raise

    def _charge(self, context: RequestContext) -> None:
        """Take one request without a valid key from the budget; beyond it HTTPError 429 and no line in the log."""
        seconds = 0.0 if self._keys is None else self._anonymous.wait_s(_peer(context.request))
        if seconds:
            context.logged = False
            raise _beyond_budget(seconds)

    def _finish(self, route: str, status: int, context: RequestContext, *, sent: bool) -> None:
        """sent: whether the caller took the whole response; what nobody saw is no impression"""
        seconds = time.perf_counter() - context.started
        self._metrics.observe_request(route, status, seconds)
        if context.after_response is not None and status == 200 and sent:
            context.after_response()
        if not context.logged:
            return
        self._log.write(
            request_id=context.request_id,
            trace_id=context.trace.trace_id,
            route=route,
            status=status,
            ms=round(1_000 * seconds, 2),
            **context.log_fields,
        )

    def _too_large(self) -> HTTPError:
        return HTTPError(413, f"the body is larger than {self._max_body_bytes:,} bytes; send less at once")


class _ResponseWithCallback(Response):
    """Response with a callback after the last byte."""

    def __init__(self, response: Response, callback: Callable[[bool], None]) -> None:
        self._response, self._callback = response, callback

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        sent = False
        try:
            await self._response(scope, receive, send)
            sent = True
        finally:
            self._callback(sent)


def _budget_s(request: Request) -> float | None:
    """Time that the caller allows by its header, for the wait in the queue; a wrong value is refused by the handler."""
    text = request.headers.get("x-budget-ms", "")
    return float(text) / 1_000 if text.isascii() and text.replace(".", "", 1).isdigit() and len(text) < 20 else None


def _trace(request: Request) -> Trace:
    return Trace.of(request.headers.get("traceparent"), request.headers.get("tracestate"))


def json_response(status: int, document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(document), status, headers, JSON)


def error_response(error: HTTPError, id: str | None = None, **fields: Any) -> Response:
    """Error response, the same shape for all errors; `fields` are added to its document."""
    id = id or request_id(None)
    headers = {"x-request-id": id}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.close:
        headers["connection"] = "close"
    return json_response(error.status, {"error": error.message, "request_id": id, **fields}, headers)


def _beyond_budget(seconds: float) -> HTTPError:
    message = "this address sends too many requests that are refused or need no API key; try again later"
    return HTTPError(429, message, retry_after_s=seconds, close=True)


def _peer(request: Request) -> str:
    return peer_of(request.client.host) if request.client else ""


def _not_found(status: int) -> str:
    if status == 405:
        return "this path does not know the method; /openapi.json lists what it knows"
    return "there is nothing under this path; /openapi.json lists what there is"
