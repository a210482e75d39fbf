"""The event log in NATS JetStream: append, read in order from any place, remember how far one has read.

Readers ask for "the next records from this sequence on" (JetStream's direct get) and keep their position themselves. A
consumer on the broker's side would hand out the records behind a batch that nobody acknowledged before that batch comes
again; what folds records in order, as the user states do, would pass it by.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.js.api import StreamState
from nats.js.errors import KeyNotFoundError

from serving.events.batch import Batching, Page
from serving.events.connection import Connection, Link, Stream
from serving.events.publishing import ID
from serving.events.record import Record, Stored

SEQUENCE = "Nats-Sequence"
WAITING = "Nats-Num-Pending"
PAGE = 1_000
PAGE_BYTES = 16 << 20
FULL, KEPT = 0.5, 0.25
"""shares of the bytes of a log; what goes is in the states and in Parquet"""
STATUS = "Status"
END = ("204", "404")
"""what follows the last record of an answer, and what is said where there is none"""


class JetStreamWriter:
    """Appends to the log of `stream`; connects with the first call."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._connection = Connection(stream)

    @property
    def duplicate_window_s(self) -> float:
        """For so long a record that comes again is known by its id."""
        return self.stream.duplicate_window_s

    async def append(self, records: Sequence[Record], *, deadline_s: float = 0.0) -> None:
        """Return when the broker has acknowledged every record; ServingError otherwise, after `deadline_s` at the latest.

        0 stands for the deadline of the stream. After an error some records may be in the log, sending them again does
        no harm within the duplicate window.
        """
        messages = [(f"{self.stream.name}.{record.kind}", record.to_json(), record.id) for record in records]

        async def publish(link: Link) -> None:
            await link.publisher.publish(messages)

        await self._connection.call(f"acknowledge {len(messages)} records", publish, deadline_s)

    async def check(self) -> None:
        """ServingError unless the broker answers and has the log."""

        async def ask(link: Link) -> None:
            await link.jetstream.stream_info(self.stream.name)

        await self._connection.call("answer", ask)

    async def ids_since(self, timestamp: float) -> set[str]:
        """The ids of all records that came into the log at this time (unix seconds, the broker's clock) or later."""
        ids: set[str] = set()
        start: dict[str, Any] = {"start_time": datetime.fromtimestamp(timestamp, UTC).isoformat()}
        while page := await _page(self._connection, start, PAGE):
            ids |= {message.headers[ID] for message in page if message.headers and ID in message.headers}
            start = {"seq": _sequence(page[-1]) + 1}
        return ids

    async def close(self) -> None:
        await self._connection.close()


class JetStreamReader:
    """Reads the log of `stream` in order, from where a reader of this `name` acknowledged last.

    A batch has at most `limit` records and `limit_bytes`; it is complete `linger_s` after its first record, with what the
    looks found that are `poll_s` apart. One process a name. `waiting` counts the records behind the last batch; `missed` those
    that the log had removed before they were read; `unreadable` those that are no records, which are passed over; `looks`
    how often it asked.
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
        self.waiting = self.missed = self.unreadable = self.looks = 0
        self._batching = Batching(limit=limit, limit_bytes=limit_bytes, linger_s=linger_s)
        self._poll_s = poll_s
        self._connection = Connection(stream)
        self._next: int | None = None
        self._next_look = 0.0

    async def fetch(self) -> list[Stored]:
        """The next records, waited for. ServingError when the broker does not answer; the next call goes on there."""
        if self._next is None:
            self._next = await self._position() + 1
        return await self._batching.collect(self._look)

    async def acknowledge(self, sequence: int) -> None:
        """What comes up to here is done with: a reader of this name goes on behind it, after a restart as well."""

        async def put(link: Link) -> None:
            assert link.positions is not None
            await link.positions.put(self.name, str(sequence).encode())

        await self._connection.call("remember a position", put)

    def seek(self, sequence: int) -> None:
        """Go on from this sequence, 1 for the oldest record that there is."""
        self._next = sequence

    async def close(self) -> None:
        await self._connection.close()

    async def _look(self, limit: int) -> Page:
        """What is there, `poll_s` after the last look unless that left something."""
        await asyncio.sleep(max(0.0, self._next_look - time.monotonic()))
        page = await _page(self._connection, {"seq": self._next}, min(PAGE, limit))
        self.looks += 1
        self._next_look = 0.0 if len(page) == min(PAGE, limit) else time.monotonic() + self._poll_s
        return (
            Page(records=self._read(page), num_bytes=sum(len(message.data) for message in page), found=True)
            if page
            else Page()
        )

    async def _position(self) -> int:
        """The last sequence that was acknowledged, 0 at first."""

        async def get(link: Link) -> int:
            assert link.positions is not None
            try:
                return int((await link.positions.get(self.name)).value or b"0")
            except KeyNotFoundError:
                return 0

        return await self._connection.call("tell a position", get)

    def _read(self, page: list[Msg]) -> list[Stored]:
        first, last = _sequence(page[0]), _sequence(page[-1])
        assert self._next is not None
        if self._next > 1:
            self.missed += first - self._next
        self._next = last + 1
        self._connection.seen = max(self._connection.seen, last)
        self.waiting = int((page[-1].headers or {}).get(WAITING, 0))
        records = [(_sequence(message), _record(message)) for message in page]
        self.unreadable += sum(record is None for _, record in records)
        return [Stored(sequence=sequence, record=record) for sequence, record in records if record is not None]


class JetStreamRoom:
    """Keeps room in the log of `stream`: what all readers are done with goes when it fills, the oldest first."""

    def __init__(self, stream: Stream) -> None:
        self.num_bytes = 0
        """of the log when it was looked at last"""
        self.max_bytes = stream.max_bytes
        self._connection = Connection(stream)

    async def make(self, done: int) -> None:
        """Beyond FULL of its bytes the log is emptied down to about KEPT of them, never beyond the sequence `done`, up to which
        every reader has acknowledged. ServingError when the broker does not answer.
        """
        name = self._connection.stream.name

        async def ask(link: Link) -> StreamState:
            return (await link.jetstream.stream_info(name)).state

        state = await self._connection.call("tell how full it is", ask)
        self.num_bytes = state.bytes
        if state.bytes <= FULL * self.max_bytes or done < state.first_seq:
            return
        too_many = int(state.messages * (1 - KEPT * self.max_bytes / state.bytes))
        upto = min(done, state.first_seq + too_many - 1)

        async def purge(link: Link) -> None:
            await link.jetstream.purge_stream(name, seq=upto + 1)

        await self._connection.call("make room", purge)

    async def close(self) -> None:
        await self._connection.close()


async def _page(connection: Connection, start: dict[str, Any], limit: int) -> list[Msg]:
    """At most `limit` messages from `start` ({"seq"} or {"start_time"}) on, in order; none where there is none."""

    async def read(link: Link) -> list[Msg]:
        inbox = link.client.new_inbox()
        answers = await link.client.subscribe(inbox)
        request = json.dumps({**start, "batch": limit, "max_bytes": PAGE_BYTES}).encode()
        await link.client.publish(f"$JS.API.DIRECT.GET.{connection.stream.name}", request, reply=inbox)
        page: list[Msg] = []
        try:
            while SEQUENCE in (
                headers := (message := await answers.next_msg(connection.stream.read_deadline_s)).headers or {}
            ):
                page.append(message)
        finally:
            await answers.unsubscribe()
        if headers.get(STATUS) not in END:
            raise NoRespondersError
        return page

    return await connection.call("hand out records", read, connection.stream.read_deadline_s)


def _sequence(message: Msg) -> int:
    return int((message.headers or {})[SEQUENCE])


def _record(message: Msg) -> Record | None:
    """None for what somebody else put there."""
    try:
        return Record.from_json(message.data)
    except (ValueError, TypeError):
        return None
