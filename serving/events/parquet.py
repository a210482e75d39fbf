"""Event log as Parquet, for training and analysis.

    feedback/day=2026-11-26/<first sequence>-<last sequence>.parquet      user events
    impressions/day=2026-11-26/<first>-<last>.parquet                     served slates
    preferences/day=2026-11-26/<first>-<last>.parquet                     hidden values and profile columns
    malformed/<first>-<last>.parquet                                      records that do not fit these tables, as text

The day is that of the record's timestamp, UTC. A file holds all records of its folder from its first to its last sequence,
so that file names alone tell which sequences are written.
"""

import asyncio
import io
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from recsys.data.sources.event_log import ACTION, WORD
from recsys.errors import ServingError
from recsys.stores.atomic_files import write_atomically
from serving.events.folder_lock import lock_folder
from serving.events.record import StoredRecord

FEEDBACK, IMPRESSIONS, PREFERENCES, MALFORMED = "feedback", "impressions", "preferences", "malformed"
TABLES = {"feedback": FEEDBACK, "impression": IMPRESSIONS} | dict.fromkeys(("hide", "unhide", "profile"), PREFERENCES)
"""by kind of record"""
MAX_INT64 = 2**63 - 1
HEAD_COLUMNS = {"sequence": pl.Int64, "id": pl.String, "user": pl.String, "timestamp": pl.Float64}
SCHEMAS: dict[str, dict[str, Any]] = {
    FEEDBACK: HEAD_COLUMNS
    | {"item": pl.String, "request_id": pl.String, "position": pl.Int64, "propensity": pl.Float64}
    | {"bundle": pl.String, "rules": pl.String, "context": pl.String},
    IMPRESSIONS: HEAD_COLUMNS
    | {"item": pl.String, "request_id": pl.String, "position": pl.Int64, "propensity": pl.Float64}
    | {"probabilities": pl.String, "utility": pl.Float64, "sources": pl.List(pl.String)}
    | {"rank": pl.Int64, "explored": pl.Boolean, "bundle": pl.String, "rules": pl.String}
    | {"adds": pl.String, "because_of": pl.String}
    | {"rung": pl.String, "degraded": pl.List(pl.String), "query": pl.String},
    PREFERENCES: HEAD_COLUMNS | {"kind": pl.String, "body": pl.String},
    MALFORMED: {"sequence": pl.Int64, "id": pl.String, "reason": pl.String, "record": pl.String},
}
"""columns of the tables: `context`, `probabilities`, `adds`, `query` and `body` are JSON; feedback has a column
an action (Float64 for numbers, String for words); an impression has a row an item, its query in the first row"""

Row = dict[str, Any]


class ParquetSink:
    """A `Sink` that writes one file for each day and kind of a batch: give it large batches.

    Batches come in log order without gaps; they may be redelivered with other boundaries. `rows` and `malformed` count rows
    written by this process. ServingError when another process holds the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
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
            self._write_new(kind, partition, rows)

    def _write_new(self, kind: str, partition: str, rows: Iterable[Row]) -> None:
        written = self._intervals(partition)
        end = max((last for _, last in written), default=-1)
        new = [row for row in rows if row["sequence"] > end or not _covered(row["sequence"], written)]
        if not new:
            return
        interval = new[0]["sequence"], new[-1]["sequence"]
        data = io.BytesIO()
        _table(kind, new).write_parquet(data)
        write_atomically(self.folder / partition / f"{interval[0]}-{interval[1]}.parquet", data.getvalue())
        written.append(interval)
        self.rows += len(new)
        self.malformed += len(new) * (kind == MALFORMED)

    def _intervals(self, partition: str) -> list[tuple[int, int]]:
        """First and last sequence of each file of a partition."""
        if partition not in self._written:
            names = [path.stem.split("-") for path in (self.folder / partition).glob("*.parquet")]
            self._written[partition] = [(int(first), int(last)) for first, last in names]
        return self._written[partition]


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
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        text = json.dumps(
            asdict(record), separators=(",", ":"), sort_keys=True
        )  # json accepts values that orjson refuses
        row = {"sequence": stored.sequence, "id": str(record.id), "reason": repr(error), "record": text}
        return MALFORMED, MALFORMED, [row]


def _head(stored: StoredRecord) -> Row:
    record = stored.record
    return {
        "sequence": stored.sequence,
        "id": _text(record.id),
        "user": _text(record.user),
        "timestamp": _number(record.timestamp),
    }


def _feedback(stored: StoredRecord) -> list[Row]:
    event = stored.record.event()
    row = _head(stored) | {
        "item": _text(event.item),
        "request_id": _optional_text(event.request_id),
        "position": None if event.position is None else _int64(event.position),
        "propensity": None if event.propensity is None else _number(event.propensity),
        "bundle": _optional_text(event.bundle),
        "rules": _optional_text(event.rules),
        "context": _json(event.context),
    }
    return [row | dict(_action(name, value) for name, value in event.actions.items())]


def _action(name: str, value: Any) -> tuple[str, float | str]:
    """Column and value; words and numbers of one name get two columns, since a column has one type."""
    return (f"{WORD}{name}", value) if isinstance(value, str) else (f"{ACTION}{name}", _number(value))


def _impression(stored: StoredRecord) -> list[Row]:
    """One row an item; one row without an item for an empty slate."""
    body = stored.record.body
    slate = body["slate"]
    shared = _head(stored) | {
        "request_id": _text(slate["request_id"]),
        "bundle": _text(slate["bundle"]),
        "rules": _text(slate["rules"]),
        "rung": _text(body["rung"]),
        "degraded": [_text(name) for name in slate["degraded"]],
    }
    rows = [shared | _impression_item(position, item) for position, item in enumerate(slate["items"])] or [shared]
    return [rows[0] | {"query": _json(body["query"])}, *rows[1:]]


def _preference(stored: StoredRecord) -> list[Row]:
    return [_head(stored) | {"kind": stored.record.kind, "body": _json(dict(stored.record.body))}]


ROWS: dict[str, Callable[[StoredRecord], list[Row]]] = {
    FEEDBACK: _feedback,
    IMPRESSIONS: _impression,
    PREFERENCES: _preference,
}


def _impression_item(position: int, item: Mapping[str, Any]) -> Row:
    return {
        "item": _text(item["item"]),
        "position": position,
        "propensity": _number(item["propensity"]),
        "probabilities": _json(item["probabilities"]),
        "utility": _number(item["utility"]),
        "sources": [_text(name) for name in item["sources"]],
        "rank": _int64(item["rank"]),
        "explored": bool(item["explored"]),
        "adds": _json(item.get("adds", {})),
        "because_of": _optional_text(item.get("because_of")),
    }


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)


def _number(value: Any) -> float:
    if isinstance(value, bool | str) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def _int64(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_INT64:
        raise ValueError(f"{value!r} is no whole number of 64 bits")
    return value


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
