"""Event log as Parquet, for training and analysis.

    feedback/day=2026-11-26/<first sequence>-<last sequence>.parquet      user events
    impressions/day=2026-11-26/<first>-<last>.parquet                     served slates
    preferences/day=2026-11-26/<first>-<last>.parquet                     hidden values and profile columns
    malformed/<first>-<last>.parquet                                      records that do not fit these tables, as text

The day is that of the record's timestamp, UTC. A file holds all records of its folder from its first to its last sequence,
so that file names alone tell which sequences are written.
"""

import asyncio
import json
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from recsys.contracts import Event, Slate, SlateItem
from recsys.data.sources.event_log import ACTION, WORD
from recsys.data.sources.log_files import DAY, log_file_bytes, log_files
from recsys.errors import QueryError, ServingError, check_ranges
from recsys.schema import Instance, Number, Text, schema_of
from recsys.stores.atomic_files import write_atomically
from serving.events.compaction import compact, remove_days_before
from serving.events.folder_lock import lock_folder
from serving.events.record import StoredRecord

FEEDBACK, IMPRESSIONS, PREFERENCES, MALFORMED = "feedback", "impressions", "preferences", "malformed"
TABLES = {"feedback": FEEDBACK, "impression": IMPRESSIONS} | dict.fromkeys(("hide", "unhide", "profile"), PREFERENCES)
"""by kind of record"""
TEXT, NUMBER = Text(), Number()
DTYPES: dict[str, Any] = {
    "text": pl.String,
    "number": pl.Float64,
    "integer": pl.Int64,
    "boolean": pl.Boolean,
    "texts": pl.List(pl.String),
    "json": pl.String,
}
"""by `column` of a declared value"""
EVENT, SLATE, ITEM = map(schema_of, (Event, Slate, SlateItem))
EVENT_COLUMNS = tuple(name for name in EVENT.object.fields if name not in ("user", "timestamp", "actions"))
SLATE_COLUMNS = ("request_id", "bundle", "rules", "degraded")
ITEM_COLUMNS = tuple(name for name in ITEM.object.fields if name not in SLATE_COLUMNS)
HEAD_COLUMNS = {"sequence": pl.Int64, "id": pl.String, "user": pl.String, "timestamp": pl.Float64}


def _dtypes(declared: Instance, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: DTYPES[declared.object.fields[name].column] for name in names}


SCHEMAS: dict[str, dict[str, Any]] = {
    FEEDBACK: HEAD_COLUMNS | _dtypes(EVENT, EVENT_COLUMNS),
    IMPRESSIONS: HEAD_COLUMNS
    | _dtypes(ITEM, ITEM_COLUMNS)
    | {"position": pl.Int64}
    | _dtypes(SLATE, SLATE_COLUMNS)
    | {"rung": pl.String, "query": pl.String},
    PREFERENCES: HEAD_COLUMNS | {"kind": pl.String, "body": pl.String},
    MALFORMED: {"sequence": pl.Int64, "id": pl.String, "reason": pl.String, "record": pl.String},
}
"""columns of the tables: mappings, `query` and `body` are JSON; feedback has a column an action (Float64 for numbers, String
for words); an impression has a row an item, its query in the first row; the rules of an item are in no column
"""

MAX_SMALL_FILES = 64
"""of a partition, then they are merged"""

Row = dict[str, Any]

logger = logging.getLogger(__name__)


class ParquetSink:
    """A `Sink` that writes one file for each day and kind of a batch: give it large batches.

    Batches come in log order without gaps; they may be redelivered with other boundaries. `rows` and `malformed` count rows
    written by this process. Many small files of a partition are merged into few (serving.events.compaction). ServingError
    when another process holds the folder.
    """

    def __init__(
        self, folder: Path, *, keep_days: float | None = None, may_delete: Callable[[], bool] = lambda: True
    ) -> None:
        """
        keep_days: age at which a day's partition is removed; None keeps all
        may_delete: whether files may be merged and removed now: not while somebody reads the folder by its names
        """
        if keep_days is not None:
            check_ranges("events", keep_days=(keep_days, 1.0, 36_500.0))
        self.folder, self._keep_days, self._may_delete = Path(folder), keep_days, may_delete
        self.rows = self.malformed = 0
        self._lock = lock_folder(self.folder)
        self._written: dict[str, list[tuple[int, int]]] = {}

    async def write(self, batch: Sequence[StoredRecord]) -> None:
        """Return when every record of the batch is on disk."""
        try:
            await asyncio.to_thread(self._write, batch)
        except OSError as error:
            raise ServingError(f"{self.folder} cannot be written ({error.strerror}); free some space there") from None

    def close(self) -> None:
        """Release the folder lock."""
        os.close(self._lock)

    def _write(self, batch: Sequence[StoredRecord]) -> None:
        partitions: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for stored in batch:
            kind, partition, rows = _flatten(stored)
            partitions[kind, partition] += rows
        for (kind, partition), rows in sorted(partitions.items()):
            is_first = partition not in self._written
            self._write_new(kind, partition, rows)
            if self._may_delete():
                self._keep_few_files(kind, partition, is_first)

    def _keep_few_files(self, kind: str, partition: str, is_first: bool) -> None:
        """Merge the files of the partition when they are many; with its first file also those of all other days."""
        if is_first:
            self._remove_old(kind)
            for other in (self.folder / kind).glob(f"{DAY}*"):
                if other != self.folder / partition:
                    self._compact(f"{kind}/{other.name}", 2)
        if len(self._intervals(partition)) >= MAX_SMALL_FILES:
            self._compact(partition, MAX_SMALL_FILES // 2)

    def _compact(self, partition: str, min_files: int) -> None:
        if compact(self.folder / partition, min_files=min_files) and partition in self._written:
            self._written[partition] = self._listed(partition)

    def _remove_old(self, kind: str) -> None:
        if self._keep_days is not None and (days := remove_days_before(self.folder / kind, self._keep_days)):
            logger.warning("%s: %s are older than %g days and were removed", kind, ", ".join(days), self._keep_days)

    def _write_new(self, kind: str, partition: str, rows: Iterable[Row]) -> None:
        written = self._intervals(partition)
        end = max((last for _, last in written), default=-1)
        new = [row for row in rows if row["sequence"] > end or not _covered(row["sequence"], written)]
        if not new:
            return
        interval = new[0]["sequence"], new[-1]["sequence"]
        file = self.folder / partition / f"{interval[0]}-{interval[1]}.parquet"
        write_atomically(file, log_file_bytes(_table(kind, new), file))
        written.append(interval)
        self.rows += len(new)
        self.malformed += len(new) * (kind == MALFORMED)

    def _intervals(self, partition: str) -> list[tuple[int, int]]:
        """First and last sequence of each file of a partition."""
        if partition not in self._written:
            self._written[partition] = self._listed(partition)
        return self._written[partition]

    def _listed(self, partition: str) -> list[tuple[int, int]]:
        found = log_files((self.folder / partition).glob("*.parquet"))
        for path in found.foreign:
            logger.warning("%s is no file of the event log and is left alone", path)
        return [(file.first, file.last) for file in found.current]


def _covered(sequence: int, intervals: Iterable[tuple[int, int]]) -> bool:
    return any(first <= sequence <= last for first, last in intervals)


def _table(kind: str, rows: Sequence[Row]) -> pl.DataFrame:
    known = SCHEMAS[kind]
    actions = sorted({name for row in rows for name in row} - known.keys())
    return pl.DataFrame(
        rows, schema=known | {name: pl.String if name.startswith(WORD) else pl.Float64 for name in actions}
    )


def _flatten(stored: StoredRecord) -> tuple[str, str, list[Row]]:
    """Table, partition folder and rows of a record."""
    record = stored.record
    try:
        kind = TABLES[record.kind]
        rows = ROWS[kind](stored)
        return kind, f"{kind}/day={datetime.fromtimestamp(record.timestamp, UTC):%Y-%m-%d}", rows
    except (QueryError, KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        text = json.dumps(
            asdict(record), separators=(",", ":"), sort_keys=True
        )  # json accepts values that orjson refuses
        row = {"sequence": stored.sequence, "id": str(record.id), "reason": repr(error), "record": text}
        return MALFORMED, MALFORMED, [row]


def _head(stored: StoredRecord) -> Row:
    record = stored.record
    return {
        "sequence": stored.sequence,
        "id": TEXT.parse("id", record.id),
        "user": TEXT.parse("user", record.user),
        "timestamp": NUMBER.parse("timestamp", record.timestamp),
    }


def _feedback(stored: StoredRecord) -> list[Row]:
    body = stored.record.body
    row = _head(stored) | EVENT.row(body, EVENT_COLUMNS)
    return [row | dict(_action(name, value) for name, value in body.get("actions", {}).items())]


def _action(name: str, value: Any) -> tuple[str, float | str]:
    """Column and value; words and numbers of one name get two columns, since a column has one type."""
    return (f"{WORD}{name}", value) if isinstance(value, str) else (f"{ACTION}{name}", NUMBER.parse(name, value))


def _impression(stored: StoredRecord) -> list[Row]:
    """One row an item; one row without an item for an empty slate."""
    body = stored.record.body
    slate = body["slate"]
    shared = _head(stored) | SLATE.row(slate, SLATE_COLUMNS) | {"rung": TEXT.parse("rung", body["rung"])}
    items = [{"position": position, **ITEM.row(item, ITEM_COLUMNS)} for position, item in enumerate(slate["items"])]
    first, *others = [shared | item for item in items] or [shared]
    return [first | {"query": _json(body["query"])}, *others]


def _preference(stored: StoredRecord) -> list[Row]:
    return [_head(stored) | {"kind": stored.record.kind, "body": _json(dict(stored.record.body))}]


ROWS: dict[str, Callable[[StoredRecord], list[Row]]] = {
    FEEDBACK: _feedback,
    IMPRESSIONS: _impression,
    PREFERENCES: _preference,
}


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
