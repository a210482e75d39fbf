"""The deadline ladder: the best rung that can still answer in time does; a worse one says that it did."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from recsys.contracts import Query
from recsys.errors import QueryError, ServingError
from serving.gateway.breaker import Breaker, Call
from serving.gateway.refusals import Refusal
from serving.gateway.slots import Busy, Slots
from serving.gateway.triton import Metadata

RETRY_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request on its way down the ladder."""

    query: Query
    document: Mapping[str, Any]
    """the query as it is sent and logged"""
    text: bytes
    """the same as JSON"""
    deadline: float
    """by the ladder's clock, in seconds"""
    metadata: Metadata = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A slate and the way to it."""

    slate: dict[str, Any]
    rung: str
    reasons: tuple[str, ...]
    """empty when the first rung answered; else "rung:<name>" and, of each rung above, why it did not"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One way to answer.

    answer: question, seconds it may take -> slate, or None where this rung has nothing for the user.
    """

    name: str
    answer: Callable[[Question, float], Awaitable[dict[str, Any] | None]]
    breaker: Breaker
    slots: Slots
    reserve_s: float
    """what is left to the rungs below"""
    least_s: float
    """with less time it is not tried"""


class Watched(Protocol):
    """Who counts what happens on the ladder."""

    def rung_failed(self, rung: str, reason: str) -> None: ...

    def stage_took(self, stage: str, seconds: float) -> None: ...


class Ladder:
    """Rungs, best first. clock: seconds, rising, that of the deadlines."""

    def __init__(self, rungs: Sequence[Rung], *, clock: Callable[[], float], watched: Watched) -> None:
        self._rungs, self._clock, self._watched = tuple(rungs), clock, watched

    async def answer(self, question: Question) -> Answer:
        """Refusal 503 when no rung could, QueryError when the query itself is at fault."""
        reasons: list[str] = []
        for rung in self._rungs:
            slate, reason = await self._tried(rung, question)
            if slate is not None:
                told = (f"rung:{rung.name}", *reasons) if reasons else ()
                return Answer(slate=slate, rung=rung.name, reasons=told)
            reasons.append(f"{rung.name}:{reason}")
            self._watched.rung_failed(rung.name, reason)
        raise Refusal(503, "no slate could be made in time; ask again a little later", retry_after_s=RETRY_S)

    async def _tried(self, rung: Rung, question: Question) -> tuple[dict[str, Any] | None, str]:
        """A slate, or why there is none."""
        until = question.deadline - rung.reserve_s
        left = until - self._clock()
        if left < rung.least_s:
            return None, "late"
        if (call := rung.breaker.allow()) is None:
            return None, "open"
        begun = False
        try:
            async with asyncio.timeout(left), rung.slots.taken():
                begun, started = True, self._clock()
                slate = await rung.answer(question, until - started)
        except BaseException as error:
            return None, _failed(rung.name, call, error, begun)
        call.succeeded()
        self._watched.stage_took(rung.name, self._clock() - started)
        return slate, "nothing"


def _failed(name: str, call: Call, error: BaseException, begun: bool) -> str:
    """Why a call gave no answer; what is nobody's failure here is raised again.

    A call that waited in vain for its turn says nothing of the rung.
    """
    if isinstance(error, QueryError):
        call.succeeded()
        raise error
    if not begun or not isinstance(error, Exception):
        call.withdrawn()
        if isinstance(error, Busy | TimeoutError):
            return "busy"
        raise error
    call.failed()
    if not isinstance(error, ServingError | TimeoutError):
        logger.error("the rung %s failed with %s", name, type(error).__name__)
    return "timeout" if isinstance(error, TimeoutError) else "failed"
