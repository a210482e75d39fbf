"""The store in a file: when its process is killed, when another one writes, when the file is none."""

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from recsys.errors import ServingError
from serving.state.protocols import CompareAndSwap
from serving.state.sqlite import SqliteStore

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


def test_a_file_that_is_no_database_is_said(tmp_path):
    (tmp_path / "states.db").write_text("no database, but long enough to be taken for one" * 100)
    with pytest.raises(ServingError, match="file is not a database"):
        SqliteStore(tmp_path / "states.db", timeout_s=1.0)
    with pytest.raises(ServingError, match="unable to open database file"):
        SqliteStore(tmp_path, timeout_s=1.0)
