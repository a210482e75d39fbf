"""The log as Parquet, read again: what users' states can be folded from once more."""

import asyncio
import heapq
import itertools
import json
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
from recsys.errors import ServingError
from serving.events.opening import OpenReader
from serving.events.partitions import FEEDBACK, IMPRESSIONS, MALFORMED, PREFERENCES
from serving.events.record import Record, Stored

NAMED = ("item", "request_id", "position", "propensity", "bundle", "rules")
"""fields of an event that have a column of their own"""
SHOWN = ["sequence", "id", "user", "timestamp", "item"]
Row = dict[str, Any]


class Archive:
    """The records in the folder of a `PartitionSink`, in the order of the log.

    Of an impression there are the items that were shown, which is what states read of it. What is written after this was
    made is not among them; `last` is the highest sequence that is, 0 for none.
    """

    def __init__(self, folder: Path) -> None:
        kinds = dict.fromkeys((FEEDBACK, IMPRESSIONS, PREFERENCES), "day=*/*.parquet") | {MALFORMED: "*.parquet"}
        paths = ((kind, path) for kind, pattern in kinds.items() for path in (folder / kind).glob(pattern))
        self._files = sorted((_File.of(kind, path) for kind, path in paths), key=lambda file: file.first)
        self.last = max((file.last for file in self._files), default=0)

    def __len__(self) -> int:
        """How many records, by a look into every file; ServingError for one that cannot be read."""
        return sum(file.num_records() for file in self._files)

    def __iter__(self) -> Iterator[Stored]:
        """Few files are open at a time: those whose sequences overlap. ServingError for one that cannot be read."""
        begun: list[tuple[int, int, Stored, Iterator[Stored]]] = []
        for number, file in enumerate(self._files):
            yield from _before(file.first, begun)
            _push(begun, number, file.records())
        yield from _before(self.last + 1, begun)


@dataclass(frozen=True, kw_only=True)
class _File:
    """Records of one kind, by rising sequence."""

    kind: str
    path: Path
    first: int
    last: int

    @staticmethod
    def of(kind: str, path: Path) -> "_File":
        try:
            first, last = map(int, path.stem.split("-"))
        except ValueError:
            raise ServingError(f"{path} is no file of the event log; keep nothing else in that folder") from None
        return _File(kind=kind, path=path, first=first, last=last)

    def num_records(self) -> int:
        with self._readable():
            return pl.read_parquet(self.path, glob=False, columns=["sequence"])["sequence"].n_unique()

    def records(self) -> Iterator[Stored]:
        with self._readable():
            table = pl.read_parquet(self.path, glob=False, columns=SHOWN if self.kind == IMPRESSIONS else None)
            for sequence, rows in itertools.groupby(table.iter_rows(named=True), key=itemgetter("sequence")):
                yield Stored(sequence=sequence, record=RECORDS[self.kind](list(rows)))

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (pl.exceptions.PolarsError, OSError, KeyError, TypeError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ServingError(
                f"{self.path} cannot be read ({reason}); restore it, or do without and move it"
            ) from None


def _push(begun: list[tuple[int, int, Stored, Iterator[Stored]]], number: int, records: Iterator[Stored]) -> None:
    for stored in itertools.islice(records, 1):
        heapq.heappush(begun, (stored.sequence, number, stored, records))


def _before(end: int, begun: list[tuple[int, int, Stored, Iterator[Stored]]]) -> Iterator[Stored]:
    """Of files that were begun all records below this sequence."""
    while begun and begun[0][0] < end:
        _, number, stored, records = heapq.heappop(begun)
        yield stored
        _push(begun, number, records)


def _feedback(rows: list[Row]) -> Record:
    (row,) = rows
    actions = {
        name.removeprefix(prefix): value
        for prefix in (ACTION, WORD)
        for name, value in row.items()
        if name.startswith(prefix) and value is not None
    }
    named = {name: row[name] for name in NAMED}
    context = orjson.loads(row["context"])
    event = Event(user=row["user"], timestamp=row["timestamp"], actions=actions, context=context, **named)
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
    """A reader that hands out the archive first, then the log from there on.

    Nothing begins while a file of it cannot be read. Whatever ends it before the archive is done with, the next one begins
    anew.
    """

    def __init__(
        self,
        folder: Path,
        log: OpenReader,
        *,
        limit: int,
        begin: Callable[[], Awaitable[None]],
        done: Callable[[], None],
    ) -> None:
        """begin: before the first record; done: when all of the archive was acknowledged"""
        self._folder, self._log, self._limit = folder, log, limit
        self._begin, self._done = begin, done
        self._archive: Archive | None = None
        self._records: Iterator[Stored] = iter(())
        self._left = 0
        self._behind = False

    @property
    def waiting(self) -> int:
        """Those of the archive, as long as there are any; what the log has beside them is not known then."""
        return self._log.waiting if self._behind else self._left

    async def fetch(self) -> list[Stored]:
        if self._behind:
            return await self._log.fetch()
        try:
            batch = await self._next()
        except ServingError:
            self._archive = None
            raise
        if not batch:
            await self._go_on()
        return batch

    async def acknowledge(self, sequence: int) -> None:
        if self._behind:
            await self._log.acknowledge(sequence)

    async def close(self) -> None:
        await self._log.close()

    async def _next(self) -> list[Stored]:
        if self._archive is None:
            archive = await asyncio.to_thread(Archive, self._folder)
            self._left = await asyncio.to_thread(len, archive)
            await self._begin()
            self._archive, self._records = archive, iter(archive)
        batch = await asyncio.to_thread(lambda: list(itertools.islice(self._records, self._limit)))
        self._left -= len(batch)
        return batch

    async def _go_on(self) -> None:
        assert self._archive is not None
        await self._log.acknowledge(self._archive.last)
        self._done()
        self._behind = True
