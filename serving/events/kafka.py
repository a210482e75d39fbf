"""The event log in Kafka: partition 0 of a topic, because only one partition keeps a total order.

A record's sequence is its offset + 1. Kafka does not deduplicate by record id, so the reader does: it drops a record whose
id is among the DEDUPLICATION_WINDOW offsets before it, whatever position the reader started from.
"""

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from recsys.errors import ConfigError, QueryError, ServingError
from serving.endpoints import Server
from serving.events.batching import Batching, Page
from serving.events.record import Record, StoredRecord

T = TypeVar("T")
SCHEME = "kafka://"
PARTITION = 0
DEDUPLICATION_WINDOW = 20_000
"""records; a resend follows its original closely, because appends wait while the broker is down"""
PAGE_RECORDS = 1_000
POLL_S = 0.2
MAX_MESSAGE_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Kafka topic of the event log, with call deadlines."""

    server: Server
    """kafka://host:port, or several host:port separated by commas; its settings are those of librdkafka"""
    name: str = "events"
    deadline_s: float = 2.0
    """of a call"""
    read_deadline_s: float = 10.0
    """of a call that reads many records"""

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def partition(self) -> TopicPartition:
        return TopicPartition(self.name, PARTITION)

    @property
    def client_settings(self) -> dict[str, Any]:
        """Settings shared by all clients; ConfigError for a URL without a server."""
        if not self.url.startswith(SCHEME) or self.url == SCHEME:
            raise ConfigError(f"the broker is {self.url!r}; give kafka://host:port")
        return {
            "bootstrap.servers": self.url.removeprefix(SCHEME),
            "log_level": 0,
            "message.max.bytes": MAX_MESSAGE_BYTES,
            **self._credentials,
        }

    @property
    def _credentials(self) -> dict[str, str]:
        server = self.server
        own = {"sasl.username": server.user, "sasl.password": server.password, "ssl.ca.location": server.ca}
        return {**{name: value for name, value in own.items() if value}, **server.settings}

    def unavailable(self, operation: str, problem: object) -> ServingError:
        return ServingError(f"the broker at {self.url} did not {operation}: {problem}; check that it runs")


class KafkaWriter:
    """Append to the log of `topic`, acknowledged by all in-sync replicas; connects with the first call."""

    duplicate_window_s = 0.0
    """Kafka never deduplicates by record id"""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self._settings = {**topic.client_settings, "acks": "all", "enable.idempotence": True, "linger.ms": 0}
        self._producer_thread: _ProducerThread | None = None

    async def append(self, records: Sequence[Record], *, deadline_s: float = 0.0) -> None:
        """Return when the broker has acknowledged every record; ServingError otherwise, after `deadline_s` at the latest.

        0 stands for the deadline of the topic. After an error some records may be in the log all the same. QueryError where
        the broker takes a record in no message.
        """
        deadline_s = deadline_s or self.topic.deadline_s
        operation, producer = f"acknowledge {len(records)} records", self._ensure_open()
        try:
            async with asyncio.timeout(deadline_s):
                answers = await asyncio.gather(
                    *(producer.send(self.topic, record) for record in records), return_exceptions=True
                )
        except TimeoutError:
            producer.purge()
            raise self.topic.unavailable(operation, f"no answer within {deadline_s:g} s") from None
        if problem := next((answer for answer in answers if answer is not None), None):
            if isinstance(problem, KafkaException) and problem.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
                raise QueryError(
                    f"a record is larger than the topic {self.topic.name!r} takes; raise its max.message.bytes"
                )
            raise self.topic.unavailable(operation, problem)

    async def check(self) -> None:
        """ServingError unless the broker answers and has the log."""
        await asyncio.to_thread(self._ensure_open().check, self.topic)

    async def ids_since(self, timestamp: float) -> set[str]:
        """Return the ids of all records appended at this time (unix seconds) or later."""
        reading = partial(_ids_since, self.topic, timestamp)
        return await asyncio.to_thread(_translate_errors, self.topic, "return records", reading)

    async def close(self) -> None:
        producer, self._producer_thread = self._producer_thread, None
        if producer is not None:
            await asyncio.to_thread(producer.close)

    def _ensure_open(self) -> "_ProducerThread":
        if self._producer_thread is None:
            self._producer_thread = _ProducerThread(self._settings)
        return self._producer_thread


class _ProducerThread:
    """A producer and the thread that polls its delivery reports."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._producer = Producer(settings)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._poll_deliveries, name="kafka", daemon=True)
        self._thread.start()

    async def send(self, topic: Topic, record: Record) -> None:
        """Return when the record is acknowledged; KafkaException otherwise."""
        loop = asyncio.get_running_loop()
        delivered: asyncio.Future[None] = loop.create_future()

        def on_delivery(error: KafkaError | None, _: Message) -> None:
            with contextlib.suppress(RuntimeError):  # the loop of the waiting caller is closed
                loop.call_soon_threadsafe(_settle, delivered, error)

        try:
            self._producer.produce(topic.name, record.to_json(), record.user, PARTITION, on_delivery=on_delivery)
        except BufferError:
            raise KafkaException(KafkaError(KafkaError._QUEUE_FULL)) from None
        await delivered

    def check(self, topic: Topic) -> None:
        try:
            metadata = self._producer.list_topics(topic.name, timeout=topic.deadline_s).topics[topic.name]
        except KafkaException as error:
            raise topic.unavailable("answer", error) from None
        if metadata.error is not None:
            raise topic.unavailable(f"describe its topic {topic.name!r}", metadata.error)

    def purge(self) -> None:
        """Fail all unacknowledged records now; their callers send them again."""
        self._producer.purge()

    def close(self) -> None:
        self.purge()
        self._closed.set()
        self._thread.join()

    def _poll_deliveries(self) -> None:
        while not self._closed.is_set():
            self._producer.poll(POLL_S)


class KafkaReader:
    """Read the log of `topic` in order, from the last acknowledged position of the reader `name`; see JetStreamReader.

    `repeated` counts resent records that were dropped.
    """

    def __init__(
        self,
        topic: Topic,
        *,
        name: str,
        limit: int = 500,
        limit_bytes: int = 64 << 20,
        linger_s: float = 0.0,
        poll_s: float = 0.1,
    ) -> None:
        self.name = name
        self.waiting = self.missed = self.unreadable = self.repeated = 0
        self._topic, self._poll_s = topic, poll_s
        self._batching = Batching(limit=limit, limit_bytes=limit_bytes, linger_s=linger_s)
        self._consumer: Consumer | None = None
        self._next: int | None = None
        self._offset_of_id: OrderedDict[str, int] = OrderedDict()

    async def fetch(self) -> list[StoredRecord]:
        """Wait for and return the next records. ServingError when the broker does not answer; the next call resumes there."""
        return await self._batching.collect(self._poll)

    async def acknowledge(self, sequence: int) -> None:
        """Store the position durably: a reader of this name resumes behind `sequence`, also after a restart."""
        await self._call("store a position", partial(self._commit, sequence))

    def seek(self, sequence: int) -> None:
        """Continue from this sequence; 1 is the oldest stored record."""
        self._next, self._consumer = sequence - 1, None

    async def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await asyncio.to_thread(consumer.close)

    async def _poll(self, limit: int) -> Page:
        page = await self._call("return records", partial(self._page, limit))
        if not page:
            return Page()
        return Page(
            records=self._read(page), num_bytes=sum(len(message.value() or b"") for message in page), has_messages=True
        )

    async def _call(self, operation: str, action: Callable[[], T]) -> T:
        return await asyncio.to_thread(_translate_errors, self._topic, operation, action)

    def _ensure_open(self) -> Consumer:
        """Consumer at the resume position, with the ids of the preceding records loaded for deduplication."""
        if self._consumer is None:
            consumer = _consumer(self._topic, self.name)
            first, _ = consumer.get_watermark_offsets(self._topic.partition, timeout=self._topic.deadline_s)
            if self._next is None:
                (position,) = consumer.committed([self._topic.partition], timeout=self._topic.deadline_s)
                self._next = position.offset if position.offset >= 0 else first
            begin = max(first, self._next - DEDUPLICATION_WINDOW)
            self._offset_of_id.clear()
            for message in _read_range(consumer, self._topic, begin, self._next):
                if record := _record(message):
                    self._register(record, _offset(message))
            consumer.assign([_topic_partition(self._topic, self._next)])
            self._consumer = consumer
        return self._consumer

    def _page(self, limit: int) -> list[Message]:
        consumer = self._ensure_open()
        try:
            page = _raise_on_error(consumer.consume(min(PAGE_RECORDS, limit), timeout=self._poll_s))
        except KafkaException:
            self._consumer = None  # its position is past unread messages that came with the error
            consumer.close()
            raise
        _, last = consumer.get_watermark_offsets(self._topic.partition, cached=True)
        if page:
            self.waiting = max(0, last - _offset(page[-1]) - 1)
        return page

    def _commit(self, sequence: int) -> None:
        self._ensure_open().commit(offsets=[_topic_partition(self._topic, sequence)], asynchronous=False)

    def _read(self, page: list[Message]) -> list[StoredRecord]:
        assert self._next is not None
        if self._next:
            self.missed += _offset(page[0]) - self._next
        self._next = _offset(page[-1]) + 1
        return [stored for message in page if (stored := self._stored(message))]

    def _stored(self, message: Message) -> StoredRecord | None:
        """None for a message that is no record and for a resent record."""
        record = _record(message)
        if record is None:
            self.unreadable += 1
        elif self._register(record, _offset(message)):
            return StoredRecord(sequence=_offset(message) + 1, record=record)
        else:
            self.repeated += 1
        return None

    def _register(self, record: Record, offset: int) -> bool:
        """Register the id; whether it is new within the DEDUPLICATION_WINDOW offsets before `offset`."""
        before = self._offset_of_id.pop(record.id, None)
        self._offset_of_id[record.id] = offset
        while next(iter(self._offset_of_id.values())) < offset - DEDUPLICATION_WINDOW:
            self._offset_of_id.popitem(last=False)
        return before is None or before < offset - DEDUPLICATION_WINDOW


def erasure_text(topic: Topic, now: float) -> str:
    """Return one sentence on how long the topic keeps the records of now (unix seconds): Kafka erases no single one."""
    try:
        until = f"until {_end_text(_settings(topic), now)}"
    except ServingError as error:
        until = f"until its retention ends ({error})"
    return f"Kafka erases no single records: those of before stay in the topic {topic.name!r} {until}; replays leave them out"


def _settings(topic: Topic) -> Mapping[str, str]:
    """Settings of the topic at the broker."""
    resource = ConfigResource(ResourceType.TOPIC, topic.name)

    def read() -> Mapping[str, str]:
        client = AdminClient(topic.client_settings)
        found = client.describe_configs([resource], request_timeout=topic.deadline_s)[resource].result()
        return {name: entry.value for name, entry in found.items()}

    return _translate_errors(topic, f"describe its topic {topic.name!r}", read)


def _end_text(settings: Mapping[str, str], now: float) -> str:
    """Latest time at which a record of now goes: a segment is closed first, then kept as long as its newest record."""
    kept_ms, segment_ms = int(settings["retention.ms"]), int(settings["segment.ms"])
    if "delete" not in settings["cleanup.policy"] or kept_ms < 0:
        return "somebody deletes them, since the topic removes nothing by age (cleanup.policy, retention.ms)"
    end = datetime.fromtimestamp(now + (kept_ms + segment_ms) / 1_000, UTC)
    return f"{end:%Y-%m-%d %H:%M} UTC at the latest (retention.ms and segment.ms)"


def _translate_errors(topic: Topic, operation: str, action: Callable[[], T]) -> T:
    """Call the action; ServingError in place of KafkaException."""
    try:
        return action()
    except KafkaException as error:
        raise topic.unavailable(operation, error) from None


def _settle(delivered: "asyncio.Future[None]", error: KafkaError | None) -> None:
    if delivered.done():
        return
    if error is None:
        delivered.set_result(None)
    else:
        delivered.set_exception(KafkaException(error))


def _consumer(topic: Topic, name: str) -> Consumer:
    """Consumer without automatic commits."""
    settings = {"group.id": name, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
    return Consumer({**topic.client_settings, "fetch.message.max.bytes": MAX_MESSAGE_BYTES, **settings})


def _topic_partition(topic: Topic, offset: int) -> TopicPartition:
    return TopicPartition(topic.name, PARTITION, offset if offset > 0 else OFFSET_BEGINNING)


def _read_range(consumer: Consumer, topic: Topic, begin: int, end: int) -> Iterator[Message]:
    """Yield the messages of the offsets [begin, end); KafkaException when they do not come in time."""
    if begin >= end:
        return
    consumer.assign([_topic_partition(topic, begin)])
    until = time.monotonic() + topic.read_deadline_s
    while begin < end:
        page = _raise_on_error(consumer.consume(min(PAGE_RECORDS, end - begin), timeout=POLL_S))
        if not page and time.monotonic() > until:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        yield from page
        begin = _offset(page[-1]) + 1 if page else begin


def _ids_since(topic: Topic, timestamp: float) -> set[str]:
    """Scan pages from the end backwards, since recent records are few."""
    consumer, ids = _consumer(topic, "ids"), set[str]()
    try:
        first, end = consumer.get_watermark_offsets(topic.partition, timeout=topic.deadline_s)
        while first < end:
            begin = max(first, end - PAGE_RECORDS)
            page = list(_read_range(consumer, topic, begin, end))
            late = [message for message in page if message.timestamp()[1] >= 1_000 * timestamp]
            ids |= {record.id for message in late if (record := _record(message))}
            end = begin if len(late) == len(page) else first
        return ids
    finally:
        consumer.close()


def _raise_on_error(messages: list[Message]) -> list[Message]:
    """Return the messages; KafkaException for the first error among them."""
    for message in messages:
        if (error := message.error()) is not None:
            raise KafkaException(error)
    return messages


def _offset(message: Message) -> int:
    """Offset of a delivered message, never None."""
    offset = message.offset()
    assert offset is not None
    return offset


def _record(message: Message) -> Record | None:
    """None for a message that is no record, from another producer."""
    try:
        return Record.from_json(message.value() or b"")
    except (ValueError, TypeError):
        return None
