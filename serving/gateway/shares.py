"""What was shown to everybody, brought from the store to the last stage: once a second instead of once a request."""

import asyncio
import contextlib
import logging

from recsys.policy.shares import ShareFile, Shares
from recsys.stages import STALE_EXPOSURE
from serving.state.contract import Exposures

logger = logging.getLogger(__name__)


class SharePublisher:
    """Asks `Exposures` every `every_s` seconds, writes what changed; each time it may take as long."""

    def __init__(self, exposures: Exposures, file: ShareFile, *, every_s: float) -> None:
        self._exposures, self._file, self._every_s = exposures, file, every_s
        self._written: Shares | None = None
        self.flags: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._bring()
        self._task = asyncio.create_task(self._go_on())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self._bring()

    async def _bring(self) -> None:
        try:
            async with asyncio.timeout(self._every_s):
                shares = await self._exposures.exposure()
                if shares != self._written:
                    await asyncio.to_thread(self._file.write, shares)
                    self._written = shares
            self.flags = ()
        except Exception as error:
            if not self.flags:
                logger.warning("the exposure could not be brought: %s", type(error).__name__)
            self.flags = (STALE_EXPOSURE,)
