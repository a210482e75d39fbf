"""Impressions behind the answers: batched, retried, bounded, counted."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from recsys.errors import QueryError
from serving.events.record import Record
from serving.gateway.impression_queue import IMPRESSIONS_LATE, IMPRESSIONS_LOST, ImpressionQueue

Run = Callable[[Any], Any]


def record(number: int) -> Record:
    return Record(id=str(number), kind="impression", user="u", timestamp=0.0, body={})


class Kept:
    def __init__(self, writer: Any, most: int = 10, batch: int = 4, max_bytes: int = 1 << 20) -> None:
        self.counts: Counter[str] = Counter()
        self.queue = ImpressionQueue(
            writer, max_records=most, max_bytes=max_bytes, batch=batch, pause_s=0.5, count=self.count
        )

    def count(self, outcome: str, num: int) -> None:
        self.counts[outcome] += num


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@pytest.fixture
def writer(memory_writer: Callable[[], Any]) -> Any:
    return memory_writer()


def test_what_is_shown_is_written_in_order_and_in_batches(in_virtual_time: Run, writer: Any) -> None:
    async def story() -> Kept:
        kept = Kept(writer)
        for number in range(9):
            kept.queue.put(record(number))
        kept.queue.start()
        assert await kept.queue.stop(timeout_s=1.0) == 0
        return kept

    kept = in_virtual_time(story())
    assert list(writer.records) == [str(number) for number in range(9)]
    assert writer.batches == [4, 4, 1]
    assert kept.counts == {"written": 9}
    assert kept.queue.flags == ()


def test_a_refusing_log_is_said_and_asked_again_and_nothing_is_lost(in_virtual_time: Run, writer: Any) -> None:
    async def story() -> Kept:
        kept = Kept(writer)
        writer.away = True
        kept.queue.start()
        kept.queue.put(record(0))
        await until(lambda: bool(kept.queue.flags))
        assert kept.queue.flags == (IMPRESSIONS_LATE,)
        kept.queue.put(record(1))
        writer.away = False
        await until(lambda: not len(kept.queue))
        assert kept.queue.flags == ()
        await kept.queue.stop(timeout_s=1.0)
        return kept

    kept = in_virtual_time(story())
    assert list(writer.records) == ["0", "1"]
    assert kept.counts["refused"] >= 1
    assert (kept.counts["written"], kept.counts["lost"]) == (2, 0)


def test_a_full_queue_loses_the_newest_counts_them_and_says_so(in_virtual_time: Run, writer: Any) -> None:
    async def story() -> Kept:
        kept = Kept(writer, most=5)
        writer.hold = asyncio.Event()
        kept.queue.start()
        for number in range(8):
            kept.queue.put(record(number))
        assert kept.queue.flags == (IMPRESSIONS_LOST,)
        writer.hold.set()
        await until(lambda: not len(kept.queue))
        kept.queue.put(record(8))
        assert kept.queue.flags == ()
        await kept.queue.stop(timeout_s=1.0)
        return kept

    kept = in_virtual_time(story())
    assert list(writer.records) == ["0", "1", "2", "3", "4", "8"]
    assert kept.counts == {"written": 6, "lost": 3}


def test_at_the_end_what_cannot_be_written_in_time_is_counted(in_virtual_time: Run, writer: Any) -> None:
    async def story() -> tuple[int, float, Kept]:
        kept, loop = Kept(writer), asyncio.get_running_loop()
        writer.hold = asyncio.Event()
        kept.queue.start()
        kept.queue.put(record(0))
        began = loop.time()
        return await kept.queue.stop(timeout_s=2.0), loop.time() - began, kept

    lost, took, kept = in_virtual_time(story())
    assert (lost, kept.counts) == (1, {"lost": 1})
    assert took == pytest.approx(2.0)


def test_one_that_no_log_takes_is_lost_alone(in_virtual_time: Run, writer: Any) -> None:
    class Strict:
        async def append(self, records: Any) -> None:
            if any(one.id == "13" for one in records):
                raise QueryError("too large")
            await writer.append(records)

    async def story() -> Kept:
        kept = Kept(Strict())
        for number in (0, 1, 13, 3, 4):
            kept.queue.put(record(number))
        kept.queue.start()
        await kept.queue.stop(timeout_s=1.0)
        return kept

    assert in_virtual_time(story()).counts == {"lost": 1, "written": 4}
    assert list(writer.records) == ["0", "1", "3", "4"]


def test_a_defect_of_the_writer_costs_its_batch_and_not_the_queue(in_virtual_time: Run, writer: Any) -> None:
    async def story() -> Kept:
        kept = Kept(Poisoned(writer))
        for number in (0, 1, 13, 3, 4):
            kept.queue.put(record(number))
        kept.queue.start()
        await kept.queue.stop(timeout_s=1.0)
        return kept

    class Poisoned:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def append(self, records: Any) -> None:
            if any(one.id == "13" for one in records):
                raise ValueError("cannot be written")
            await self.inner.append(records)

    kept = in_virtual_time(story())
    assert kept.counts == {"lost": 4, "written": 1}
    assert list(writer.records) == ["4"]


def test_the_queue_is_bounded_in_bytes_and_takes_records_again_when_there_is_room(
    in_virtual_time: Run, writer: Any
) -> None:
    async def story() -> Kept:
        size = len(record(1).to_json())
        kept = Kept(writer, most=1_000, max_bytes=5 * size)
        for number in range(8):
            kept.queue.put(record(number))
        assert (len(kept.queue), kept.queue.num_bytes) == (5, 5 * size)
        assert kept.queue.flags == (IMPRESSIONS_LOST,)
        kept.queue.start()
        await until(lambda: not len(kept.queue))
        assert kept.queue.num_bytes == 0
        kept.queue.put(record(9))
        assert kept.queue.flags == ()
        await kept.queue.stop(timeout_s=1.0)
        return kept

    kept = in_virtual_time(story())
    assert kept.counts == {"written": 6, "lost": 3}
    assert list(writer.records) == ["0", "1", "2", "3", "4", "9"]
