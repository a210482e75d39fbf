"""Fallback chain with a deadline: the best tier that can answer in time does; a lower one flags the slate as degraded."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from recsys.contracts import Query
from recsys.errors import QueryError, RecsysError, ReleaseError, RulesLostError
from recsys.stages import NO_SLATE
from serving.gateway.breaker import Breaker, BreakerCall
from serving.gateway.bulkhead import Bulkhead, BulkheadFull
from serving.gateway.http_error import HTTPError
from serving.triton.async_models import Metadata

RETRY_S = 1.0
LATE = frozenset({"late", "busy", "timeout"})
"""reasons of a tier that more time would have let answer"""
REASONS: Mapping[type[Exception], str] = {TimeoutError: "timeout", ReleaseError: "release"}
"""other errors are "failed\""""

NO_RULES = f"{NO_SLATE}: the rules that apply cannot be read; the operator has to restore them"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlateRequest:
    """Query of one request with its deadline."""

    query: Query
    document: Mapping[str, Any]
    """query as sent to the models and logged"""
    text: bytes
    """the same as JSON"""
    deadline: float
    """by the clock of the chain, in seconds"""
    metadata: Metadata = ()
    key: str = ""
    """name of the API key, by which requests take turns"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlateResponse:
    """Slate with the tier that made it."""

    slate: dict[str, Any]
    tier: str
    reasons: tuple[str, ...]
    """flags: empty for the first tier; else "rung:<name>" and the failure reason of each tier above"""
    late: bool
    """whether a tier above had too little time or too many requests"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackTier:
    """One way to make a slate.

    answer: request, seconds available -> slate, or None if this tier has none for the user.
    """

    name: str
    answer: Callable[[SlateRequest, float], Awaitable[dict[str, Any] | None]]
    breaker: Breaker
    bulkhead: Bulkhead
    reserve_s: float
    """seconds kept for the tiers below; negative for a tier that may answer late"""
    min_s: float
    """skipped with less time left"""


class ChainMetrics(Protocol):
    """Counters of the chain."""

    def tier_failed(self, tier: str, reason: str) -> None: ...

    def observe_stage(self, stage: str, seconds: float) -> None: ...


class FallbackChain:
    """Tiers, best first. clock: monotonic, in seconds, that of the deadlines."""

    def __init__(self, tiers: Sequence[FallbackTier], *, clock: Callable[[], float], metrics: ChainMetrics) -> None:
        self._tiers, self._clock, self._metrics = tuple(tiers), clock, metrics

    @property
    def first(self) -> str:
        """Name of the best tier."""
        return self._tiers[0].name

    async def answer(self, request: SlateRequest) -> SlateResponse:
        """Answer by the first tier that can. HTTPError 503 if none can, QueryError for an invalid query."""
        reasons: list[str] = []
        late = False
        for tier in self._tiers:
            slate, reason = await self._try_tier(tier, request)
            if slate is not None:
                flags = (f"rung:{tier.name}", *reasons) if reasons else ()
                return SlateResponse(slate=slate, tier=tier.name, reasons=flags, late=late)
            late |= reason in LATE
            reasons.append(f"{tier.name}:{reason}")
            self._metrics.tier_failed(tier.name, reason)
        lost = reasons[-1] == f"{self._tiers[-1].name}:rules"
        raise HTTPError(
            503, NO_RULES if lost else "no slate could be made in time; try again later", retry_after_s=RETRY_S
        )

    async def _try_tier(self, tier: FallbackTier, request: SlateRequest) -> tuple[dict[str, Any] | None, str]:
        """Slate or None, and the failure reason."""
        deadline = request.deadline - tier.reserve_s
        left_s = deadline - self._clock()
        if left_s < tier.min_s:
            return None, "late"
        if (call := tier.breaker.allow()) is None:
            return None, "open"
        admitted = False
        try:
            async with asyncio.timeout(left_s), tier.bulkhead.acquire():
                admitted, started = True, self._clock()
                slate = await tier.answer(request, deadline - started)
        except BaseException as error:
            return None, _failure_reason(tier.name, call, error, admitted)
        call.succeeded()
        self._metrics.observe_stage(tier.name, self._clock() - started)
        return slate, "nothing"


def _failure_reason(name: str, call: BreakerCall, error: BaseException, admitted: bool) -> str:
    """Failure reason of a call; a QueryError or cancellation is raised again.

    A call that never left the bulkhead does not count against the tier.
    """
    if isinstance(error, QueryError):
        call.succeeded()
        raise error
    if not admitted or not isinstance(error, Exception):
        call.cancelled()
        if isinstance(error, BulkheadFull | TimeoutError):
            return "busy"
        raise error
    if isinstance(error, RulesLostError):
        call.cancelled()
        return "rules"
    call.failed()
    if not isinstance(error, RecsysError | TimeoutError):
        logger.error("the fallback tier %s failed with %s", name, type(error).__name__)
    return next((reason for kind, reason in REASONS.items() if isinstance(error, kind)), "failed")
