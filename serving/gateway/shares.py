"""What was shown to everybody, brought from the store to the last stage: once a second instead of once a request."""

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor

from recsys.errors import DataError, sentence_of
from recsys.policy.exposure_file import ShareFile, Shares
from serving.state.contract import Exposures

LATE = "exposure:late"
"""the counters could not be brought to the last stage, which goes on with older ones"""

logger = logging.getLogger(__name__)


class SharePublisher:
    """Asks `Exposures` every `every_s` seconds and writes what changed, or what somebody else wrote or removed.

    Each time it may take as long. A write that takes longer goes on, and the next one waits for its end.
    """

    def __init__(self, exposures: Exposures, file: ShareFile, *, every_s: float) -> None:
        self._exposures, self._file, self._every_s = exposures, file, every_s
        self._shares: Shares | None = {}
        """what the file holds, None where nobody can read it"""
        self._stamp: object = None
        self._thread = ThreadPoolExecutor(1, "shares")
        self._writing: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.flags: tuple[str, ...] = ()

    async def start(self) -> None:
        await self._bring()
        self._task = asyncio.create_task(self._go_on())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await self._bring()

    async def _bring(self) -> None:
        try:
            async with asyncio.timeout(self._every_s):
                await self._written()
            self.flags = ()
        except Exception as error:
            if not self.flags:
                told = sentence_of(error) or type(error).__name__
                logger.warning("what was shown could not be brought to the last stage: %s", told)
            self.flags = (LATE,)

    async def _written(self) -> None:
        """Whoever is cancelled leaves the write to the next one."""
        if self._writing is None:
            shares = await self._exposures.exposure()
            if not shares and not self._shares and self._file.stamp() == self._stamp:
                return
            self._writing = asyncio.get_running_loop().run_in_executor(self._thread, self._write, shares)
        writing = self._writing
        try:
            await asyncio.shield(writing)
        finally:
            if writing.done():
                self._writing = None

    def _write(self, shares: Shares) -> None:
        if (stamp := self._file.stamp()) != self._stamp:
            self._shares, self._stamp = self._read(), stamp
        if shares != self._shares:
            self._stamp, self._shares = self._file.write(shares), shares

    def _read(self) -> Shares | None:
        try:
            return self._file.read()
        except DataError:
            return None
