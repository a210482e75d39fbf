"""The consumer hands every record to every sink, in order, until each has it."""

import asyncio
import contextlib
import time
from collections.abc import Sequence

import pytest

from recsys.errors import ServingError
from serving.events.consumer import Consumer
from serving.events.jetstream import JetStreamReader, JetStreamWriter
from serving.events.record import Record, StoredRecord


class Kept:
    """A sink that fails as often as it was told to."""

    def __init__(self, failures: int = 0) -> None:
        self.batches: list[list[StoredRecord]] = []
        self.failures = failures

    async def write(self, batch: Sequence[StoredRecord]) -> None:
        if self.failures:
            self.failures -= 1
            raise ServingError("the sink is blocked; wait")
        self.batches.append(list(batch))

    @property
    def ids(self) -> list[str]:
        return [stored.record.id for batch in self.batches for stored in batch]


async def cancelled(task: asyncio.Task) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_sinks_get_all_of_it_in_order_and_a_failure_is_waited_out(stream, feedback, until):
    async def run():
        writer, reader = JetStreamWriter(stream), JetStreamReader(stream, name="folding", limit=4)
        for number in range(10):
            await writer.append([feedback(number)])
        first, second = Kept(), Kept(failures=2)
        consumer = Consumer(reader=reader, sinks=[first, second])
        task = asyncio.ensure_future(consumer.run())
        await until(lambda: consumer.num_written == 10)
        assert consumer.problem is None
        assert consumer.waiting == 0
        await cancelled(task)
        await writer.append([feedback(10)])
        again = Consumer(reader=JetStreamReader(stream, name="folding"), sinks=[late := Kept()])
        task = asyncio.ensure_future(again.run())
        await until(lambda: again.num_written == 1)
        await cancelled(task)
        for one in (writer, reader, again._reader):
            await one.close()
        return first, second, late, consumer

    first, second, late, consumer = asyncio.run(run())
    assert first.ids == second.ids == [f"r{number}" for number in range(10)]
    assert late.ids == ["r10"]
    assert consumer.retries == 2
    assert consumer.sequence == second.batches[-1][-1].sequence


def test_what_a_sink_has_not_got_comes_again_after_a_restart(stream, feedback, until):
    async def run():
        writer = JetStreamWriter(stream)
        for number in range(3):
            await writer.append([feedback(number)])
        reader = JetStreamReader(stream, name="restarted")
        consumer = Consumer(reader=reader, sinks=[Kept(), Kept(failures=10**9)])
        task = asyncio.ensure_future(consumer.run())
        await until(lambda: consumer.retries > 0)
        assert "blocked" in consumer.problem
        await cancelled(task)
        await reader.close()
        reader = JetStreamReader(stream, name="restarted")
        batch = await reader.fetch()
        for one in (writer, reader):
            await one.close()
        return [stored.record.id for stored in batch], consumer.num_written

    assert asyncio.run(run()) == (["r0", "r1", "r2"], 0)


def test_the_consumer_outlives_the_broker(broker, stream, feedback, until, kill):
    async def run():
        writer, reader = JetStreamWriter(stream), JetStreamReader(stream, name="patient")
        sink = Kept()
        consumer = Consumer(reader=reader, sinks=[sink])
        await writer.append([feedback(0)])
        task = asyncio.ensure_future(consumer.run())
        await until(lambda: consumer.num_written == 1)
        kill(broker)
        await until(lambda: consumer.problem is not None)
        await asyncio.to_thread(broker.start)
        await writer.append([feedback(1)])
        await until(lambda: consumer.num_written == 2)
        await cancelled(task)
        for one in (writer, reader):
            await one.close()
        return sink.ids, reader.missed

    assert asyncio.run(run()) == (["r0", "r1"], 0)


def test_freshness_is_the_age_of_the_newest_record(stream, until):
    async def run():
        writer, reader = JetStreamWriter(stream), JetStreamReader(stream, name="fresh")
        start = time.time()
        ages = (100.0, 5_000.0)
        await writer.append(
            [Record(id=str(age), kind="feedback", user="u", timestamp=start - age, body={"item": "i"}) for age in ages]
        )
        consumer = Consumer(reader=reader, sinks=[])
        task = asyncio.ensure_future(consumer.run())
        await until(lambda: consumer.num_written == 2)
        await cancelled(task)
        for one in (writer, reader):
            await one.close()
        return start, consumer.newest, consumer.delay_s

    start, newest, delay_s = asyncio.run(run())
    assert newest == pytest.approx(start - 100.0)
    assert 100.0 <= delay_s < 200.0
