"""A thread for work that would block the event loop, one call at a time, API keys in turn."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serving.gateway.bulkhead import Bulkhead

T = TypeVar("T")
INLINE_BYTES = 8_192
"""bodies up to this size are parsed at once: that takes less than two milliseconds, whatever they hold"""


class FairWorker:
    """Runs functions in order of arrival of each key. BulkheadFull when `waiting` calls wait already."""

    def __init__(self, *, waiting: int) -> None:
        self._turn = Bulkhead(max_running=1, waiting=waiting)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="worker")

    async def run(self, function: Callable[[], T], *, key: str) -> T:
        """Return the result of the function, which runs on the thread; its exceptions are raised here."""
        async with self._turn.acquire(key):
            return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def parse(self, parse: Callable[[bytes], T], body: bytes, *, key: str) -> T:
        """Parse a body, on the thread if it is large."""
        if len(body) <= INLINE_BYTES:
            return parse(body)
        return await self.run(lambda: parse(body), key=key)
