"""A broker whose disk is full: said, waited for, and started again when there is room, since JetStream keeps its error."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from recsys.errors import ServingError
from serving.disk import DiskSizes, disk_problem
from serving.events.connection import Stream
from serving.events.jetstream import JetStreamReader, JetStreamWriter
from serving.events.nats_server import NatsServer
from serving.events.record import Record
from serving.layout import DeploymentLayout
from serving.ops.supervisor import Guard, RestartPolicy
from serving.processes import until

SIZE, LOG = 64 << 20, 16 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a disk of its own needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            with suppress(OSError):
                while stream.write(bytes(size)) == size:
                    pass


def appended(stream: Stream, records: list) -> None:
    async def append() -> None:
        writer = JetStreamWriter(stream)
        try:
            await writer.append(records)
        finally:
            await writer.close()

    asyncio.run(append())


def latched(stream: Stream, feedback: Callable[[int], Record]) -> bool:
    """Append on one connection until the broker takes no more; whether that came."""

    async def append() -> bool:
        writer = JetStreamWriter(replace(stream, deadline_s=1.0))
        try:
            for number in range(200, 400):
                try:
                    await writer.append([feedback(number)])
                except ServingError:
                    return True
            return False
        finally:
            await writer.close()

    return asyncio.run(append())


def test_a_broker_is_started_again_when_its_disk_has_room_and_not_before(disk, tmp_path, feedback) -> None:
    with NatsServer(disk / "broker", log=tmp_path / "nats.log", max_bytes=LOG) as broker:
        stream = Stream(server=broker.server, max_bytes=LOG, deadline_s=5.0, read_deadline_s=20.0)
        appended(stream, [feedback(number) for number in range(50)])
        reports: list[str] = []
        policy = RestartPolicy(max_silence_s=0.0, first_pause_s=0.0, max_pause_s=0.0)
        guard = Guard(broker, reports.append, policy=policy)
        guard.check()
        assert (guard.fault, guard.num_restarts) == (None, 0)
        fill(disk / "filling")
        assert latched(stream, feedback)
        assert until(lambda: guard.check() or "is full" in str(guard.fault), 60)
        guard.check()
        assert guard.num_restarts == 0
        assert any("free some space there" in report for report in reports)
        (disk / "filling").unlink()
        assert until(lambda: guard.check() or guard.fault is None, 60)
        appended(stream, [feedback(number) for number in range(100, 103)])
        found = kept(stream, "r102")
        assert {f"r{number}" for number in (*range(50), 100, 101, 102)} <= set(found)
        assert len(found) == len(set(found))


def kept(stream: Stream, last: str) -> list[str]:
    """Ids of the log up to this one."""

    async def read() -> list[str]:
        reader, found = JetStreamReader(stream, name="kept"), [""]
        while last not in found:
            found += [one.record.id for one in await reader.fetch()]
        await reader.close()
        return found[1:]

    return asyncio.run(asyncio.wait_for(read(), 60))


def test_probes_are_no_records(broker, stream, feedback, until) -> None:
    appended(stream, [feedback(1)])
    assert broker.probe() is None
    broker._next_store_probe = 0.0
    assert broker.probe() is None
    appended(stream, [feedback(2)])

    async def read() -> JetStreamReader:
        reader = JetStreamReader(stream, name="probes")
        found = [one.record.id for one in await reader.fetch()]
        while len(found) < 2:
            found += [one.record.id for one in await reader.fetch()]
        assert found == ["r1", "r2"]
        await reader.close()
        return reader

    reader = asyncio.run(read())
    assert (reader.unreadable, reader.missed) == (0, 0)


def test_a_log_fits_its_disk_and_one_that_is_smaller_than_its_records_loses_none(
    disk, tmp_path, feedback, read_all
) -> None:
    sizes = DiskSizes.fitting(DeploymentLayout(serve=disk, live=disk / "live"))
    assert (sizes.log, sizes.spool) == (SIZE // 2, SIZE // 4)
    with NatsServer(disk / "broker", log=tmp_path / "nats.log", max_bytes=sizes.log) as broker:
        stream = Stream(server=broker.server, max_bytes=sizes.log, deadline_s=5.0)
        appended(stream, [feedback(number) for number in range(500)])
        assert len(read_all(replace(stream, max_bytes=10_000), 500)) == 500


def test_a_disk_that_is_too_small_is_refused_and_a_full_one_is_named(disk) -> None:
    assert disk_problem(disk / "not yet" / "there") is None
    fill(disk / "filling")
    assert disk_problem(disk) == f"the disk of {disk} is full (0.0 MiB are free); free some space there"
    with pytest.raises(ServingError, match=r"the event log at .* has room for 0 MiB, at least 32 MiB are needed"):
        DiskSizes.fitting(DeploymentLayout(serve=disk, live=disk / "live"))
