"""The log in Kafka, against the broker that librdkafka brings for tests: the protocol over a socket, records in memory."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from recsys.data.forgotten import read_forgotten
from recsys.errors import ConfigError, QueryError, ServingError
from serving.endpoints import Endpoints, Server
from serving.events import kafka
from serving.events.jetstream import JetStreamReader, JetStreamWriter
from serving.events.kafka import KafkaReader, KafkaWriter, Topic
from serving.events.log_factory import erasure_text, open_reader, open_writer
from serving.events.record import Record, StoredRecord
from serving.events.spool import Spool
from serving.events.writer import EventLogWriter
from serving.layout import DeploymentLayout
from serving.ops.forgetting import forget
from serving.state.sqlite import SqliteStore

NOBODY = "kafka://127.0.0.1:9"
NAMES = count()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "none", "log_level": 0})
    (broker,) = producer.list_topics(timeout=20).brokers.values()
    yield f"kafka://{broker.host}:{broker.port}"
    producer.purge()


@pytest.fixture
def topic(address: str) -> Topic:
    """A topic of its own; its readers have names of their own by it."""
    return Topic(server=Server(url=address), name=f"events-{next(NAMES)}", deadline_s=20.0, read_deadline_s=20.0)


@asynccontextmanager
async def closing(one: Any) -> AsyncIterator[Any]:
    try:
        yield one
    finally:
        await one.close()


def told(story: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(story(), 60))


async def wrote(topic: Topic, records: Sequence[Record]) -> None:
    async with closing(KafkaWriter(topic)) as writer:
        await writer.append(records)


async def read(reader: KafkaReader, num: int) -> list[StoredRecord]:
    found: list[StoredRecord] = []
    while len(found) < num:
        found += await reader.fetch()
    return found


def reader_of(topic: Topic, **knobs: Any) -> KafkaReader:
    return KafkaReader(topic, name=f"states-{topic.name}", **knobs)


def test_records_come_back_in_their_order_and_a_reader_goes_on_where_it_acknowledged(topic, feedback):
    records = [feedback(number) for number in range(7)]

    async def story():
        await wrote(topic, records)
        async with closing(reader_of(topic, limit=3)) as reader:
            first = await reader.fetch()
            await reader.acknowledge(first[-1].sequence)
            unfinished = await reader.fetch()
        async with closing(reader_of(topic)) as reader:
            rest = await read(reader, 4)
            assert reader.waiting == 0
        async with closing(reader_of(topic)) as reader:
            reader.seek(1)
            everything = await read(reader, 7)
        return first, unfinished, rest, everything

    first, unfinished, rest, everything = told(story)
    assert [stored.sequence for stored in everything] == [1, 2, 3, 4, 5, 6, 7]
    assert [stored.record for stored in everything] == records
    assert first == everything[:3]
    assert unfinished == everything[3 : 3 + len(unfinished)], "what nobody acknowledged comes again"
    assert rest == everything[3:]


@pytest.mark.parametrize("begins", [0, 2, 3], ids=["at the start", "between the two", "at the repetition"])
def test_a_record_that_was_sent_again_is_left_out_wherever_a_reader_begins(topic, feedback, begins):
    sent = [feedback(0), feedback(1), feedback(2), feedback(1), feedback(3)]

    async def story():
        for record in sent:
            await wrote(topic, [record])
        async with closing(reader_of(topic)) as reader:
            reader.seek(begins + 1)
            found = await read(reader, 4 - begins + (begins > 3))
            return [stored.sequence for stored in found], reader.repeated

    assert told(story) == ([one for one in (1, 2, 3, 5) if one > begins], 1)


def test_a_record_is_known_for_so_many_records_only(topic, feedback, monkeypatch):
    monkeypatch.setattr(kafka, "DEDUPLICATION_WINDOW", 2)
    numbers = (0, 1, 0, 1, 2, 3, 0)

    async def story():
        for number in numbers:
            await wrote(topic, [feedback(number)])
        found = []
        for begins in range(7):
            async with closing(reader_of(topic)) as reader:
                reader.seek(begins + 1)
                found.append({stored.sequence for stored in await read(reader, 1)})
                while max(found[-1]) < 7:
                    found[-1] |= {stored.sequence for stored in await reader.fetch()}
        return found

    whole, *later = told(story)
    assert whole == {1, 2, 5, 6, 7}
    assert later == [{one for one in whole if one > begins} for begins in range(1, 7)]


def test_what_is_no_record_is_passed_over_and_counted(topic, feedback):
    async def story():
        await wrote(topic, [feedback(0)])
        stranger = Producer(topic.client_settings)
        stranger.produce(topic.name, b"no record", partition=kafka.PARTITION)
        stranger.flush(20)
        await wrote(topic, [feedback(1)])
        async with closing(reader_of(topic)) as reader:
            return [stored.sequence for stored in await read(reader, 2)], reader.unreadable, reader.missed

    assert told(story) == ([1, 3], 1, 0)


def test_ids_since_a_moment_are_found_from_the_end(topic, feedback, monkeypatch):
    monkeypatch.setattr(kafka, "PAGE_RECORDS", 2)

    async def story():
        async with closing(KafkaWriter(topic)) as writer:
            await writer.append([feedback(number) for number in range(3)])
            between = time.time() + 0.01
            while time.time() < between + 0.01:
                await asyncio.sleep(0)
            await writer.append([feedback(number) for number in range(3, 8)])
            return [await writer.ids_since(moment) for moment in (0.0, between, time.time() + 60)]

    everything, later, nothing = told(story)
    assert everything == {f"r{number}" for number in range(8)}
    assert later == {f"r{number}" for number in range(3, 8)}
    assert nothing == set()


def test_a_broker_that_is_not_there_is_named_within_the_deadline_and_the_spool_takes_over(tmp_path, feedback):
    async def story():
        writer = KafkaWriter(Topic(server=Server(url=NOBODY), deadline_s=0.2))
        with pytest.raises(
            ServingError, match=r"kafka://127\.0\.0\.1:9 did not acknowledge 1 records: no answer within 0\.2 s"
        ):
            await writer.append([feedback(0)])
        with pytest.raises(ServingError, match="did not answer"):
            await writer.check()
        async with EventLogWriter(broker=writer, spool=Spool(tmp_path / "spool")) as log:
            await log.append([feedback(1)])
            return log.spooled, log.direct

    assert told(story) == (1, False)


def test_a_reader_without_a_broker_says_so(feedback):
    async def story():
        async with closing(reader_of(Topic(server=Server(url=NOBODY), deadline_s=0.2))) as reader:
            await reader.fetch()

    with pytest.raises(ServingError, match="did not return records"):
        told(story)


def test_the_spool_is_brought_to_kafka_and_nothing_stands_there_twice_for_a_reader(topic, tmp_path, feedback, until):
    """Record 0 had come through although nobody could say so, and is in the spool as well."""

    async def story():
        await wrote(topic, [feedback(0)])
        spool = Spool(tmp_path / "spool")
        await spool.append([feedback(0), feedback(1)])
        async with EventLogWriter(broker=KafkaWriter(topic), spool=spool) as log:
            await until(lambda: log.direct)
            await log.append([feedback(2)])
            assert log.drained == 2
        async with closing(reader_of(topic)) as reader:
            return [stored.record for stored in await read(reader, 3)]

    assert told(story) == [feedback(0), feedback(1), feedback(2)]


@pytest.mark.parametrize(
    ("url", "writer", "reader"),
    [
        ("nats://127.0.0.1:9", JetStreamWriter, JetStreamReader),
        ("kafka://127.0.0.1:9,127.0.0.1:10", KafkaWriter, KafkaReader),
    ],
)
def test_the_url_says_which_broker(url, writer, reader):
    assert isinstance(open_writer(Server(url=url)), writer)
    assert isinstance(open_reader(Server(url=url), name="states", limit=10, linger_s=0.0, poll_s=0.1), reader)


@pytest.mark.parametrize("url", ["kafka://", "amqp://127.0.0.1:9", "127.0.0.1:9", ""])
def test_another_url_is_refused(url):
    with pytest.raises(ConfigError, match=r"the broker is .*; give .*kafka://host:port"):
        open_writer(Server(url=url))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "1970-01-15 00:00 UTC at the latest (retention.ms and segment.ms)"),
        ({"retention.ms": "86400000"}, "1970-01-09 00:00 UTC at the latest (retention.ms and segment.ms)"),
        ({"retention.ms": "-1"}, "somebody deletes them, since the topic removes nothing by age"),
        ({"cleanup.policy": "compact"}, "somebody deletes them, since the topic removes nothing by age"),
        ({"cleanup.policy": "compact,delete"}, "1970-01-15 00:00 UTC at the latest (retention.ms and segment.ms)"),
    ],
)
def test_forgetting_says_until_when_the_topic_keeps_the_records(topic, monkeypatch, settings, text):
    """Defaults of Kafka: a week, and a week until the segment is closed. The broker of the tests knows no settings."""
    week = str(7 * 86_400_000)
    known = {"retention.ms": week, "segment.ms": week, "cleanup.policy": "delete"} | settings
    monkeypatch.setattr(kafka, "_settings", lambda topic: known)
    kept = erasure_text(topic.server, now=0.0)
    assert kept.startswith(f"Kafka erases no single records: those of before stay in the topic 'events' until {text}")


def test_forgetting_says_it_also_where_the_retention_cannot_be_read():
    kept = kafka.erasure_text(Topic(server=Server(url=NOBODY), deadline_s=0.2), now=0.0)
    assert "stay in the topic 'events' until its retention ends (the broker at" in kept
    assert erasure_text(Server(url="nats://127.0.0.1:9"), now=0.0) is None


def test_a_record_that_the_broker_never_takes_is_told_from_a_broker_that_is_away(topic, feedback):
    small = Topic(
        server=Server(url=topic.url, settings={"message.max.bytes": "1000"}), name=topic.name, deadline_s=20.0
    )
    large = Record(id="x", kind="feedback", user="u", timestamp=1.0, body={"item": "a" * 2_000})

    async def story():
        async with closing(KafkaWriter(small)) as writer:
            await writer.append([feedback(0)])
            with pytest.raises(QueryError, match="a record is larger than the topic"):
                await writer.append([large])

    told(story)


def test_a_user_is_forgotten_beside_kafka_and_the_command_says_what_it_keeps(address: str, tmp_path: Path) -> None:
    layout = DeploymentLayout(serve=tmp_path / "serve", live=tmp_path / "live")
    layout.make_live()
    endpoints = Endpoints(broker=Server(url=address), state=Server(url=layout.sqlite))
    SqliteStore(layout.states, timeout_s=5.0)
    reports: list[str] = []
    forget(layout, ["ann"], endpoints=endpoints, report=reports.append, wait_s=20.0)
    assert reports[-1].startswith("Kafka erases no single records: those of before stay in the topic 'events' until ")
    assert not read_forgotten(layout.forgotten).open
