"""POST /v1/recommend: the user's state, the query, the ladder, the answer, and behind it the impression."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from recsys.contracts import Event, Query
from serving.events.record import Record, impression_id
from serving.gateway.documents import Ask, Documents
from serving.gateway.door import Call, Door
from serving.gateway.identities import Identities
from serving.gateway.impressions import Impressions
from serving.gateway.ladder import Ladder, Question
from serving.gateway.logs import RequestLog
from serving.gateway.metrics import Metrics
from serving.gateway.personal import Personal
from serving.gateway.shares import SharePublisher
from serving.gateway.user_states import StateReader
from serving.state.contract import UserState

MILLISECONDS = 1_000.0


@dataclass(frozen=True, kw_only=True)
class Recommending:
    """The handler and all that it speaks to. clock: seconds, rising; now: unix seconds."""

    door: Door
    documents: Documents
    identities: Identities
    states: StateReader
    personal: Personal
    publisher: SharePublisher
    ladder: Ladder
    explaining: Ladder
    """for who asks for reasons"""
    impressions: Impressions
    metrics: Metrics
    log: RequestLog
    budget_ms: float
    explain_ms: float
    """more, for reasons"""
    clock: Callable[[], float]
    now: Callable[[], float]

    async def __call__(self, call: Call) -> bytes:
        ask = self.documents.ask(await self.door.body(call.request))
        started = self.clock()
        deadline = self._deadline(call, ask, started)
        user = self.identities.stored(ask.user)
        call.told |= {"user": self.identities.logged(ask.user), "context": self.log.allowed(ask.context) or None}
        state, flags = await self.states.read(user)
        self.metrics.stage_took("state", self.clock() - started)
        question = self._question(call, ask, user, state, deadline)
        answer = await (self.explaining if ask.explain else self.ladder).answer(question)
        flags = (*flags, *answer.reasons, *self.publisher.flags, *self.impressions.flags)
        slate = {**answer.slate, "degraded": list(dict.fromkeys([*answer.slate["degraded"], *flags]))}
        exposure = slate.pop("exposure", {})
        call.told |= {"rung": answer.rung, "degraded": slate["degraded"] or None}
        call.after = lambda: self._shown(question, exposure, slate, answer.rung)
        return orjson.dumps({**slate, "user": ask.user, "rung": answer.rung})

    def _deadline(self, call: Call, ask: Ask, started: float) -> float:
        """The budget of the gateway begins when a request is admitted, that of the caller when it arrived."""
        header = call.request.headers.get("x-budget-ms")
        lowered = [] if ask.budget_ms is None else [ask.budget_ms]
        if header is not None:
            lowered.append(self.documents.budget_header(header))
        own = started + (self.budget_ms + (self.explain_ms if ask.explain else 0.0)) / MILLISECONDS
        return min([own, *(started - call.waited_s + one / MILLISECONDS for one in lowered)])

    def _question(self, call: Call, ask: Ask, user: str, state: UserState, deadline: float) -> Question:
        now = self.now()
        query = Query(
            user=user,
            now=now,
            k=ask.k,
            context=ask.context,
            profile={**state.known_profile, **ask.profile},
            history=state.history,
            surface=ask.surface,
            exclude=tuple(dict.fromkeys([*ask.exclude, *self.personal.barred(state, now)])),
            hidden=state.hidden,
            request_id=call.request_id,
            exposure=state.shown,
        )
        document = query_document(query)
        return Question(
            query=query,
            document=document,
            text=orjson.dumps(document),
            deadline=deadline,
            metadata=call.trace.headers(),
        )

    def _shown(self, question: Question, exposure: Mapping[str, float], slate: Mapping[str, Any], rung: str) -> None:
        """With the query go the counters that it was answered by."""
        self.metrics.slate(slate, rung)
        query, asked = question.query, {**question.document, "exposure": {**exposure, **question.query.exposure}}
        body = {"query": asked, "slate": slate, "rung": rung}
        self.impressions.put(
            Record(id=impression_id(query), kind="impression", user=query.user, timestamp=query.now, body=body)
        )


def query_document(query: Query) -> dict[str, Any]:
    """What `recsys.contracts.query_from_dict` makes the same query of; what has its default is left out of events."""
    return {
        "user": query.user,
        "now": query.now,
        "k": query.k,
        "context": query.context,
        "profile": query.profile,
        "history": [_event(event) for event in query.history],
        "surface": query.surface,
        "exclude": query.exclude,
        "hidden": query.hidden,
        "request_id": query.request_id,
        "exposure": query.exposure,
    }


def _event(event: Event) -> dict[str, Any]:
    document: dict[str, Any] = {"item": event.item, "timestamp": event.timestamp, "actions": event.actions}
    if event.context:
        document["context"] = event.context
    for name in ("request_id", "position", "propensity", "bundle", "rules"):
        if (value := getattr(event, name)) is not None:
            document[name] = value
    return document
