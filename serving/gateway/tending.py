"""Everything but recommendations: feedback comes in, neighbours go out, items change."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from recsys.contracts import Query
from recsys.errors import QueryError
from serving.events.record import Record, Writer, hash_of
from serving.gateway.documents import ITEM, Documents
from serving.gateway.door import Call, Door
from serving.gateway.fallbacks import Fallbacks
from serving.gateway.identities import Identities
from serving.gateway.metrics import Metrics
from serving.gateway.pending import Pending
from serving.gateway.refusals import Refusal
from serving.gateway.strict_json import told
from serving.gateway.user_states import StateReader
from serving.state.contract import UserState
from serving.state.onboarding import Onboarding

RETRY_S = 1.0
ONBOARDED = "onboarding"
SURFACE = "similar"
"""what rules see of a request for neighbours"""


class Items(Protocol):
    """Who takes changes of the catalogue between trainings."""

    async def put(self, item: str, columns: Mapping[str, Any], *, withdrawn: bool | None, create: bool) -> bool | None:
        """Whether the item is new; None, and nothing done, where it would be and `create` is False.

        Returns when rules and filters see the new values, of the kinds of the catalogue; None for not known. withdrawn:
        True takes the item out, False brings it back, None leaves that as it is. QueryError for values that cannot serve,
        ServingError for no answer.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Tending:
    """Handlers and all that they speak to. now: unix seconds."""

    door: Door
    documents: Documents
    fallbacks: Fallbacks
    items: Items
    identities: Identities
    writer: Writer
    states: StateReader
    pending: Pending
    onboarding: Onboarding
    metrics: Metrics
    events_s: float
    now: Callable[[], float]

    async def events(self, call: Call) -> bytes:
        """Answered when every event is durable; what is hidden binds from then on."""
        events = self.documents.events(await self.door.body(call.request), self.identities.stored)
        call.told["events"] = len(events)
        unknown = sum(any(item not in self.fallbacks.rows for item in _items(records)) for records in events)
        await self._keep([record for records in events for record in records])
        self.metrics.unknown_items(unknown)
        return _accepted(call, [records[0].id for records in events], unknown)

    async def onboard(self, call: Call) -> bytes:
        """What a new user likes, as events that begin the history; the same answers given again change nothing."""
        user, answers = self.documents.onboarding(await self.door.body(call.request))
        seeds = self.onboarding.seeds(self.identities.stored(user), self.now(), answers)
        records = [Record.feedback(hash_of(ONBOARDED, one.user, one.item), one) for one in seeds]
        call.told["events"] = len(records)
        await self._keep(records)
        return _accepted(call, [record.id for record in records], 0)

    async def put_user(self, call: Call) -> bytes:
        """New values of a user's profile, which serve where a request brings none."""
        user = self.documents.user_id(call.request.path_params["user"])
        profile = self.documents.user_profile(await self.door.body(call.request))
        stored, now = self.identities.stored(user), self.now()
        state, flags = await self.states.read(stored)
        id = hash_of("profile", stored, call.request_id, str(now), orjson.dumps(profile).decode())
        await self._keep([Record.preference(id, "profile", stored, now, profile)])
        return _put(call, {"user": user}, None if flags else state == UserState())

    async def _keep(self, records: list[Record]) -> None:
        with self.metrics.stage("log"):
            try:
                async with asyncio.timeout(self.events_s):
                    await self.writer.append(records)
            except TimeoutError:
                sentence = "the events could not be made durable in time; send the same again"
                raise Refusal(503, sentence, retry_after_s=RETRY_S) from None
        self.pending.add(records)

    async def similar(self, call: Call) -> bytes:
        """Without the item itself, by the rules that serve now."""
        item = self.documents.item_id(call.request.path_params["item"])
        query = Query(
            user="",
            now=self.now(),
            k=self._k(call),
            surface=SURFACE,
            exclude=(item,),
            request_id=call.request_id,
        )
        with self.metrics.stage("rules"):
            slate = self.fallbacks.similar(item, query)
        return orjson.dumps(
            {name: value for name, value in slate.items() if name not in ("user", "exposure")} | {"item": item}
        )

    async def put_item(self, call: Call) -> bytes:
        item = self.documents.item_id(call.request.path_params["item"])
        wanted, known_only = self.documents.item(await self.door.body(call.request)), _if_match(call)
        create = wanted.create and not known_only
        created = await self.items.put(item, wanted.columns, withdrawn=wanted.withdrawn, create=create)
        if created is None:
            sentence = (
                "the catalogue has no such item, and this request may not create one; correct the id, or let it create"
            )
            raise Refusal(412 if known_only else 404, sentence)
        return _put(call, {"item": item}, created)

    def _k(self, call: Call) -> int:
        asked = call.request.query_params
        if unknown := [name for name in asked if name != "k"]:
            raise QueryError(f"the query string has the unknown name {unknown[0][:40]!a}; known is k")
        return self.documents.k(asked.get("k", "10"))


def _items(records: Sequence[Record]) -> Iterator[str]:
    """Items that an event names."""
    for record in records:
        yield from (record.body[ITEM],) if record.kind == "feedback" else record.body.get(ITEM, ())


def _accepted(call: Call, ids: Sequence[str], unknown: int) -> bytes:
    answer = {"accepted": len(ids), "ids": ids, "unknown_items": unknown, "request_id": call.request_id}
    return orjson.dumps(answer)


def _put(call: Call, named: Mapping[str, str], created: bool | None) -> bytes:
    """201 for what is new. created: None where the store that knows did not answer."""
    call.status = 201 if created else 200
    outcome = {True: "created", False: "changed", None: "accepted"}[created]
    return orjson.dumps({**named, "outcome": outcome, "request_id": call.request_id})


def _if_match(call: Call) -> bool:
    """Whether only what is there may be changed."""
    value = call.request.headers.get("if-match")
    if value not in (None, "*"):
        raise QueryError(f"if-match is {told(value)}; send * to change only an item that the catalogue has, or nothing")
    return value == "*"
