"""The log as the gateway writes it: nothing that was acknowledged is lost, each record counts once, in order."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from recsys.errors import QueryError, ServingError
from serving.events import nats_server, spool
from serving.events.connection import Stream
from serving.events.jetstream import JetStreamWriter
from serving.events.nats_server import NatsServer
from serving.events.record import Record
from serving.events.spool import Spool
from serving.events.writer import MAX_RECORD_BYTES, EventLogWriter


def opened(stream, folder, **limits):
    return EventLogWriter(broker=JetStreamWriter(stream), spool=Spool(folder, **limits))


def test_while_the_broker_is_there_nothing_is_spooled(stream, tmp_path, feedback, read_all, ids):
    async def write():
        async with opened(stream, tmp_path / "spool") as log:
            for number in range(5):
                await log.append([feedback(number)])
            return log.spooled, log.drained, log.rejected, log.spool_bytes, log.direct

    assert asyncio.run(write()) == (0, 0, 0, 0, True)
    assert ids(read_all(stream, 5)) == [f"r{number}" for number in range(5)]


def test_the_spool_bridges_an_absence_in_order_and_once(broker, stream, tmp_path, feedback, read_all, ids, until, kill):
    async def write():
        async with opened(stream, tmp_path / "spool") as log:
            await log.append([feedback(number) for number in range(5)])
            kill(broker)
            for number in range(5, 25):
                await log.append([feedback(number)])
            spooled, size, direct = log.spooled, log.spool_bytes, log.direct
            await log.append([feedback(24)])
            assert stream.url in log.problem
            await asyncio.to_thread(broker.start)
            await until(lambda: log.direct)
            await log.append([feedback(25)])
            return spooled, size > 0, direct, log.drained, log.spool_bytes, log.problem

    assert asyncio.run(write()) == (20, True, False, 21, 0, None)
    found = ids(read_all(stream, 26))
    assert sorted(found[:5]) == [f"r{number}" for number in range(5)]
    assert found[5:] == [f"r{number}" for number in range(5, 26)]


def test_new_records_go_behind_those_that_wait(broker, stream, tmp_path, feedback, read_all, ids, until, kill):
    async def write():
        async with opened(stream, tmp_path / "spool", segment_bytes=2_000) as log:
            kill(broker)
            for number in range(600):
                await log.append([feedback(number)])
            await asyncio.to_thread(broker.start)
            number = 600
            while not log.direct and number < 20_000:
                await log.append([feedback(number)])
                number += 1
            assert log.direct
            await log.append([feedback(number)])
            return number + 1

    count = asyncio.run(write())
    assert ids(read_all(stream, count)) == [f"r{number}" for number in range(count)]


@pytest.mark.parametrize(
    ("window_s", "ahead_s"),
    [(600.0, 0.0), (1.0, 0.0), (1.0, 3_600.0)],
    ids=["the broker remembers", "the broker has forgotten", "and the clock was set back since"],
)
def test_a_record_that_reached_both_counts_once(
    broker, stream, tmp_path, feedback, read_all, ids, until, halt, monkeypatch, window_s, ahead_s
):
    """A halted broker stores what was sent when it wakes, after its gateway has spooled the same and ended."""
    stream = replace(stream, duplicate_window_s=window_s)
    monkeypatch.setattr(spool, "time", SimpleNamespace(time=lambda: time.time() + ahead_s))

    async def first_life():
        async with opened(replace(stream, deadline_s=0.5), tmp_path / "spool") as log:
            await log.append([feedback(0)])
            halt(broker)
            await log.append([feedback(number) for number in range(1, 50)])
            return log.spooled

    async def second_life():
        writer = JetStreamWriter(stream)
        while len(await writer.ids_since(0.0)) < 50:
            pass
        await writer.close()
        forgotten = time.monotonic() + window_s * (window_s < 10)
        await until(lambda: time.monotonic() > forgotten)
        async with opened(stream, tmp_path / "spool") as log:
            await log.append([feedback(50)])
            await until(lambda: log.direct)
            return log.drained

    assert asyncio.run(first_life()) == 49
    os.kill(broker.pid, signal.SIGCONT)
    assert asyncio.run(asyncio.wait_for(second_life(), 60)) == 50
    found = ids(read_all(stream, 51))
    assert sorted(found) == sorted(f"r{number}" for number in range(51))


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), KeyError("a defect")], ids=["disk", "defect"])
def test_what_fails_for_a_moment_does_not_end_the_draining(
    broker, stream, tmp_path, feedback, read_all, ids, until, monkeypatch, error
):
    broker.stop()
    looked = []

    def refusing(spooled, limit):
        looked.append(limit)
        if len(looked) < 3:
            raise error
        return look(spooled, limit)

    look = Spool._read_oldest

    async def write():
        async with opened(replace(stream, deadline_s=0.5), tmp_path / "spool") as log:
            await log.append([feedback(number) for number in range(10)])
            monkeypatch.setattr(Spool, "_read_oldest", refusing)
            await asyncio.to_thread(broker.start)
            await until(lambda: log.direct)

    asyncio.run(write())
    assert ids(read_all(stream, 10)) == [f"r{number}" for number in range(10)]


def test_what_is_spooled_survives_the_process(broker, stream, tmp_path, feedback, read_all, ids, until):
    broker.stop()

    async def first_life():
        async with opened(replace(stream, deadline_s=0.5), tmp_path / "spool") as log:
            await log.append([feedback(number) for number in range(10)])
            await log.append([feedback(3)])

    async def second_life():
        async with opened(stream, tmp_path / "spool") as log:
            assert not log.direct
            await log.append([feedback(10)])
            await until(lambda: log.direct)
            return log.drained

    asyncio.run(first_life())
    broker.start()
    assert asyncio.run(second_life()) == 12
    assert ids(read_all(stream, 11)) == [f"r{number}" for number in range(11)]


def test_when_neither_can_take_it_that_is_said_and_counted(broker, stream, tmp_path, feedback):
    broker.stop()

    async def write():
        async with opened(stream, tmp_path / "spool", max_bytes=500) as log:
            await log.append([feedback(0)])
            with pytest.raises(ServingError, match=f"has reached its 500 bytes.*{stream.url}"):
                await log.append([feedback(number) for number in range(1, 4)])
            return log.spooled, log.rejected

    assert asyncio.run(write()) == (1, 3)


def test_a_record_that_no_broker_takes_is_refused_at_once(stream, tmp_path):
    large = Record(id="x", kind="feedback", user="u", timestamp=1.0, body={"item": "a" * MAX_RECORD_BYTES})

    async def write():
        async with opened(stream, tmp_path / "spool") as log:
            with pytest.raises(QueryError, match=f"at most {MAX_RECORD_BYTES} are accepted"):
                await log.append([large])
            return log.rejected, log.direct, log.spool_bytes

    assert asyncio.run(write()) == (1, True, 0)


def test_a_record_that_the_broker_never_takes_holds_up_no_other(tmp_path, feedback, read_all, ids, until, monkeypatch):
    """A broker of one's own takes messages of 1 MiB unless told otherwise; the record came while it was away."""
    monkeypatch.setattr(nats_server, "MAX_PAYLOAD", 64 << 10)
    large = Record(id="x", kind="feedback", user="u", timestamp=1.0, body={"item": "a" * (64 << 10)})
    with NatsServer(tmp_path / "broker") as broker:
        stream = Stream(server=broker.server, max_bytes=64 << 20, deadline_s=20.0, read_deadline_s=20.0)

        async def write():
            async with opened(stream, tmp_path / "spool") as log:
                with pytest.raises(QueryError, match="the broker takes messages of 65536; raise its max_payload"):
                    await log.append([feedback(0), large])
                assert log.direct
                await asyncio.to_thread(broker.stop)
                await log.append([feedback(1), large, feedback(2)])
                await asyncio.to_thread(broker.start)
                await until(lambda: log.direct)
                await log.append([feedback(3)])
                return log.rejected, log.spool_bytes

        assert asyncio.run(write()) == (3, 0)
        assert ids(read_all(stream, 3)) == ["r1", "r2", "r3"]


GATEWAY = """
import asyncio, sys
from pathlib import Path
from recsys.contracts import Event
from serving.endpoints import Server
from serving.events.connection import Stream
from serving.events.jetstream import JetStreamWriter
from serving.events.writer import EventLogWriter
from serving.events.record import Record
from serving.events.spool import Spool

async def append(log, worker):
    for number in range(100_000):
        name = f"{worker}-{number}"
        await log.append([Record.feedback(name, Event(user="u", item="i", timestamp=1e9))])
        print(name, flush=True)

async def main():
    broker = JetStreamWriter(Stream(server=Server(url=sys.argv[1], token=sys.argv[3]), max_bytes=64 << 20, deadline_s=2.0))
    async with EventLogWriter(broker=broker, spool=Spool(Path(sys.argv[2]))) as log:
        await asyncio.gather(*[append(log, worker) for worker in range(4)])

asyncio.run(main())
"""


def test_all_that_a_killed_gateway_acknowledged_is_in_the_log(broker, stream, tmp_path, root, until, kill):
    """The broker is killed under it, comes back while it writes, is killed again, then the gateway itself."""
    process = subprocess.Popen(
        [sys.executable, "-c", GATEWAY, stream.url, str(tmp_path / "spool"), stream.server.token],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(100)]
        kill(broker)
        said += [process.stdout.readline() for _ in range(100)]
        broker.start()
        said += [process.stdout.readline() for _ in range(400)]
        kill(broker)
        said += [process.stdout.readline() for _ in range(50)]
        process.send_signal(signal.SIGKILL)
        said += list(process.stdout)
    broker.start()

    async def rest():
        async with opened(stream, tmp_path / "spool") as log:
            await until(lambda: log.direct)
        writer = JetStreamWriter(stream)
        found = await writer.ids_since(0.0)
        await writer.close()
        return found

    acknowledged = {line.strip() for line in said if line.endswith("\n")}
    assert len(acknowledged) >= 650
    assert acknowledged <= asyncio.run(rest())
