"""Batches of log records, shared by all brokers."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from recsys.errors import ServingError, check_ranges
from serving.events.record import StoredRecord


@dataclass(frozen=True, kw_only=True)
class Page:
    """Result of one poll of the log."""

    records: list[StoredRecord] = field(default_factory=list)
    num_bytes: int = 0
    """of all messages, unreadable ones included"""
    has_messages: bool = False
    """False for an empty poll"""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """At most `limit` records and about `limit_bytes`, complete `linger_s` after the first ones; ConfigError out of range."""

    limit: int
    limit_bytes: int
    linger_s: float

    def __post_init__(self) -> None:
        check_ranges("reader", limit=(self.limit, 1, 1_000_000), linger_s=(self.linger_s, 0.0, 3_600.0))

    async def collect(self, poll: Callable[[int], Awaitable[Page]]) -> list[StoredRecord]:
        """Call `poll` with the number of records still missing until the batch is complete.

        ServingError when a poll fails on an empty batch. A partial batch is returned instead, since its records would
        otherwise be lost; the next call raises.
        """
        batch: list[StoredRecord] = []
        num_bytes, until = 0, float("inf")
        while len(batch) < self.limit and num_bytes < self.limit_bytes and time.monotonic() < until:
            try:
                page = await poll(self.limit - len(batch))
            except ServingError:
                if batch:
                    break
                raise
            if page.has_messages:
                batch += page.records
                num_bytes += page.num_bytes
                until = min(until, time.monotonic() + self.linger_s)
        return batch
