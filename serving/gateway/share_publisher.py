"""Publishes exposure shares from the state store to the last stage: once a second instead of once a request."""

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor

from recsys.errors import DataError, sentence_of
from recsys.policy.exposure.exposure_file import ShareFile, Shares
from serving.state.protocols import Exposures

EXPOSURE_LATE = "exposure:late"
"""flag: publication failed, so the last stage uses older shares"""

logger = logging.getLogger(__name__)


class SharePublisher:
    """Reads `Exposures` every `interval_s` seconds and writes the share file if either of them changed.

    `interval_s` is also the timeout. A write that takes longer continues, and the next round waits for its end.
    """

    def __init__(self, exposures: Exposures, file: ShareFile, *, interval_s: float) -> None:
        self._exposures, self._file, self._interval_s = exposures, file, interval_s
        self._shares: Shares | None = {}
        """content of the file, None if unreadable"""
        self._stamp: object = None
        self._thread = ThreadPoolExecutor(1, "shares")
        self._writing: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self.flags: tuple[str, ...] = ()

    async def start(self) -> None:
        await self._publish_once()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self._publish_once()

    async def _publish_once(self) -> None:
        try:
            async with asyncio.timeout(self._interval_s):
                await self._publish_changes()
            self.flags = ()
        except Exception as error:
            if not self.flags:
                reason = sentence_of(error) or type(error).__name__
                logger.warning("exposure shares could not be published: %s", reason)
            self.flags = (EXPOSURE_LATE,)

    async def _publish_changes(self) -> None:
        """Write changed shares; a cancelled round leaves its running write to the next one."""
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
