"""What was shown to everybody, kept in memory: one read of the store a second instead of one a request."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping

from serving.state.contract import Exposures

STALE = "exposure:stale"
"""the counters could not be read; older ones stand in"""

logger = logging.getLogger(__name__)


class Shares:
    """The last answer of `Exposures`, asked again every `every_s` seconds; each time it may take as long."""

    def __init__(self, exposures: Exposures, *, every_s: float) -> None:
        self._exposures, self._every_s = exposures, every_s
        self.now: Mapping[str, float] = {}
        self.flags: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._read()
        self._task = asyncio.create_task(self._go_on())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self._read()

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(self._every_s):
                self.now, self.flags = await self._exposures.exposure(), ()
        except Exception as error:
            if not self.flags:
                logger.warning("the exposure could not be read: %s", type(error).__name__)
            self.flags = (STALE,)
