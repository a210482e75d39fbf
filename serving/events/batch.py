"""Batches of what is read from a log, whichever log it is."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from recsys.errors import ServingError, check_ranges
from serving.events.record import Stored


@dataclass(frozen=True, kw_only=True)
class Page:
    """What one look at the log found."""

    records: list[Stored] = field(default_factory=list)
    num_bytes: int = 0
    """of all messages, those that are no records too"""
    found: bool = False
    """whether there was any message"""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """At most `limit` records and about `limit_bytes`, complete `linger_s` after the first ones; ConfigError out of range."""

    limit: int
    limit_bytes: int
    linger_s: float

    def __post_init__(self) -> None:
        check_ranges("reader", limit=(self.limit, 1, 1_000_000), linger_s=(self.linger_s, 0.0, 3_600.0))

    async def collect(self, look: Callable[[int], Awaitable[Page]]) -> list[Stored]:
        """Look, for at most so many records, until the batch is complete.

        ServingError where the log fails before anything was found; what was found would be passed over, so it is handed
        out, and the next call says what is wrong.
        """
        batch: list[Stored] = []
        num_bytes, until = 0, float("inf")
        while len(batch) < self.limit and num_bytes < self.limit_bytes and time.monotonic() < until:
            try:
                page = await look(self.limit - len(batch))
            except ServingError:
                if batch:
                    break
                raise
            if page.found:
                batch += page.records
                num_bytes += page.num_bytes
                until = min(until, time.monotonic() + self.linger_s)
        return batch
