"""The embedded table: one SQLite file, for one machine.

Write-ahead log, so that a read never waits for a writer, of this process or of another; a write is on the disk when it
returns (synchronous=FULL), and a crash leaves all of it or nothing.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from recsys.errors import ServingError
from serving.state.contract import Change

CREATE = "CREATE TABLE IF NOT EXISTS states (key BLOB PRIMARY KEY, value BLOB NOT NULL)"
CLEAR = "DELETE FROM states"
READ = "SELECT value FROM states WHERE key = ?"
WRITE = "INSERT INTO states VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"

T = TypeVar("T")


class SqliteTable:
    """`Table` over the file at `path`, which is created where it does not exist.

    timeout_s: how long a write waits for a writer of another process, in seconds. ServingError when the file cannot be opened
    or is no SQLite database.
    """

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self._path = Path(path)
        self._timeout_s = timeout_s
        with self._translated():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = _Connection(self._path, timeout_s)
            self._writer.connection.execute("PRAGMA journal_mode=WAL")
            self._writer.connection.execute("PRAGMA synchronous=FULL")
            self._writer.connection.execute(CREATE)
            self._reader = _Connection(self._path, timeout_s)

    async def get(self, key: bytes) -> bytes | None:
        with self._translated():
            return await self._reader.run(lambda connection: _read(connection, key))

    async def load(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._translated():
            return await self._writer.run(lambda connection: [_read(connection, key) for key in keys])

    async def swap(self, changes: Mapping[bytes, Change]) -> bool:
        with self._translated():
            return await self._writer.run(lambda connection: _swap(connection, changes))

    async def clear(self) -> None:
        with self._translated():
            await self._writer.run(lambda connection: connection.execute(CLEAR))

    async def close(self) -> None:
        for one in (self._reader, self._writer):
            await one.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise ServingError(
                f"the states in {self._path} cannot be read or written: {error}; see to that file"
            ) from None


class _Connection:
    """A connection and the one thread that uses it."""

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


def _swap(connection: sqlite3.Connection, changes: Mapping[bytes, Change]) -> bool:
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
