"""The spool: what it took is there after any crash, what it refused is not, and nothing half-written is a record."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ServingError
from serving.events.spool import Spool


def spooled(folder, *batches, **limits):
    """Append the batches at the same time."""

    async def append():
        spool = Spool(folder, **limits)
        try:
            await asyncio.gather(*[spool.append(batch) for batch in batches])
        finally:
            await spool.close()

    asyncio.run(append())


def drained(folder, limit=1_000):
    """(ids in their order, damaged lines) of a spool that is emptied."""

    async def drain():
        spool, found = Spool(folder), []
        while batch := await spool.peek(limit):
            found += [one.record.id for one in batch]
            await spool.release()
        assert spool.empty
        assert spool.num_bytes == 0
        await spool.close()
        return found, spool.damaged

    return asyncio.run(drain())


def segments(folder):
    return sorted(folder.glob("0*.spool"))


@pytest.mark.parametrize("limit", [1, 3, 1_000])
def test_records_come_back_in_their_order_over_several_segments(tmp_path, feedback, limit):
    batches = [[feedback(10 * batch + number) for number in range(10)] for batch in range(6)]
    for batch in batches:
        spooled(tmp_path, batch, segment_bytes=500)
    assert len(segments(tmp_path)) == 6
    assert drained(tmp_path, limit) == ([record.id for batch in batches for record in batch], 0)
    assert segments(tmp_path) == []


def test_records_of_an_earlier_process_are_known_at_once_but_not_impressions(tmp_path, feedback):
    shown = replace(feedback(2), id="shown", kind="impression", body={"query": {}, "slate": {}})
    spooled(tmp_path, [feedback(0), shown, feedback(1)], [feedback(3)])
    spool = Spool(tmp_path)
    assert [record.id for record in spool.recovered] == [feedback(number).id for number in (0, 1, 3)]
    asyncio.run(spool.close())


def test_one_synchronisation_serves_all_who_wait(tmp_path, feedback, monkeypatch):
    calls, fsync = [], __import__("os").fsync
    monkeypatch.setattr(
        "serving.events.spool.os.fsync", lambda descriptor: calls.append(descriptor) or fsync(descriptor)
    )
    spooled(tmp_path, *[[feedback(number)] for number in range(200)])
    assert len(calls) <= 4  # of the file twice at most, of the folder when it was begun
    assert len(drained(tmp_path)[0]) == 200


def test_what_was_not_taken_away_comes_again(tmp_path, feedback):
    spooled(tmp_path, [feedback(number) for number in range(5)])

    async def look():
        spool = Spool(tmp_path)
        first = await spool.peek(2)
        same = await spool.peek(2)
        await spool.release()
        rest = await spool.peek(10)
        await spool.close()
        return [[one.record.id for one in batch] for batch in (first, same, rest)]

    assert asyncio.run(look()) == [["r0", "r1"], ["r0", "r1"], ["r2", "r3", "r4"]]
    assert len(drained(tmp_path)[0]) == 5  # nobody remembers what was taken away of a segment: the log knows the ids


def test_what_comes_while_it_is_emptied_goes_behind(tmp_path, feedback):
    async def mixed():
        spool, found = Spool(tmp_path, segment_bytes=300), []
        for number in range(20):
            await spool.append([feedback(2 * number), feedback(2 * number + 1)])
            found += [one.record.id for one in await spool.peek(1)]
            await spool.release()
        while batch := await spool.peek(7):
            found += [one.record.id for one in batch]
            await spool.release()
        await spool.close()
        return found

    assert asyncio.run(mixed()) == [f"r{number}" for number in range(40)]


@given(cut=st.integers(min_value=0))
def test_a_torn_tail_is_cut_and_the_rest_is_whole(tmp_path_factory, feedback, cut):
    folder = tmp_path_factory.mktemp("spool")
    spooled(folder, [feedback(number) for number in range(4)])
    (segment,) = segments(folder)
    data = segment.read_bytes()
    kept = data[: cut % (len(data) + 1)]
    segment.write_bytes(kept)
    whole = [f"r{number}" for number in range(kept.count(b"\n"))]
    spooled(folder, [feedback(9)])
    assert drained(folder) == ([*whole, "r9"], 0)


@given(place=st.integers(min_value=0), byte=st.integers(0, 255))
def test_a_damaged_line_costs_no_other(tmp_path_factory, feedback, place, byte):
    folder = tmp_path_factory.mktemp("spool")
    spooled(folder, [feedback(number) for number in range(4)])
    (segment,) = segments(folder)
    data = bytearray(segment.read_bytes())
    place %= len(data)
    hit = data[:place].count(b"\n")
    data[place] = byte
    segment.write_bytes(data)
    found, _ = drained(folder)
    others = [f"r{number}" for number in range(4) if number not in (hit, hit + 1)]
    assert [one for one in found if one in others] == others
    assert set(found) <= {f"r{number}" for number in range(4)}


def test_damage_in_between_is_counted(tmp_path, feedback):
    spooled(tmp_path, [feedback(number) for number in range(3)])
    (segment,) = segments(tmp_path)
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(lines[0] + lines[1].replace(b"u1", b"u2") + lines[2])
    assert drained(tmp_path) == (["r0", "r2"], 1)


@pytest.mark.parametrize("damage", ["cut", "emptied", "removed", "garbage"])
def test_a_segment_that_is_damaged_while_it_is_in_use_is_said_and_holds_up_nobody(tmp_path, feedback, caplog, damage):
    """Records that were there and are gone are lost; all that come later are kept."""

    async def work():
        spool = Spool(tmp_path)
        await spool.append([feedback(number) for number in range(4)])
        (segment,) = segments(tmp_path)
        match damage:
            case "cut":
                os.truncate(segment, segment.stat().st_size // 2)
            case "emptied":
                os.truncate(segment, 0)
            case "removed":
                segment.unlink()
            case "garbage":
                segment.write_bytes(bytes(range(256))[: segment.stat().st_size] * 20)
        found = []
        while batch := await spool.peek(10):
            found += [one.record.id for one in batch]
            await spool.release()
        await spool.append([feedback(9)])
        found += [one.record.id for one in await spool.peek(10)]
        await spool.release()
        assert spool.empty
        await spool.close()
        return found, spool.damaged

    found, damaged = asyncio.run(asyncio.wait_for(work(), 60))
    assert found[-1] == "r9"
    assert set(found) <= {"r0", "r1", "r9"}
    assert damaged > 0
    assert "damaged lines are left out" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\x00" * 4096, b"no record\nat all\n"])
def test_a_segment_of_nothing_but_damage_does_not_keep_a_spool_from_opening(tmp_path, feedback, content):
    spooled(tmp_path, [feedback(1)])
    (tmp_path / "000000000000.spool").write_bytes(content)
    (tmp_path / "copy of 1.spool").write_bytes(content)
    assert drained(tmp_path) == (["r1"], 0)
    assert (tmp_path / "copy of 1.spool").exists()


def test_a_full_spool_refuses_and_is_taken_up_again_when_there_is_room(tmp_path, feedback):
    async def fill():
        spool, taken = Spool(tmp_path, max_bytes=3_000, segment_bytes=1_000), []
        for number in range(100):
            try:
                await spool.append([feedback(number)])
                taken.append(f"r{number}")
            except ServingError as error:
                assert "has reached its 3000 bytes" in str(error)  # noqa: PT017
        assert spool.num_bytes <= 3_000
        while await spool.peek(1_000):
            await spool.release()
        await spool.append([feedback(100)])
        rest = [one.record.id for one in await spool.peek(5)]
        await spool.close()
        return taken, rest

    taken, rest = asyncio.run(fill())
    assert 5 < len(taken) < 100
    assert rest == ["r100"]


def test_a_folder_has_one_process(tmp_path):
    async def twice():
        spool = Spool(tmp_path)
        try:
            with pytest.raises(ServingError, match="in use by another process"):
                Spool(tmp_path)
        finally:
            await spool.close()
        await Spool(tmp_path).close()

    asyncio.run(twice())


ON_A_FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from recsys.contracts import Event
from recsys.errors import ServingError
from serving.events.record import Record
from serving.events.spool import Spool

def record(number):
    return Record.feedback(f"r{number}", Event(user="u", item="i", timestamp=1e9 + number))

async def main():
    spool = Spool(Path(sys.argv[1]))
    for number in range(40):
        if number == 30:  # there is room again
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        try:
            await spool.append([record(number)])
            print("taken", number)
        except ServingError as error:
            print("refused", number, error)
    await spool.close()

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
asyncio.run(main())
"""


def test_a_full_disk_is_an_error_and_leaves_no_half_record(tmp_path, root):
    """No file may grow beyond 1000 bytes: a write that crosses them is cut, as on a disk that is full."""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    answer = python(root, ON_A_FULL_DISK, tmp_path)
    words = [line.split() for line in answer.splitlines()]
    refused = [f"r{one[1]}" for one in words if one[0] == "refused"]
    taken = [f"r{one[1]}" for one in words if one[0] == "taken"]
    assert refused
    assert "cannot be written (File too large); free some space there" in answer
    assert taken[-10:] == [f"r{number}" for number in range(30, 40)]
    assert drained(tmp_path) == (taken, 0)


APPENDING = """
import asyncio, sys
from pathlib import Path
from recsys.contracts import Event
from serving.events.record import Record
from serving.events.spool import Spool

async def append(spool, worker):
    for number in range(100_000):
        name = f"{worker}-{number}"
        await spool.append([Record.feedback(name, Event(user="u", item="i", timestamp=1e9))])
        print(name, flush=True)

async def main():
    spool = Spool(Path(sys.argv[1]), segment_bytes=4_000)
    await asyncio.gather(*[append(spool, worker) for worker in range(8)])

asyncio.run(main())
"""


def test_all_that_a_killed_process_took_is_found(tmp_path, root):
    process = subprocess.Popen(
        [sys.executable, "-c", APPENDING, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        said = [process.stdout.readline().strip() for _ in range(200)]
        process.send_signal(signal.SIGKILL)
        said += [line.strip() for line in process.stdout if line.endswith("\n")]
    found, damaged = drained(tmp_path)
    assert damaged == 0
    assert set(said) <= set(found)
    for worker in range(8):
        own = [int(name.split("-")[1]) for name in found if name.startswith(f"{worker}-")]
        assert own == list(range(len(own)))


def python(root: Path, source: str, *arguments) -> str:
    answer = subprocess.run(
        [sys.executable, "-c", source, *map(str, arguments)], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout
