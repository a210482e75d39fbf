"""Embedded key-value store: one SQLite file, for one machine.

Write-ahead log, so that a read never waits for a writer of any process; a write is on disk when it returns
(synchronous=FULL) and atomic across crashes. A file that was moved aside because it is damaged is replaced by its writer; the
other processes notice and open the new one.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from recsys.errors import ServingError
from serving.state.protocols import CompareAndSwap, DamagedStore

CREATE = "CREATE TABLE IF NOT EXISTS states (key BLOB PRIMARY KEY, value BLOB NOT NULL, expires REAL)"
ADD_EXPIRES = "ALTER TABLE states ADD COLUMN expires REAL"
"""for a file of version 0.1, which kept all states"""
INDEX = "CREATE INDEX IF NOT EXISTS states_expires ON states (expires) WHERE expires IS NOT NULL"
CLEAR = "DELETE FROM states"
PURGE = "DELETE FROM states WHERE expires <= ?"
READ = "SELECT value FROM states WHERE key = ? AND (expires IS NULL OR expires > ?)"
WRITE = (
    "INSERT INTO states VALUES (?, ?, ?) "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires = excluded.expires"
)
DAMAGES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
NO_TABLE = "no such table"
PURGE_PERIOD_S = 3_600.0

KEYS = "SELECT key FROM states WHERE key >= ? AND key < ?"
DELETE = "DELETE FROM states WHERE key = ?"
CHECKPOINT = "PRAGMA wal_checkpoint(TRUNCATE)"

T = TypeVar("T")


class SqliteStore:
    """`KeyValueStore` over the file at `path`, created if it does not exist.

    timeout_s: wait of a write for writers of other processes, in seconds. ttl_s: time to live of a key after its last write,
    in seconds; None keeps all. DamagedStore for a file that is no SQLite database any more, ServingError when it cannot be
    opened.
    """

    def __init__(self, path: Path, *, timeout_s: float, ttl_s: float | None = None) -> None:
        self._path, self._timeout_s, self._ttl_s = Path(path), timeout_s, ttl_s
        self._next_purge = 0.0
        self._following = asyncio.Lock()
        with self._translate_errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open()

    async def get(self, key: bytes) -> bytes | None:
        with self._translate_errors():
            await self._follow()
            return await self._reader.run(lambda connection: _read(connection, key))

    async def load(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._translate_errors():
            await self._follow()
            return await self._writer.run(lambda connection: [_read(connection, key) for key in keys])

    async def compare_and_swap(self, changes: Mapping[bytes, CompareAndSwap]) -> bool:
        with self._translate_errors():
            await self._follow()
            await self._purge()
            return await self._writer.run(lambda connection: _compare_and_swap(connection, changes, self._ttl_s))

    async def clear(self) -> None:
        with self._translate_errors():
            await self._follow()
            await self._writer.run(lambda connection: connection.execute(CLEAR))

    async def check(self) -> None:
        """DamagedStore if the file was damaged, removed or replaced since it was opened; its pages are not read in full."""
        with self._translate_errors():
            if _inode(self._path) != self._inode:
                raise DamagedStore(f"the states in {self._path} were moved or replaced; they are rebuilt")
            await asyncio.to_thread(self._look)

    async def remove(self, prefix: bytes, chosen: Callable[[bytes], bool]) -> int:
        with self._translate_errors():
            await self._follow()
            return await self._writer.run(lambda connection: _remove(connection, prefix, chosen))

    async def close(self) -> None:
        for one in (self._reader, self._writer):
            await one.close()

    def _open(self) -> None:
        self._writer = _Connection(self._path, self._timeout_s)
        self._writer.connection.execute("PRAGMA journal_mode=WAL")
        self._writer.connection.execute("PRAGMA synchronous=FULL")
        self._writer.connection.execute(CREATE)
        if not any(row[1] == "expires" for row in self._writer.connection.execute("PRAGMA table_info(states)")):
            self._writer.connection.execute(ADD_EXPIRES)
        self._writer.connection.execute(INDEX)
        self._reader = _Connection(self._path, self._timeout_s)
        self._inode = _inode(self._path)

    async def _follow(self) -> None:
        """Open the file again if another one stands under its name; ServingError while there is none."""
        if (inode := _inode(self._path)) == self._inode:
            return
        if inode is None:
            raise ServingError(f"the states in {self._path} are missing; the consumer makes them anew")
        async with self._following:
            if _inode(self._path) != self._inode:
                await self.close()
                await asyncio.to_thread(self._open)

    async def _purge(self) -> None:
        if self._ttl_s is not None and time.monotonic() >= self._next_purge:
            self._next_purge = time.monotonic() + PURGE_PERIOD_S
            await self._writer.run(lambda connection: connection.execute(PURGE, (time.time(),)))

    def _look(self) -> None:
        """Read a row by a new connection, which has no page in memory."""
        with closing(sqlite3.connect(self._path, timeout=self._timeout_s)) as connection:
            connection.execute("SELECT value FROM states LIMIT 1").fetchone()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            kind = DamagedStore if is_damage(error) else ServingError
            raise kind(f"the states in {self._path} cannot be read or written: {error}; check that file") from None


def sqlite_damage(path: Path) -> str | None:
    """Why the file holds no intact store, None for an intact or an absent one; every page is read."""
    if not path.exists():
        return None
    if not path.stat().st_size:
        return "it is empty"
    try:
        with closing(sqlite3.connect(path, timeout=60.0)) as connection:
            connection.execute("SELECT value FROM states LIMIT 1").fetchone()
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        if not is_damage(error):
            raise ServingError(f"the states in {path} cannot be checked: {error}; check that file") from None
        found = str(error)
    return None if found == "ok" else " ".join(found.split())


def is_damage(error: Exception) -> bool:
    """Whether an error of SQLite tells that the content of the file is lost."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in DAMAGES or (code == sqlite3.SQLITE_ERROR and str(error).startswith(NO_TABLE))


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


def _inode(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None


def _read(connection: sqlite3.Connection, key: bytes) -> bytes | None:
    row = connection.execute(READ, (key, time.time())).fetchone()
    return None if row is None else row[0]


def _remove(connection: sqlite3.Connection, prefix: bytes, chosen: Callable[[bytes], bool]) -> int:
    """Deleted rows stay in free pages and in the write-ahead log: VACUUM rewrites the file, the checkpoint empties the log."""
    end = prefix[:-1] + bytes([prefix[-1] + 1])
    keys = [key for (key,) in connection.execute(KEYS, (prefix, end)) if chosen(key)]
    connection.execute("PRAGMA secure_delete=ON")
    connection.executemany(DELETE, [(key,) for key in keys])
    connection.execute("VACUUM")
    busy, *_ = connection.execute(CHECKPOINT).fetchone()
    if busy:
        raise sqlite3.OperationalError("the write-ahead log is being read")
    return len(keys)


def _compare_and_swap(
    connection: sqlite3.Connection, changes: Mapping[bytes, CompareAndSwap], ttl_s: float | None
) -> bool:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if any(_read(connection, key) != change.before for key, change in changes.items()):
            connection.execute("ROLLBACK")
            return False
        expires = None if ttl_s is None else time.time() + ttl_s
        rows = [(key, change.after, expires if change.expires else None) for key, change in changes.items()]
        connection.executemany(WRITE, rows)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
    return True
