"""Startup and shutdown of the gateway's background work."""

from collections.abc import Sequence

from recsys.contracts import Query
from serving.gateway.fallback_slates import FallbackSlates
from serving.gateway.forgetting import Forgetting
from serving.gateway.impression_queue import ImpressionQueue
from serving.gateway.readiness import Readiness
from serving.gateway.settings import Settings
from serving.gateway.share_publisher import SharePublisher
from serving.process_tuning import freeze_heap
from serving.triton.async_models import Models


class Lifespan:
    """Starts and stops background work."""

    def __init__(
        self,
        *,
        models: Models,
        fallbacks: FallbackSlates,
        impressions: ImpressionQueue,
        readiness: Readiness,
        publisher: SharePublisher,
        forgetting: Forgetting,
        settings: Settings,
        optional_models: Sequence[str],
    ) -> None:
        """optional_models: warmed up too, without affecting readiness"""
        self._optional_models = tuple(optional_models)
        self._models, self._fallbacks, self._impressions = models, fallbacks, impressions
        self._readiness, self._publisher, self._settings = readiness, publisher, settings
        self._forgetting = forgetting

    async def start(self) -> None:
        """Warm up every tier, start the background tasks, then freeze the heap."""
        self._fallbacks.warm(Query(user="", now=0.0, k=self._settings.limits.k, request_id="warm-up"))
        await self._readiness.warm(self._settings.warm_up_s, self._optional_models)
        self._readiness.start()
        await self._publisher.start()
        self._impressions.start()
        self._forgetting.start()
        freeze_heap()

    async def stop(self) -> None:
        """After the last request: write queued impressions and close connections."""
        self._readiness.stop()
        await self._publisher.stop()
        await self._forgetting.stop()
        await self._impressions.stop(self._settings.drain_s)
        await self._models.close()
