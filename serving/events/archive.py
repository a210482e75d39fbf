"""Replay of the Parquet event log, to rebuild user states."""

import asyncio
import heapq
import itertools
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from recsys.contracts import Event
from recsys.data.sources.event_log import ACTION, WORD
from recsys.data.sources.log_files import LogFile, log_files, read_log_file
from recsys.errors import DataError, ServingError
from serving.events.log_factory import ClosableReader
from serving.events.parquet import EVENT_COLUMNS, FEEDBACK, IMPRESSIONS, MALFORMED, PREFERENCES
from serving.events.record import Record, StoredRecord

logger = logging.getLogger(__name__)

IMPRESSION_COLUMNS = ["sequence", "id", "user", "timestamp", "item"]
Row = dict[str, Any]


class ParquetArchive:
    """The records in the folder of a `ParquetSink`, in the order of the log.

    An impression carries only its items, as the states read nothing else. Foreign files are named and left out. Files written
    after construction are not included; `last` is the highest included sequence, 0 for none.
    """

    def __init__(self, folder: Path) -> None:
        kinds = dict.fromkeys((FEEDBACK, IMPRESSIONS, PREFERENCES), "day=*/*.parquet") | {MALFORMED: "*.parquet"}
        found = {kind: log_files((folder / kind).glob(pattern)) for kind, pattern in kinds.items()}
        for path in (path for files in found.values() for path in files.foreign):
            logger.warning("%s is no file of the event log and is left out", path)
        files = (_File(kind=kind, span=span) for kind, files in found.items() for span in files.current)
        self._files = sorted(files, key=lambda file: file.span.first)
        self.last = max((file.span.last for file in self._files), default=0)

    def __len__(self) -> int:
        """Number of records, read from every file; ServingError for an unreadable one."""
        return sum(file.num_records() for file in self._files)

    def __iter__(self) -> Iterator[StoredRecord]:
        """Merge the files by sequence; only files with overlapping sequences are open. ServingError for an unreadable one."""
        open_files: list[tuple[int, int, StoredRecord, Iterator[StoredRecord]]] = []
        for number, file in enumerate(self._files):
            yield from _merge_until(file.span.first, open_files)
            _push_next(open_files, number, file.records())
        yield from _merge_until(self.last + 1, open_files)


@dataclass(frozen=True, kw_only=True)
class _File:
    """Parquet file of one kind, rows by rising sequence."""

    kind: str
    span: LogFile

    @property
    def path(self) -> Path:
        return self.span.path

    def num_records(self) -> int:
        with self._readable():
            return read_log_file(self.path, ["sequence"])["sequence"].n_unique()

    def records(self) -> Iterator[StoredRecord]:
        with self._readable():
            table = read_log_file(self.path, IMPRESSION_COLUMNS if self.kind == IMPRESSIONS else None)
            for sequence, rows in itertools.groupby(table.iter_rows(named=True), key=itemgetter("sequence")):
                yield StoredRecord(sequence=sequence, record=RECORDS[self.kind](list(rows)))

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (pl.exceptions.PolarsError, DataError, OSError, KeyError, TypeError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ServingError(
                f"{self.path} cannot be read ({reason}); restore it, or move it away to continue without it"
            ) from None


def _push_next(
    open_files: list[tuple[int, int, StoredRecord, Iterator[StoredRecord]]],
    number: int,
    records: Iterator[StoredRecord],
) -> None:
    for stored in itertools.islice(records, 1):
        heapq.heappush(open_files, (stored.sequence, number, stored, records))


def _merge_until(
    end: int, open_files: list[tuple[int, int, StoredRecord, Iterator[StoredRecord]]]
) -> Iterator[StoredRecord]:
    """Yield the records of the open files below sequence `end`."""
    while open_files and open_files[0][0] < end:
        _, number, stored, records = heapq.heappop(open_files)
        yield stored
        _push_next(open_files, number, records)


def _feedback(rows: list[Row]) -> Record:
    (row,) = rows
    actions = {
        name.removeprefix(prefix): value
        for prefix in (ACTION, WORD)
        for name, value in row.items()
        if name.startswith(prefix) and value is not None
    }
    logged = {name: row[name] for name in EVENT_COLUMNS} | {"context": orjson.loads(row["context"])}
    event = Event(user=row["user"], timestamp=row["timestamp"], actions=actions, **logged)
    return Record.feedback(row["id"], event)


def _impression(rows: list[Row]) -> Record:
    items = [{"item": row["item"]} for row in rows if row["item"] is not None]
    first, body = rows[0], {"slate": {"items": items}}
    return Record(id=first["id"], kind="impression", user=first["user"], timestamp=first["timestamp"], body=body)


def _preference(rows: list[Row]) -> Record:
    (row,) = rows
    return Record.preference(row["id"], row["kind"], row["user"], row["timestamp"], orjson.loads(row["body"]))


def _malformed(rows: list[Row]) -> Record:
    return Record(**json.loads(rows[0]["record"]))


RECORDS: dict[str, Callable[[list[Row]], Record]] = {
    FEEDBACK: _feedback,
    IMPRESSIONS: _impression,
    PREFERENCES: _preference,
    MALFORMED: _malformed,
}


class ArchiveReader:
    """Reader of the archive first, then of the log behind it.

    It does not start while a file is unreadable. Interrupted before the end of the archive, the next reader starts over.
    """

    def __init__(
        self,
        folder: Path,
        log: ClosableReader,
        *,
        limit: int,
        on_start: Callable[[], Awaitable[None]],
        on_done: Callable[[], None],
    ) -> None:
        """on_start: called before the first record; on_done: once the whole archive is acknowledged"""
        self._folder, self._log, self._limit = folder, log, limit
        self._on_start, self._on_done = on_start, on_done
        self._archive: ParquetArchive | None = None
        self._records: Iterator[StoredRecord] = iter(())
        self._num_left = 0
        self._reading_log = False

    @property
    def waiting(self) -> int:
        """Unread archive records; once the archive is read, those of the log."""
        return self._log.waiting if self._reading_log else self._num_left

    async def fetch(self) -> list[StoredRecord]:
        if self._reading_log:
            return await self._log.fetch()
        try:
            batch = await self._next()
        except ServingError:
            self._archive = None
            raise
        if not batch:
            await self._switch_to_log()
        return batch

    async def acknowledge(self, sequence: int) -> None:
        if self._reading_log:
            await self._log.acknowledge(sequence)

    async def close(self) -> None:
        await self._log.close()

    async def _next(self) -> list[StoredRecord]:
        if self._archive is None:
            archive = await asyncio.to_thread(ParquetArchive, self._folder)
            self._num_left = await asyncio.to_thread(len, archive)
            await self._on_start()
            self._archive, self._records = archive, iter(archive)
        batch = await asyncio.to_thread(lambda: list(itertools.islice(self._records, self._limit)))
        self._num_left -= len(batch)
        return batch

    async def _switch_to_log(self) -> None:
        assert self._archive is not None
        await self._log.acknowledge(self._archive.last)
        self._on_done()
        self._reading_log = True
