"""Whether traffic may come: warmed up, not draining, and every model answers a synthetic query in time."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

import orjson

from recsys.errors import QueryError, ServingError
from serving.gateway.triton import Models

SYNTHETIC = orjson.dumps({"user": "", "now": 0.0, "k": 1, "request_id": "probe"})

logger = logging.getLogger(__name__)


class Readiness:
    """Asks each model every `every_s` seconds and gives it `within_s`."""

    def __init__(self, models: Models, names: Sequence[str], *, every_s: float, within_s: float) -> None:
        self._models, self._names, self._every_s, self._within_s = models, tuple(names), every_s, within_s
        self._reasons: dict[str, str] = {"gateway": "it is still warming up"}
        self._task: asyncio.Task[None] | None = None

    @property
    def reasons(self) -> Mapping[str, str]:
        """What is not ready -> why; empty when all is."""
        return dict(self._reasons)

    async def warm(self, within_s: float, beside: Sequence[str] = ()) -> None:
        """The first answers of all models, which may take long; what does not come is a reason like any other, except of the
        models `beside` them.
        """
        await asyncio.gather(self._ask(within_s), *(self._reason(name, within_s) for name in beside))
        self._reasons.pop("gateway", None)

    def start(self) -> None:
        self._task = asyncio.create_task(self._go_on())

    def stop(self) -> None:
        """No traffic any more: what is there is answered, then this process ends."""
        self._reasons["gateway"] = "it is shutting down"
        if self._task is not None:
            self._task.cancel()

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self._ask(self._within_s)

    async def _ask(self, within_s: float) -> None:
        said = await asyncio.gather(*(self._reason(name, within_s) for name in self._names))
        for name, reason in zip(self._names, said, strict=True):
            if reason is None:
                self._reasons.pop(name, None)
            else:
                self._reasons[name] = reason

    async def _reason(self, name: str, within_s: float) -> str | None:
        try:
            async with asyncio.timeout(within_s):
                await self._models.infer(name, SYNTHETIC, time_s=within_s, metadata=())
        except TimeoutError:
            return f"the model did not answer within {within_s:g} s"
        except (ServingError, QueryError):
            return "the model refused a synthetic query or cannot be reached"
        return None
