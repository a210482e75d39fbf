"""Embedded key-value store: one SQLite file, for one machine.

Write-ahead log, so that a read never waits for a writer of any process; a write is on disk when it returns
(synchronous=FULL) and atomic across crashes.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from recsys.errors import ServingError
from serving.state.protocols import CompareAndSwap

CREATE = "CREATE TABLE IF NOT EXISTS states (key BLOB PRIMARY KEY, value BLOB NOT NULL)"
CLEAR = "DELETE FROM states"
READ = "SELECT value FROM states WHERE key = ?"
WRITE = "INSERT INTO states VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"

T = TypeVar("T")


class SqliteStore:
    """`KeyValueStore` over the file at `path`, created if it does not exist.

    timeout_s: wait of a write for writers of other processes, in seconds. ServingError when the file cannot be opened or is
    no SQLite database.
    """

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self._path = Path(path)
        self._timeout_s = timeout_s
        with self._translate_errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = _Connection(self._path, timeout_s)
            self._writer.connection.execute("PRAGMA journal_mode=WAL")
            self._writer.connection.execute("PRAGMA synchronous=FULL")
            self._writer.connection.execute(CREATE)
            self._reader = _Connection(self._path, timeout_s)

    async def get(self, key: bytes) -> bytes | None:
        with self._translate_errors():
            return await self._reader.run(lambda connection: _read(connection, key))

    async def load(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._translate_errors():
            return await self._writer.run(lambda connection: [_read(connection, key) for key in keys])

    async def compare_and_swap(self, changes: Mapping[bytes, CompareAndSwap]) -> bool:
        with self._translate_errors():
            return await self._writer.run(lambda connection: _compare_and_swap(connection, changes))

    async def clear(self) -> None:
        with self._translate_errors():
            await self._writer.run(lambda connection: connection.execute(CLEAR))

    async def close(self) -> None:
        for one in (self._reader, self._writer):
            await one.close()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ServingError(
                f"the states in {self._path} cannot be read or written: {error}; check that file"
            ) from None


class _Connection:
    """SQLite connection with its own thread."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="states")

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self.connection)

    async def close(self) -> None:
        await self.run(sqlite3.Connection.close)
        self._thread.shutdown()


def _read(connection: sqlite3.Connection, key: bytes) -> bytes | None:
    row = connection.execute(READ, (key,)).fetchone()
    return None if row is None else row[0]


def _compare_and_swap(connection: sqlite3.Connection, changes: Mapping[bytes, CompareAndSwap]) -> bool:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if any(_read(connection, key) != change.before for key, change in changes.items()):
            connection.execute("ROLLBACK")
            return False
        connection.executemany(WRITE, [(key, change.after) for key, change in changes.items()])
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
    return True
