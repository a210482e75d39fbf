"""Everything but recommendations: feedback comes in, neighbours go out, items change."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from recsys.contracts import Query
from recsys.errors import QueryError
from serving.events.record import Record, Writer, hash_of
from serving.gateway.documents import Documents
from serving.gateway.door import Call, Door
from serving.gateway.fallbacks import Fallbacks
from serving.gateway.identities import Identities
from serving.gateway.metrics import Metrics
from serving.gateway.refusals import Refusal
from serving.state.onboarding import Onboarding

RETRY_S = 1.0
ONBOARDED = "onboarding"
SURFACE = "similar"
"""what rules see of a request for neighbours"""


class Items(Protocol):
    """Who takes changes of the catalogue between trainings."""

    async def put(self, item: str, columns: Mapping[str, Any], *, withdrawn: bool | None) -> None:
        """Return when rules and filters see the new values, of the kinds of the catalogue; None for not known.

        withdrawn: True takes the item out, False brings it back, None leaves that as it is. An item that the catalogue
        lacks is new. QueryError for values that cannot serve, ServingError for no answer.
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
    onboarding: Onboarding
    metrics: Metrics
    events_s: float
    now: Callable[[], float]

    async def events(self, call: Call) -> bytes:
        """Answered when every event is durable."""
        return await self._kept(call, self.documents.events(await self.door.body(call.request), self.identities.stored))

    async def onboard(self, call: Call) -> bytes:
        """What a new user likes, as events that begin the history; the same answers given again change nothing."""
        user, answers = self.documents.onboarding(await self.door.body(call.request))
        seeds = self.onboarding.seeds(self.identities.stored(user), self.now(), answers)
        return await self._kept(call, [Record.feedback(hash_of(ONBOARDED, one.user, one.item), one) for one in seeds])

    async def _kept(self, call: Call, records: list[Record]) -> bytes:
        call.told["events"] = len(records)
        with self.metrics.stage("log"):
            try:
                async with asyncio.timeout(self.events_s):
                    await self.writer.append(records)
            except TimeoutError:
                sentence = "the events could not be made durable in time; send the same again"
                raise Refusal(503, sentence, retry_after_s=RETRY_S) from None
        ids = [record.id for record in records]
        return orjson.dumps({"accepted": len(ids), "ids": ids, "request_id": call.request_id})

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
        columns, withdrawn = self.documents.item(await self.door.body(call.request))
        await self.items.put(item, columns, withdrawn=withdrawn)
        return orjson.dumps({"item": item, "request_id": call.request_id})

    def _k(self, call: Call) -> int:
        asked = call.request.query_params
        if unknown := [name for name in asked if name != "k"]:
            raise QueryError(f"the query string has the unknown name {unknown[0][:40]!a}; known is k")
        return self.documents.k(asked.get("k", "10"))
