"""Handlers of events, onboarding, user profiles, similar items and catalogue changes."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import orjson

from recsys.contracts import Query
from recsys.errors import QueryError
from recsys.schema import describe
from serving.events.record import Record, RecordWriter, hash_parts
from serving.gateway.fair_worker import FairWorker
from serving.gateway.fallback_slates import FallbackSlates
from serving.gateway.http_error import HTTPError
from serving.gateway.metrics import Metrics
from serving.gateway.pending_records import PendingRecords
from serving.gateway.pseudonyms import Pseudonyms
from serving.gateway.request_middleware import RequestContext, RequestMiddleware
from serving.gateway.request_parser import ITEM, RequestParser
from serving.gateway.state_reader import StateReader
from serving.state.onboarding import Onboarding
from serving.state.protocols import UserState

RETRY_S = 1.0
ONBOARDED = "onboarding"
SURFACE = "similar"
"""surface of a request for similar items, as seen by rules"""


class ItemWriter(Protocol):
    """Writer of catalogue changes between trainings."""

    async def put(self, item: str, columns: Mapping[str, Any], *, withdrawn: bool | None, create: bool) -> bool | None:
        """Store the change; return whether the item is new, None for an unknown item without `create`.

        Returns once rules and filters see the new values; a None value means unknown. withdrawn: True withdraws the item,
        False restores it, None leaves it. QueryError for invalid values, ServingError without an answer.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Handlers:
    """Handlers with their dependencies. now: unix seconds."""

    middleware: RequestMiddleware
    parser: RequestParser
    worker: FairWorker
    fallbacks: FallbackSlates
    items: ItemWriter
    pseudonyms: Pseudonyms
    writer: RecordWriter
    states: StateReader
    pending: PendingRecords
    onboarding: Onboarding
    metrics: Metrics
    events_s: float
    now: Callable[[], float]

    async def events(self, context: RequestContext) -> bytes:
        """Store events; responds once all are durable, and hidden values apply from then on."""
        parse = partial(self.parser.events, stored=self._stored(context), scoped=context.caller.scoped)
        events = await self.worker.parse(parse, context.body, key=context.key)
        context.log_fields["events"] = len(events)
        known = self.fallbacks.rows
        unknown = sum(any(item not in known for item in _item_ids(records)) for records in events)
        await self._store([record for records in events for record in records])
        self.metrics.unknown_items(unknown)
        return _accepted_response(context, [records[0].id for records in events], unknown)

    async def onboard(self, context: RequestContext) -> bytes:
        """Store onboarding answers as seed events; idempotent."""
        user, answers = await self.worker.parse(self.parser.onboarding, context.body, key=context.key)
        making = partial(self.onboarding.seeds, self._stored(context)(user), self.now(), answers)
        seeds = await self.worker.run(making, key=context.key)
        records = [Record.feedback(hash_parts(ONBOARDED, one.user, one.item), one) for one in seeds]
        context.log_fields["events"] = len(records)
        await self._store(records)
        return _accepted_response(context, [record.id for record in records], 0)

    async def put_user(self, context: RequestContext) -> bytes:
        """Store profile values, used where a request sends none."""
        user = self.parser.user_id(context.request.path_params["user"])
        profile = await self.worker.parse(self.parser.user_profile, context.body, key=context.key)
        stored, now = self._stored(context)(user), self.now()
        state, flags = await self.states.read(stored)
        id = hash_parts("profile", stored, context.request_id, str(now), orjson.dumps(profile).decode())
        await self._store([Record.preference(id, "profile", stored, now, profile)])
        return _put_response(context, {"user": user}, None if flags else state == UserState())

    def _stored(self, context: RequestContext) -> Callable[[str], str]:
        """Raw user id of the caller -> id in log and state."""
        return lambda user: self.pseudonyms.stored(context.caller.scoped(user))

    async def _store(self, records: list[Record]) -> None:
        with self.metrics.stage("log"):
            try:
                async with asyncio.timeout(self.events_s):
                    await self.writer.append(records)
            except TimeoutError:
                message = "the events could not be made durable in time; send the same again"
                raise HTTPError(503, message, retry_after_s=RETRY_S) from None
        self.pending.add(records)

    async def similar(self, context: RequestContext) -> bytes:
        """Similar items under the current rules, without the item itself."""
        item = self.parser.item_id(context.request.path_params["item"])
        query = Query(
            user="",
            now=self.now(),
            k=self._k(context),
            surface=SURFACE,
            exclude=(item,),
            request_id=context.request_id,
        )
        with self.metrics.stage("rules"):
            slate = await self.worker.run(partial(self.fallbacks.similar, query, item), key=context.key)
        return orjson.dumps(
            {name: value for name, value in slate.items() if name not in ("user", "exposure")} | {"item": item}
        )

    async def put_item(self, context: RequestContext) -> bytes:
        item = self.parser.item_id(context.request.path_params["item"])
        known_only = _if_match(context)
        update = await self.worker.parse(self.parser.item, context.body, key=context.key)
        create = update.create and not known_only
        created = await self.items.put(item, update.columns, withdrawn=update.withdrawn, create=create)
        if created is None:
            message = (
                "the catalogue has no such item, and this request may not create one; correct the id, or let it create"
            )
            raise HTTPError(412 if known_only else 404, message)
        return _put_response(context, {"item": item}, created)

    def _k(self, context: RequestContext) -> int:
        params = context.request.query_params
        if unknown := [name for name in params if name != "k"]:
            raise QueryError(f"the query string has the unknown name {unknown[0][:40]!a}; known is k")
        return self.parser.k(params.get("k", "10"))


def _item_ids(records: Sequence[Record]) -> Iterator[str]:
    """Item ids in the records of an event."""
    for record in records:
        yield from (record.body[ITEM],) if record.kind == "feedback" else record.body.get(ITEM, ())


def _accepted_response(context: RequestContext, ids: Sequence[str], unknown: int) -> bytes:
    answer = {"accepted": len(ids), "ids": ids, "unknown_items": unknown, "request_id": context.request_id}
    return orjson.dumps(answer)


def _put_response(context: RequestContext, named: Mapping[str, str], created: bool | None) -> bytes:
    """Response with status 201 for a new object. created: None if unknown, as the store did not answer."""
    context.status = 201 if created else 200
    outcome = {True: "created", False: "changed", None: "accepted"}[created]
    return orjson.dumps({**named, "outcome": outcome, "request_id": context.request_id})


def _if_match(context: RequestContext) -> bool:
    """Whether the request may change only an existing item."""
    value = context.request.headers.get("if-match")
    if value not in (None, "*"):
        raise QueryError(
            f"if-match is {describe(value)}; send * to change only an item that the catalogue has, or nothing"
        )
    return value == "*"
