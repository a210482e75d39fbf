"""The four fallback tiers: two Triton models, the user's last good slate, popular items; above them, for requests with
reasons, the explaining model.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import orjson

from recsys.data.forgotten import ForgottenUsers
from recsys.errors import ReleaseError, ServingError
from serving.gateway.breaker import Breaker
from serving.gateway.bulkhead import Bulkhead
from serving.gateway.fair_worker import FairWorker
from serving.gateway.fallback_chain import FallbackTier, SlateRequest
from serving.gateway.fallback_slates import FallbackSlates, SlateDocument
from serving.gateway.settings import Settings
from serving.gateway.stale_cache import StaleCache
from serving.triton.async_models import Models

FULL, LIGHT, LAST_GOOD, POPULAR = NAMES = ("recommend", "recommend_light", "last_good", "popular")
EXPLAINED = "recommend_explained"
MIN_MODEL_S = 0.005
MIN_FALLBACK_S = 0.0
LATE_ANSWER_S = 1.0
"""of the last tier beyond the budget: a late slate is better than none"""


class FallbackTiers:
    """Tiers that answer slate requests. clock: monotonic, in seconds."""

    def __init__(
        self,
        models: Models,
        fallbacks: FallbackSlates,
        settings: Settings,
        *,
        worker: FairWorker,
        release: str,
        clock: Callable[[], float],
        forgotten: Callable[[], ForgottenUsers],
    ) -> None:
        """worker: evaluates rules. release: fingerprint of the bundle, of which the models must be too"""
        self._models, self._fallbacks, self._settings, self._clock = models, fallbacks, settings, clock
        self._worker, self._release, self._forgotten = worker, release, forgotten
        self.stale_cache = StaleCache(
            max_slates=settings.last_good_most,
            max_bytes=settings.last_good_mib << 20,
            ttl_s=settings.last_good_s,
            clock=clock,
        )

    def all(self) -> tuple[FallbackTier, ...]:
        """All tiers, best first."""
        light_s, fallback_s = self._settings.light_ms / 1_000, self._settings.fallback_ms / 1_000
        return (
            self._tier(FULL, self.full, light_s + fallback_s, MIN_MODEL_S),
            self._tier(LIGHT, self.light, fallback_s, MIN_MODEL_S),
            self._tier(LAST_GOOD, self.stale, 0.0, MIN_FALLBACK_S),
            self._tier(POPULAR, self.popular, -LATE_ANSWER_S, MIN_FALLBACK_S),
        )

    def explained(self) -> FallbackTier:
        """Top tier for requests with reasons; it has its own breaker and leaves the budget of the other tiers."""
        return self._tier(EXPLAINED, self.explain, self._settings.budget_ms / 1_000, MIN_MODEL_S)

    async def explain(self, request: SlateRequest, time_s: float) -> SlateDocument:
        text = await self._models.infer(EXPLAINED, request.text, time_s=time_s, metadata=request.metadata)
        return read_slate(text, EXPLAINED, self._release)

    async def full(self, request: SlateRequest, time_s: float) -> SlateDocument:
        """Slate of the full cascade, cached for the stale tier."""
        text = await self._models.infer(FULL, request.text, time_s=time_s, metadata=request.metadata)
        slate = read_slate(text, FULL, self._release)
        cached = orjson.dumps({**slate, "exposure": {}}) if "exposure" in slate else text
        if not self._forgotten().drops(request.query.user, request.query.now):
            self.stale_cache.put((request.query.user, request.query.surface), slate["rules"], cached)
        return slate

    async def light(self, request: SlateRequest, time_s: float) -> SlateDocument:
        text = await self._models.infer(LIGHT, request.text, time_s=time_s, metadata=request.metadata)
        return read_slate(text, LIGHT, self._release)

    async def stale(self, request: SlateRequest, time_s: float) -> SlateDocument | None:
        """Cached slate under unchanged rules; they are applied again, since rules depend on time."""
        key = request.query.user, request.query.surface
        shown = self.stale_cache.get(key, self._fallbacks.rules_hash)
        if shown is None:
            return None
        return await self._worker.run(partial(self._fallbacks.again, request.query, shown), key=request.key)

    async def popular(self, request: SlateRequest, time_s: float) -> SlateDocument:
        return await self._worker.run(partial(self._fallbacks.popular, request.query), key=request.key)

    def breaker(self) -> Breaker:
        return Breaker(
            window=self._settings.breaker_window,
            failures=self._settings.breaker_failures,
            pause_s=self._settings.breaker_pause_s,
            max_pause_s=self._settings.breaker_longest_s,
            clock=self._clock,
        )

    def _tier(self, name: str, answer: Any, reserve_s: float, min_s: float) -> FallbackTier:
        bulkhead = Bulkhead(max_running=self._settings.models_at_once, waiting=self._settings.models_waiting)
        return FallbackTier(
            name=name, answer=answer, breaker=self.breaker(), bulkhead=bulkhead, reserve_s=reserve_s, min_s=min_s
        )


def read_slate(text: bytes, model: str, release: str) -> SlateDocument:
    """Parse the answer of a model; ReleaseError for a slate of another release than that of the rules and caches here."""
    try:
        slate: SlateDocument = orjson.loads(text)
        other = slate["bundle"]
    except (ValueError, KeyError, TypeError):
        raise ServingError(
            f"the model {model!r} answered with something that is no slate; check that it is of the same version"
        ) from None
    if other != release:
        raise ReleaseError(
            f"the model {model!r} serves the release {other} and this gateway {release}; restart the one that is behind"
        )
    return slate
