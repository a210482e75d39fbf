"""The event log in Kafka: partition 0 of a topic, because records have one order.

A record's sequence is its offset + 1. Kafka does not know a record by its id, so one that was sent twice stands there twice,
and whoever reads leaves out what came before among the last REMEMBERED records: the same ones, wherever it began.
"""

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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

from recsys.errors import ConfigError, ServingError
from serving.events.batch import Batching, Page
from serving.events.record import Record, Stored

T = TypeVar("T")
SCHEME = "kafka://"
PARTITION = 0
REMEMBERED = 20_000
"""records; a repetition follows its record closely, since while the broker is away everybody waits"""
PAGE = 1_000
POLL_S = 0.2
MAX_MESSAGE_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Which log, and how long a call may last."""

    url: str
    """kafka://host:port, more of them behind commas"""
    name: str = "events"
    deadline_s: float = 2.0
    """of a call"""
    read_deadline_s: float = 10.0
    """of a call that reads many records"""

    @property
    def partition(self) -> TopicPartition:
        return TopicPartition(self.name, PARTITION)

    @property
    def connection(self) -> dict[str, Any]:
        """What every client is told; ConfigError for an URL without a server."""
        if not self.url.startswith(SCHEME) or self.url == SCHEME:
            raise ConfigError(f"the broker is {self.url!r}; give kafka://host:port")
        return {
            "bootstrap.servers": self.url.removeprefix(SCHEME),
            "log_level": 0,
            "message.max.bytes": MAX_MESSAGE_BYTES,
        }

    def away(self, doing: str, problem: object) -> ServingError:
        return ServingError(f"the broker at {self.url} did not {doing}: {problem}; check that it runs")


class KafkaWriter:
    """Appends to the log of `topic`, a record being acknowledged by all replicas in sync; connects with the first call."""

    duplicate_window_s = 0.0
    """Kafka itself never knows a record by its id"""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self._settings = {**topic.connection, "acks": "all", "enable.idempotence": True, "linger.ms": 0}
        self._sending: _Sending | None = None

    async def append(self, records: Sequence[Record], *, deadline_s: float = 0.0) -> None:
        """Return when the broker has acknowledged every record; ServingError otherwise, after `deadline_s` at the latest.

        0 stands for the deadline of the topic. After an error some records may be in the log all the same.
        """
        deadline_s = deadline_s or self.topic.deadline_s
        doing, sending = f"acknowledge {len(records)} records", self._opened()
        try:
            async with asyncio.timeout(deadline_s):
                answers = await asyncio.gather(
                    *(sending.send(self.topic, record) for record in records), return_exceptions=True
                )
        except TimeoutError:
            sending.forget()
            raise self.topic.away(doing, f"no answer within {deadline_s:g} s") from None
        if problem := next((answer for answer in answers if answer is not None), None):
            raise self.topic.away(doing, problem)

    async def check(self) -> None:
        """ServingError unless the broker answers and has the log."""
        await asyncio.to_thread(self._opened().check, self.topic)

    async def ids_since(self, timestamp: float) -> set[str]:
        """The ids of all records that came into the log at this time (unix seconds) or later."""
        reading = partial(_ids_since, self.topic, timestamp)
        return await asyncio.to_thread(_told, self.topic, "hand out records", reading)

    async def close(self) -> None:
        sending, self._sending = self._sending, None
        if sending is not None:
            await asyncio.to_thread(sending.end)

    def _opened(self) -> "_Sending":
        if self._sending is None:
            self._sending = _Sending(self._settings)
        return self._sending


class _Sending:
    """A producer, and the thread in which it says what became of its messages."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._producer = Producer(settings)
        self._ended = threading.Event()
        self._listening = threading.Thread(target=self._listen, name="kafka", daemon=True)
        self._listening.start()

    async def send(self, topic: Topic, record: Record) -> None:
        """Return when it is acknowledged; KafkaException otherwise."""
        loop = asyncio.get_running_loop()
        delivered: asyncio.Future[None] = loop.create_future()

        def tell(error: KafkaError | None, _: Message) -> None:
            with contextlib.suppress(RuntimeError):  # nobody waits any more, the loop is closed
                loop.call_soon_threadsafe(_settle, delivered, error)

        try:
            self._producer.produce(topic.name, record.to_json(), record.user, PARTITION, on_delivery=tell)
        except BufferError:
            raise KafkaException(KafkaError(KafkaError._QUEUE_FULL)) from None
        await delivered

    def check(self, topic: Topic) -> None:
        try:
            told = self._producer.list_topics(topic.name, timeout=topic.deadline_s).topics[topic.name]
        except KafkaException as error:
            raise topic.away("answer", error) from None
        if told.error is not None:
            raise topic.away(f"tell of its topic {topic.name!r}", told.error)

    def forget(self) -> None:
        """What is not acknowledged yet fails now; whoever sent it sends it again."""
        self._producer.purge()

    def end(self) -> None:
        self.forget()
        self._ended.set()
        self._listening.join()

    def _listen(self) -> None:
        while not self._ended.is_set():
            self._producer.poll(POLL_S)


class KafkaReader:
    """Reads the log of `topic` in order, from where a reader of this `name` acknowledged last; see JetStreamReader.

    `repeated` counts records that were sent again and left out.
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
        self._known: OrderedDict[str, int] = OrderedDict()

    async def fetch(self) -> list[Stored]:
        """The next records, waited for. ServingError when the broker does not answer; the next call goes on there."""
        return await self._batching.collect(self._look)

    async def acknowledge(self, sequence: int) -> None:
        """What comes up to here is done with: a reader of this name goes on behind it, after a restart as well."""
        await self._call("remember a position", partial(self._commit, sequence))

    def seek(self, sequence: int) -> None:
        """Go on from this sequence, 1 for the oldest record that there is."""
        self._next, self._consumer = sequence - 1, None

    async def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await asyncio.to_thread(consumer.close)

    async def _look(self, limit: int) -> Page:
        page = await self._call("hand out records", partial(self._page, limit))
        if not page:
            return Page()
        return Page(
            records=self._read(page), num_bytes=sum(len(message.value() or b"") for message in page), found=True
        )

    async def _call(self, doing: str, action: Callable[[], T]) -> T:
        return await asyncio.to_thread(_told, self._topic, doing, action)

    def _opened(self) -> Consumer:
        """At the place from which this reader goes on, knowing the ids of what stands before it."""
        if self._consumer is None:
            consumer = _consumer(self._topic, self.name)
            first, _ = consumer.get_watermark_offsets(self._topic.partition, timeout=self._topic.deadline_s)
            if self._next is None:
                (position,) = consumer.committed([self._topic.partition], timeout=self._topic.deadline_s)
                self._next = position.offset if position.offset >= 0 else first
            begin = max(first, self._next - REMEMBERED)
            self._known.clear()
            for message in _between(consumer, self._topic, begin, self._next):
                if record := _record(message):
                    self._remember(record, _offset(message))
            consumer.assign([_at(self._topic, self._next)])
            self._consumer = consumer
        return self._consumer

    def _page(self, limit: int) -> list[Message]:
        consumer = self._opened()
        try:
            page = _sound(consumer.consume(min(PAGE, limit), timeout=self._poll_s))
        except KafkaException:
            self._consumer = None  # it is behind what stood beside the error, which nobody has read
            consumer.close()
            raise
        _, last = consumer.get_watermark_offsets(self._topic.partition, cached=True)
        if page:
            self.waiting = max(0, last - _offset(page[-1]) - 1)
        return page

    def _commit(self, sequence: int) -> None:
        self._opened().commit(offsets=[_at(self._topic, sequence)], asynchronous=False)

    def _read(self, page: list[Message]) -> list[Stored]:
        assert self._next is not None
        if self._next:
            self.missed += _offset(page[0]) - self._next
        self._next = _offset(page[-1]) + 1
        return [stored for message in page if (stored := self._stored(message))]

    def _stored(self, message: Message) -> Stored | None:
        """None for what is no record and for what was sent before."""
        record = _record(message)
        if record is None:
            self.unreadable += 1
        elif self._remember(record, _offset(message)):
            return Stored(sequence=_offset(message) + 1, record=record)
        else:
            self.repeated += 1
        return None

    def _remember(self, record: Record, offset: int) -> bool:
        """Whether no record of its id stands among the REMEMBERED before it."""
        before = self._known.pop(record.id, None)
        self._known[record.id] = offset
        while next(iter(self._known.values())) < offset - REMEMBERED:
            self._known.popitem(last=False)
        return before is None or before < offset - REMEMBERED


def _told(topic: Topic, doing: str, action: Callable[[], T]) -> T:
    """What the action returns; ServingError where Kafka fails."""
    try:
        return action()
    except KafkaException as error:
        raise topic.away(doing, error) from None


def _settle(delivered: "asyncio.Future[None]", error: KafkaError | None) -> None:
    if delivered.done():
        return
    if error is None:
        delivered.set_result(None)
    else:
        delivered.set_exception(KafkaException(error))


def _consumer(topic: Topic, name: str) -> Consumer:
    """It commits nothing by itself."""
    settings = {"group.id": name, "enable.auto.commit": False, "auto.offset.reset": "earliest"}
    return Consumer({**topic.connection, "fetch.message.max.bytes": MAX_MESSAGE_BYTES, **settings})


def _at(topic: Topic, offset: int) -> TopicPartition:
    return TopicPartition(topic.name, PARTITION, offset if offset > 0 else OFFSET_BEGINNING)


def _between(consumer: Consumer, topic: Topic, begin: int, end: int) -> Iterator[Message]:
    """Messages of the offsets from `begin` to before `end`; KafkaException when they do not come in time."""
    if begin >= end:
        return
    consumer.assign([_at(topic, begin)])
    until = time.monotonic() + topic.read_deadline_s
    while begin < end:
        page = _sound(consumer.consume(min(PAGE, end - begin), timeout=POLL_S))
        if not page and time.monotonic() > until:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        yield from page
        begin = _offset(page[-1]) + 1 if page else begin


def _ids_since(topic: Topic, timestamp: float) -> set[str]:
    """Page by page from the end backwards."""
    consumer, ids = _consumer(topic, "ids"), set[str]()
    try:
        first, end = consumer.get_watermark_offsets(topic.partition, timeout=topic.deadline_s)
        while first < end:
            begin = max(first, end - PAGE)
            page = list(_between(consumer, topic, begin, end))
            late = [message for message in page if message.timestamp()[1] >= 1_000 * timestamp]
            ids |= {record.id for message in late if (record := _record(message))}
            end = begin if len(late) == len(page) else first
        return ids
    finally:
        consumer.close()


def _sound(messages: list[Message]) -> list[Message]:
    """KafkaException for the first that is an error."""
    for message in messages:
        if (error := message.error()) is not None:
            raise KafkaException(error)
    return messages


def _offset(message: Message) -> int:
    """Every message that was delivered has one."""
    offset = message.offset()
    assert offset is not None
    return offset


def _record(message: Message) -> Record | None:
    """None for what somebody else put there."""
    try:
        return Record.from_json(message.value() or b"")
    except (ValueError, TypeError):
        return None
