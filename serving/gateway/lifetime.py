"""From the first warm answer to the last impression written."""

from collections.abc import Sequence

from recsys.contracts import Query
from serving.gateway.fallbacks import Fallbacks
from serving.gateway.impressions import Impressions
from serving.gateway.readiness import Readiness
from serving.gateway.settings import Settings
from serving.gateway.shares import SharePublisher
from serving.gateway.triton import Models
from serving.quiet import settle


class Lifetime:
    """Begins and ends what works beside the requests."""

    def __init__(
        self,
        *,
        models: Models,
        fallbacks: Fallbacks,
        impressions: Impressions,
        readiness: Readiness,
        publisher: SharePublisher,
        settings: Settings,
        warmed: Sequence[str],
    ) -> None:
        """warmed: models that are asked once, beside those that readiness is about"""
        self._warmed = tuple(warmed)
        self._models, self._fallbacks, self._impressions = models, fallbacks, impressions
        self._readiness, self._publisher, self._settings = readiness, publisher, settings

    async def begin(self) -> None:
        """Every rung has answered once, or the models had their time; what lives from now on is young for the collector."""
        self._fallbacks.warm(Query(user="", now=0.0, k=self._settings.limits.k, request_id="warm-up"))
        await self._readiness.warm(self._settings.warm_up_s, self._warmed)
        self._readiness.start()
        await self._publisher.start()
        self._impressions.start()
        settle()

    async def end(self) -> None:
        """After the last request: impressions that wait are written, connections closed."""
        self._readiness.stop()
        await self._publisher.stop()
        await self._impressions.stop(self._settings.drain_s)
        await self._models.close()
