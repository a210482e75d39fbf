"""What the tests of the event log share: a broker of their own, records, and a way to wait."""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from recsys.contracts import Event
from serving.events.connection import Stream
from serving.events.jetstream import JetStreamReader
from serving.events.nats_server import NatsServer
from serving.events.record import Record, StoredRecord

Until = Callable[[Callable[[], bool]], Awaitable[None]]
Feedback = Callable[[int], Record]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def stream(broker: NatsServer) -> Stream:
    return Stream(server=broker.server, max_bytes=64 << 20, deadline_s=20.0, read_deadline_s=20.0)


@pytest.fixture(scope="session")
def feedback() -> Feedback:
    """The record of this number."""

    def feedback(number: int) -> Record:
        event = Event(user=f"u{number % 7}", item=f"i{number}", timestamp=1e9 + number, actions={"rating": number % 5})
        return Record.feedback(f"r{number}", event)

    return feedback


@pytest.fixture(scope="session")
def until() -> Until:
    """Wait for a condition; an AssertionError when it does not come true."""

    async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "it did not come true"
            await asyncio.sleep(0.01)

    return until


@pytest.fixture(scope="session")
def read_all() -> Callable[[Stream, int], list[StoredRecord]]:
    """The first `count` records of the log, by a reader of a name of its own, and that no more are there."""

    async def read(stream: Stream, count: int) -> list[StoredRecord]:
        reader = JetStreamReader(stream, name="all-of-them")
        found: list[StoredRecord] = []
        try:
            while len(found) < count:
                found += await reader.fetch()
        finally:
            await reader.close()
        assert reader.waiting == 0
        return found

    return lambda stream, count: asyncio.run(asyncio.wait_for(read(stream, count), 60))


@pytest.fixture(scope="session")
def halt() -> Callable[[NatsServer], None]:
    """Stop the process where it stands; it keeps its connections and says nothing."""

    def halt(broker: NatsServer) -> None:
        os.kill(broker.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 30
        while Path(f"/proc/{broker.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < deadline, "it did not stop"

    return halt


@pytest.fixture(scope="session")
def kill() -> Callable[[NatsServer], None]:
    """kill -9, and wait for it; `start` brings the broker back."""

    def kill(broker: NatsServer) -> None:
        os.kill(broker.pid, signal.SIGKILL)
        broker.stop()

    return kill


@pytest.fixture(scope="session")
def ids() -> Callable[[Sequence[StoredRecord]], list[str]]:
    return lambda batch: [stored.record.id for stored in batch]
