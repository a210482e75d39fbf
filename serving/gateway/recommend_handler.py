"""POST /v1/recommend: read the user state, build the query, run the fallback chain, answer, log the impression."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from recsys.contracts import Query
from recsys.schema import schema_of
from serving.events.record import Record, impression_id
from serving.gateway.adaptive_limit import AdaptiveLimit
from serving.gateway.fair_worker import FairWorker
from serving.gateway.fallback_chain import FallbackChain, SlateRequest, SlateResponse
from serving.gateway.impression_queue import ImpressionQueue
from serving.gateway.live_experiments import Experiments
from serving.gateway.metrics import Metrics
from serving.gateway.pseudonyms import Pseudonyms
from serving.gateway.repeat_filter import RepeatFilter
from serving.gateway.request_log import RequestLog
from serving.gateway.request_middleware import RequestContext, RequestMiddleware
from serving.gateway.request_parser import RecommendRequest, RequestParser
from serving.gateway.share_publisher import SharePublisher
from serving.gateway.state_reader import StateReader
from serving.state.protocols import UserState

MILLISECONDS = 1_000.0
FULL_SHARE = 0.9
"""share of the budget that is left after the state, where a late slate is one of the models"""


@dataclass(frozen=True, kw_only=True)
class RecommendHandler:
    """Handler of slate requests with its dependencies. clock: monotonic, in seconds; now: unix seconds."""

    middleware: RequestMiddleware
    parser: RequestParser
    worker: FairWorker
    pseudonyms: Pseudonyms
    states: StateReader
    experiments: Experiments
    repeat_filter: RepeatFilter
    publisher: SharePublisher
    chain: FallbackChain
    explain_chain: FallbackChain
    """for requests with reasons"""
    impressions: ImpressionQueue
    metrics: Metrics
    log: RequestLog
    limit: AdaptiveLimit
    budget_ms: float
    explain_ms: float
    """added to the budget of requests with reasons"""
    clock: Callable[[], float]
    now: Callable[[], float]

    async def __call__(self, context: RequestContext) -> bytes:
        started = self.clock()
        parsed = await self.worker.parse(self.parser.recommend, context.body, key=context.key)
        own = started + (self.budget_ms + (self.explain_ms if parsed.explain else 0.0)) / MILLISECONDS
        deadline = min([own, *self._callers_deadlines(context, parsed, started)])
        scoped = context.caller.scoped(parsed.user)
        user = self.pseudonyms.stored(scoped)
        context.log_fields |= {
            "user": self.pseudonyms.logged(scoped),
            "context": self.log.allowed(parsed.context) or None,
        }
        parsed_at = self.clock()
        state, flags = await self.states.read(user)
        self.metrics.observe_stage("state", self.clock() - parsed_at)
        request = self._slate_request(context, parsed, user, state, deadline)
        response = await self._answer(request, explain=parsed.explain)
        flags = (*flags, *response.reasons, *self.publisher.flags, *self.impressions.flags)
        slate = {**response.slate, "degraded": list(dict.fromkeys([*response.slate["degraded"], *flags]))}
        exposure = slate.pop("exposure", {})
        context.log_fields |= {
            "rung": response.tier,
            "degraded": slate["degraded"] or None,
            "arms": request.query.arms or None,
        }
        context.after_response = lambda: self._log_impression(request, exposure, slate, response.tier)
        ids = {"user": parsed.user, "request_id": context.request_id}
        return orjson.dumps({**slate, **ids, "rung": response.tier})

    async def _answer(self, request: SlateRequest, *, explain: bool) -> SlateResponse:
        """Run the chain; the limit of concurrent slates learns from its outcome.

        A late slate counts only where the models had most of the budget: neither a caller with less time nor a slow state
        says that the machine has too much to do. Slates of lower tiers raise nothing, since they need no models.
        """
        started = self.clock()
        chain = self.explain_chain if explain else self.chain
        response = await chain.answer(request)
        if response.tier == chain.first:
            self.limit.in_time(self.clock() - started)
        elif response.late and request.deadline - started >= FULL_SHARE * self.budget_ms / MILLISECONDS:
            self.limit.late()
        return response

    def _callers_deadlines(self, context: RequestContext, parsed: RecommendRequest, started: float) -> list[float]:
        """Deadlines that the caller sets, by clock: its budget starts at arrival, the gateway's at admission."""
        header = context.request.headers.get("x-budget-ms")
        lowered = [] if parsed.budget_ms is None else [parsed.budget_ms]
        if header is not None:
            lowered.append(self.parser.budget_header(header))
        return [started - context.waited_s + one / MILLISECONDS for one in lowered]

    def _slate_request(
        self, context: RequestContext, parsed: RecommendRequest, user: str, state: UserState, deadline: float
    ) -> SlateRequest:
        now = self.now()
        query = Query(
            user=user,
            now=now,
            k=parsed.k,
            context=parsed.context,
            profile={**state.known_profile, **parsed.profile},
            history=state.history,
            memory=state.memory,
            surface=parsed.surface,
            exclude=tuple(dict.fromkeys([*parsed.exclude, *self.repeat_filter.barred(state, now)])),
            hidden=state.hidden,
            request_id=context.caller.scoped(context.request_id),
            impressions=state.shown,
        )
        arms, policy = self.experiments.assign(query)
        if arms:
            query = replace(query, arms=arms, policy=policy)
        document = schema_of(Query).document(query)
        return SlateRequest(
            query=query,
            document=document,
            text=orjson.dumps(document),
            deadline=deadline,
            metadata=context.trace.headers(),
            key=context.key,
        )

    def _log_impression(
        self, request: SlateRequest, exposure: Mapping[str, float], slate: Mapping[str, Any], rung: str
    ) -> None:
        """Count the slate and queue its impression; the query carries the exposure shares that it was answered with."""
        self.metrics.slate(slate, rung, request.query.arms)
        query, logged_query = request.query, {**request.document, "exposure": {**exposure, **request.query.exposure}}
        body = {"query": logged_query, "slate": slate, "rung": rung}
        self.impressions.put(
            Record(id=impression_id(query), kind="impression", user=query.user, timestamp=query.now, body=body)
        )
