"""The event log in NATS JetStream: append, read in order from any sequence, store reader positions.

Readers use JetStream's direct get ("records from this sequence on") and keep their position themselves. A consumer on the
broker's side would deliver later records before it redelivers an unacknowledged batch, which breaks the order that the
user states need.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.errors import APIError, KeyNotFoundError, NotFoundError

from recsys.errors import QueryError
from serving.events.batching import Batching, Page
from serving.events.connection import Connection, Link, Stream
from serving.events.publisher import MESSAGE_ID
from serving.events.publisher import Message as PublishedMessage
from serving.events.record import Record, StoredRecord
from serving.events.store_probe import PROBE

SEQUENCE = "Nats-Sequence"
TIME_STAMP = "Nats-Time-Stamp"
NUM_PENDING = "Nats-Num-Pending"
ABSENT = ("no message found", "deleted message")
"""answers to the erasure of a record that is not there"""
HEADER_BYTES = 256
"""of a message, at most"""
PAGE_RECORDS = 1_000
PAGE_BYTES = 16 << 20
STATUS = "Status"
SUBJECT = "Nats-Subject"
END_STATUSES = ("204", "404")
"""status of the message that ends a page, and of an empty page"""


class JetStreamWriter:
    """Append to the log of `stream`; connects with the first call."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._connection = Connection(stream)

    @property
    def duplicate_window_s(self) -> float:
        """Seconds within which the broker drops a record whose id it has."""
        return self.stream.duplicate_window_s

    async def append(self, records: Sequence[Record], *, deadline_s: float = 0.0) -> None:
        """Return when the broker has acknowledged every record; ServingError otherwise, after `deadline_s` at the latest.

        0 means the deadline of the stream. After an error some records may be in the log; resending them is harmless within
        the duplicate window. QueryError, and none is sent, for a record that the broker takes in no message.
        """
        messages = [(f"{self.stream.name}.{record.kind}", record.to_json(), record.id) for record in records]

        async def publish(link: Link) -> None:
            _check_sizes(messages, link.client.max_payload)
            await link.publisher.publish(messages)

        await self._connection.call(f"acknowledge {len(messages)} records", publish, deadline_s)

    async def check(self) -> None:
        """ServingError unless the broker answers and has the log."""

        async def fetch_info(link: Link) -> None:
            await link.jetstream.stream_info(self.stream.name)

        await self._connection.call("answer", fetch_info)

    async def ids_since(self, timestamp: float) -> set[str]:
        """Return the ids of all records appended at this time (unix seconds, the broker's clock) or later."""
        ids: set[str] = set()
        start: dict[str, Any] = {"start_time": datetime.fromtimestamp(timestamp, UTC).isoformat()}
        while page := await _fetch_page(self._connection, start, PAGE_RECORDS):
            ids |= {
                message.headers[MESSAGE_ID] for message in page if message.headers and MESSAGE_ID in message.headers
            }
            start = {"seq": _sequence(page[-1]) + 1}
        return ids

    async def close(self) -> None:
        await self._connection.close()


class JetStreamReader:
    """Read the log of `stream` in order, from the last acknowledged position of the reader `name`.

    A batch has at most `limit` records and `limit_bytes`; it is complete `linger_s` after its first record, polled every
    `poll_s`. One process a name. Counters: `waiting` records behind the last batch; `missed` records that the log removed
    before they were read; `unreadable` messages that are no records, which are skipped; `num_polls` requests to the broker.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        name: str,
        limit: int = 500,
        limit_bytes: int = 64 << 20,
        linger_s: float = 0.0,
        poll_s: float = 0.02,
    ) -> None:
        self.name = name
        self.waiting = self.missed = self.unreadable = self.num_polls = 0
        self._batching = Batching(limit=limit, limit_bytes=limit_bytes, linger_s=linger_s)
        self._poll_s = poll_s
        self._connection = Connection(stream)
        self._next: int | None = None
        self._next_poll = 0.0

    async def fetch(self) -> list[StoredRecord]:
        """Wait for and return the next records. ServingError when the broker does not answer; the next call resumes there."""
        if self._next is None:
            self._next = await self._position() + 1
        return await self._batching.collect(self._poll)

    async def acknowledge(self, sequence: int) -> None:
        """Store the position durably: a reader of this name resumes behind `sequence`, also after a restart."""

        async def put(link: Link) -> None:
            assert link.positions is not None
            await link.positions.put(self.name, str(sequence).encode())

        await self._connection.call("store a position", put)

    def seek(self, sequence: int) -> None:
        """Continue from this sequence; 1 is the oldest stored record."""
        self._next = sequence

    async def close(self) -> None:
        await self._connection.close()

    async def _poll(self, limit: int) -> Page:
        """Fetch one page, `poll_s` after the last poll unless that page was full."""
        await asyncio.sleep(max(0.0, self._next_poll - time.monotonic()))
        page = await _fetch_page(self._connection, {"seq": self._next}, min(PAGE_RECORDS, limit))
        self.num_polls += 1
        self._next_poll = 0.0 if len(page) == min(PAGE_RECORDS, limit) else time.monotonic() + self._poll_s
        return (
            Page(records=self._read(page), num_bytes=sum(len(message.data) for message in page), has_messages=True)
            if page
            else Page()
        )

    async def _position(self) -> int:
        """Last acknowledged sequence, 0 for a new reader."""

        async def get(link: Link) -> int:
            assert link.positions is not None
            try:
                return int((await link.positions.get(self.name)).value or b"0")
            except KeyNotFoundError:
                return 0

        return await self._connection.call("return a position", get)

    def _read(self, page: list[Msg]) -> list[StoredRecord]:
        first, last = _sequence(page[0]), _sequence(page[-1])
        assert self._next is not None
        if self._next > 1:
            self.missed += first - self._next
        self._next = last + 1
        self._connection.last_sequence = max(self._connection.last_sequence, last)
        self.waiting = int((page[-1].headers or {}).get(NUM_PENDING, 0))
        records = [(_sequence(message), _record(message)) for message in page if not _is_probe(message)]
        self.unreadable += sum(record is None for _, record in records)
        return [StoredRecord(sequence=sequence, record=record) for sequence, record in records if record is not None]


class JetStreamEraser:
    """Erases records from the log of `stream`, which overwrites them on its disk. A `LogEraser`."""

    def __init__(self, stream: Stream) -> None:
        self._connection = Connection(stream)

    async def erase(self, sequences: Sequence[int]) -> None:
        name = self._connection.stream.name
        for sequence in sequences:

            async def delete(link: Link, sequence: int = sequence) -> None:
                try:
                    await link.jetstream.delete_msg(name, sequence)
                except APIError as error:
                    if error.description not in ABSENT:
                        raise

            await self._connection.call("erase a record", delete)

    async def erase_all(self, chosen: Callable[[Record, float], bool]) -> int:
        start, number = 1, 0
        if not await self._connection.call("describe its log", self._has_log):
            return 0
        while page := await _fetch_page(self._connection, {"seq": start}, PAGE_RECORDS):
            found = [
                _sequence(message)
                for message in page
                if (record := _record(message)) is not None and chosen(record, _arrived(message))
            ]
            await self.erase(found)
            start, number = _sequence(page[-1]) + 1, number + len(found)
        return number

    async def close(self) -> None:
        await self._connection.close()

    async def _has_log(self, link: Link) -> bool:
        try:
            await link.jetstream.stream_info(self._connection.stream.name)
        except NotFoundError:
            return False
        return True


def _check_sizes(messages: Sequence[PublishedMessage], most: int) -> None:
    for _, payload, id in messages:
        if len(payload) + HEADER_BYTES > most:
            raise QueryError(
                f"the record {id!r} has {len(payload)} bytes and the broker takes messages of {most}; raise its max_payload"
            )


async def _fetch_page(connection: Connection, start: dict[str, Any], limit: int) -> list[Msg]:
    """Return at most `limit` messages from `start` ({"seq"} or {"start_time"}) on, in order."""

    async def read(link: Link) -> list[Msg]:
        inbox = link.client.new_inbox()
        subscription = await link.client.subscribe(inbox)
        request = json.dumps({**start, "batch": limit, "max_bytes": PAGE_BYTES}).encode()
        await link.client.publish(f"$JS.API.DIRECT.GET.{connection.stream.name}", request, reply=inbox)
        page: list[Msg] = []
        try:
            while SEQUENCE in (
                headers := (message := await subscription.next_msg(connection.stream.read_deadline_s)).headers or {}
            ):
                page.append(message)
        finally:
            await subscription.unsubscribe()
        if headers.get(STATUS) not in END_STATUSES:
            raise NoRespondersError
        return page

    return await connection.call("return records", read, connection.stream.read_deadline_s)


def _sequence(message: Msg) -> int:
    return int((message.headers or {})[SEQUENCE])


def _is_probe(message: Msg) -> bool:
    return (message.headers or {}).get(SUBJECT, "").endswith(f".{PROBE}")


def _arrived(message: Msg) -> float:
    """Unix seconds at which the broker stored the message."""
    return datetime.fromisoformat((message.headers or {})[TIME_STAMP]).timestamp()


def _record(message: Msg) -> Record | None:
    """None for a message that is no record, from another publisher."""
    try:
        return Record.from_json(message.data)
    except (ValueError, TypeError):
        return None
