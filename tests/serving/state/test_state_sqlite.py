"""The store in a file: when its process is killed, when another one writes, when the file is none."""

import asyncio
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from recsys.errors import ServingError
from serving.state.protocols import CompareAndSwap, DamagedStore
from serving.state.sqlite import SqliteStore, sqlite_damage

WRITER = """
import asyncio, sys
from pathlib import Path
from serving.state.protocols import CompareAndSwap
from serving.state.sqlite import SqliteStore

async def write():
    table, before = SqliteStore(Path(sys.argv[1]), timeout_s=5.0), None
    for number in range(1_000_000):
        after = b"%d" % number * 500
        changes = {key: CompareAndSwap(before=before, after=after, expires=True) for key in (b"a", b"b")}
        assert await table.compare_and_swap(changes)
        before = after
        print(number, flush=True)

asyncio.run(write())
"""
NUM = 30


def test_a_killed_writer_leaves_all_that_it_was_told_is_written_and_nothing_by_halves(tmp_path, root):
    path = tmp_path / "folder" / "states.db"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=root, stdout=subprocess.PIPE) as writer:
        told = [int(writer.stdout.readline()) for _ in range(NUM)]
        writer.kill()
        told += [int(line) for line in writer.stdout.read().splitlines()]

    async def read():
        table = SqliteStore(path, timeout_s=5.0)
        found = await table.load([b"a", b"b"])
        await table.close()
        return found

    one, other = asyncio.run(read())
    assert one == other
    assert one in [b"%d" % number * 500 for number in (told[-1], told[-1] + 1)]


def test_reads_go_on_while_another_process_writes_and_writes_wait_their_limit(tmp_path):
    path = tmp_path / "states.db"

    async def work(holder):
        table = SqliteStore(path, timeout_s=0.01)
        await table.compare_and_swap({b"a": CompareAndSwap(before=None, after=b"1", expires=True)})
        holder.execute("BEGIN IMMEDIATE")
        assert await table.get(b"a") == b"1"
        with pytest.raises(ServingError, match=r"states\.db cannot be read or written: database is locked"):
            await table.compare_and_swap({b"a": CompareAndSwap(before=b"1", after=b"2", expires=True)})
        holder.execute("ROLLBACK")
        assert await table.compare_and_swap({b"a": CompareAndSwap(before=b"1", after=b"2", expires=True)})
        await table.close()

    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        asyncio.run(work(holder))


def change(value: bytes, before: bytes | None = None) -> dict[bytes, CompareAndSwap]:
    return {b"a": CompareAndSwap(before=before, after=value, expires=True)}


def test_a_value_lives_as_long_as_it_may_and_others_stay(tmp_path):
    async def work():
        short, kept = SqliteStore(tmp_path / "states.db", timeout_s=5.0, ttl_s=60.0), b"mark"
        await short.compare_and_swap(change(b"1"))
        await short.compare_and_swap({kept: CompareAndSwap(before=None, after=b"1", expires=False)})
        with sqlite3.connect(tmp_path / "states.db") as file:
            assert file.execute("UPDATE states SET expires = expires - 61").rowcount == 2
        assert await short.load([b"a", kept]) == [None, b"1"]
        assert await short.get(b"a") is None
        await short.close()
        again = SqliteStore(tmp_path / "states.db", timeout_s=5.0, ttl_s=60.0)
        assert await again.compare_and_swap({kept: CompareAndSwap(before=b"1", after=b"2", expires=False)})
        await again.close()

    asyncio.run(work())
    with closing(sqlite3.connect(tmp_path / "states.db")) as file:
        assert file.execute("SELECT key FROM states").fetchall() == [(b"mark",)]


def test_a_file_of_an_earlier_version_is_read_and_written(tmp_path):
    with closing(sqlite3.connect(tmp_path / "states.db")) as file, file:
        file.execute("CREATE TABLE states (key BLOB PRIMARY KEY, value BLOB NOT NULL)")
        file.execute("INSERT INTO states VALUES (?, ?)", (b"a", b"1"))

    async def work():
        store = SqliteStore(tmp_path / "states.db", timeout_s=5.0)
        assert await store.get(b"a") == b"1"
        assert await store.compare_and_swap(change(b"2", b"1"))
        assert await store.get(b"a") == b"2"
        await store.close()

    asyncio.run(work())


DAMAGES = {
    "garbage": lambda file: file.write_bytes(b"garbage " * 4_000),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "torn": lambda file: file.write_bytes((data := file.read_bytes())[:4096] + bytes(len(data) - 4096)),
}


def filled(path):
    async def fill():
        store = SqliteStore(path, timeout_s=5.0)
        changes = {b"%d" % n: CompareAndSwap(before=None, after=b"x" * 500, expires=True) for n in range(200)}
        await store.compare_and_swap(changes)
        await store.close()

    asyncio.run(fill())


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_told_from_an_intact_one(tmp_path, damage):
    path = tmp_path / "states.db"
    assert sqlite_damage(path) is None
    filled(path)
    assert sqlite_damage(path) is None
    damage(path)
    assert sqlite_damage(path)


@pytest.mark.parametrize(
    "damage", [DAMAGES["garbage"], DAMAGES["empty"], Path.unlink], ids=["garbage", "empty", "removed"]
)
def test_damage_is_noticed_while_the_file_is_open_and_a_new_file_is_followed(tmp_path, damage):
    path = tmp_path / "states.db"
    filled(path)
    filled(tmp_path / "other.db")

    async def work():
        store = SqliteStore(path, timeout_s=5.0)
        await store.check()
        damage(path)
        with pytest.raises(DamagedStore):
            await store.check()
        for name in ("states.db", "states.db-wal", "states.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        with pytest.raises(ServingError, match="are missing"):
            await store.get(b"1")
        (tmp_path / "other.db").rename(path)
        assert await store.get(b"1") == b"x" * 500
        await store.close()

    asyncio.run(work())


def test_a_file_that_is_no_database_is_said(tmp_path):
    (tmp_path / "states.db").write_text("no database, but long enough to be taken for one" * 100)
    with pytest.raises(ServingError, match="file is not a database"):
        SqliteStore(tmp_path / "states.db", timeout_s=1.0)
    with pytest.raises(ServingError, match="unable to open database file"):
        SqliteStore(tmp_path, timeout_s=1.0)


def test_many_reads_at_once_open_a_new_file_once(tmp_path, monkeypatch):
    path, opened, original = tmp_path / "states.db", [], SqliteStore._open
    filled(path)
    filled(tmp_path / "other.db")
    monkeypatch.setattr(SqliteStore, "_open", lambda store: (opened.append(store), original(store)))

    async def work():
        store = SqliteStore(path, timeout_s=5.0)
        (tmp_path / "other.db").replace(path)
        found = await asyncio.gather(*(store.get(b"1") for _ in range(20)), store.load([b"1"]))
        await store.close()
        return found

    assert asyncio.run(work()) == [b"x" * 500] * 20 + [[b"x" * 500]]
    assert len(opened) == 2, "at the start, and behind the new file"
