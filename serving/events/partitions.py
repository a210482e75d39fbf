"""The log as Parquet, to be trained on and asked about.

    feedback/day=2026-11-26/<first sequence>-<last sequence>.parquet      what users did
    impressions/day=2026-11-26/<first>-<last>.parquet                     what they were shown
    preferences/day=2026-11-26/<first>-<last>.parquet     what they do not want to see, and columns of their profiles
    malformed/<first>-<last>.parquet                                      records that do not fit these tables, as text

A day is that of the records' own time, UTC. A file has everything of its folder from its first to its last sequence, so
that the names say what was written before.
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
from serving.events.lock import hold
from serving.events.record import Stored

FEEDBACK, IMPRESSIONS, PREFERENCES, MALFORMED = "feedback", "impressions", "preferences", "malformed"
TABLES = {"feedback": FEEDBACK, "impression": IMPRESSIONS} | dict.fromkeys(("hide", "unhide", "profile"), PREFERENCES)
"""by kind of record"""
LARGEST = 2**63 - 1
HEAD = {"sequence": pl.Int64, "id": pl.String, "user": pl.String, "timestamp": pl.Float64}
SCHEMAS: dict[str, dict[str, Any]] = {
    FEEDBACK: HEAD
    | {"item": pl.String, "request_id": pl.String, "position": pl.Int64, "propensity": pl.Float64}
    | {"bundle": pl.String, "rules": pl.String, "context": pl.String},
    IMPRESSIONS: HEAD
    | {"item": pl.String, "request_id": pl.String, "position": pl.Int64, "propensity": pl.Float64}
    | {"probabilities": pl.String, "utility": pl.Float64, "sources": pl.List(pl.String)}
    | {"rank": pl.Int64, "explored": pl.Boolean, "bundle": pl.String, "rules": pl.String}
    | {"adds": pl.String, "because_of": pl.String}
    | {"rung": pl.String, "degraded": pl.List(pl.String), "query": pl.String},
    PREFERENCES: HEAD | {"kind": pl.String, "body": pl.String},
    MALFORMED: {"sequence": pl.Int64, "id": pl.String, "reason": pl.String, "record": pl.String},
}
"""columns of the tables; `context`, `probabilities`, `adds`, `query` and `body` are JSON, feedback has a column
an action, Float64 for a number and String for a word, an impression has a row an item and its query in the first of them"""

Row = dict[str, Any]


class PartitionSink:
    """A `Sink` that makes one file of each day and kind of a batch: give it large batches.

    Batches come in the order of the log and without gaps; they may come again with other borders. `rows` and `malformed`
    count what this process wrote. ServingError when another process has the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.rows = self.malformed = 0
        self._lock = hold(self.folder)
        self._written: dict[str, list[tuple[int, int]]] = {}

    async def write(self, batch: Sequence[Stored]) -> None:
        """Return when every record of the batch is on the disk, in one file."""
        try:
            await asyncio.to_thread(self._write, batch)
        except OSError as error:
            raise ServingError(f"{self.folder} cannot be written ({error.strerror}); free some space there") from None

    def close(self) -> None:
        """Let other processes have the folder."""
        os.close(self._lock)

    def _write(self, batch: Sequence[Stored]) -> None:
        partitions: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for stored in batch:
            kind, place, rows = _flattened(stored)
            partitions[kind, place] += rows
        for (kind, place), rows in sorted(partitions.items()):
            self._write_new(kind, place, rows)

    def _write_new(self, kind: str, place: str, rows: Iterable[Row]) -> None:
        written = self._intervals(place)
        end = max((last for _, last in written), default=-1)
        new = [row for row in rows if row["sequence"] > end or not _covered(row["sequence"], written)]
        if not new:
            return
        interval = new[0]["sequence"], new[-1]["sequence"]
        data = io.BytesIO()
        _table(kind, new).write_parquet(data)
        write_atomically(self.folder / place / f"{interval[0]}-{interval[1]}.parquet", data.getvalue())
        written.append(interval)
        self.rows += len(new)
        self.malformed += len(new) * (kind == MALFORMED)

    def _intervals(self, place: str) -> list[tuple[int, int]]:
        """First and last sequence of the files of a folder."""
        if place not in self._written:
            names = [path.stem.split("-") for path in (self.folder / place).glob("*.parquet")]
            self._written[place] = [(int(first), int(last)) for first, last in names]
        return self._written[place]


def _covered(sequence: int, intervals: Iterable[tuple[int, int]]) -> bool:
    return any(first <= sequence <= last for first, last in intervals)


def _table(kind: str, rows: Sequence[Row]) -> pl.DataFrame:
    known = SCHEMAS[kind]
    actions = sorted({name for row in rows for name in row} - known.keys())
    return pl.DataFrame(
        rows, schema=known | {name: pl.String if name.startswith(WORD) else pl.Float64 for name in actions}
    )


def _flattened(stored: Stored) -> tuple[str, str, list[Row]]:
    """Table, folder and rows of a record."""
    record = stored.record
    try:
        kind = TABLES[record.kind]
        rows = ROWS[kind](stored)
        return kind, f"{kind}/day={datetime.fromtimestamp(record.timestamp, UTC):%Y-%m-%d}", rows
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        text = json.dumps(asdict(record), separators=(",", ":"), sort_keys=True)  # takes what orjson does not
        row = {"sequence": stored.sequence, "id": str(record.id), "reason": repr(error), "record": text}
        return MALFORMED, MALFORMED, [row]


def _head(stored: Stored) -> Row:
    record = stored.record
    return {
        "sequence": stored.sequence,
        "id": _text(record.id),
        "user": _text(record.user),
        "timestamp": _number(record.timestamp),
    }


def _feedback(stored: Stored) -> list[Row]:
    event = stored.record.event()
    row = _head(stored) | {
        "item": _text(event.item),
        "request_id": _optional_text(event.request_id),
        "position": None if event.position is None else _whole(event.position),
        "propensity": None if event.propensity is None else _number(event.propensity),
        "bundle": _optional_text(event.bundle),
        "rules": _optional_text(event.rules),
        "context": _json(event.context),
    }
    return [row | dict(_action(name, value) for name, value in event.actions.items())]


def _action(name: str, value: Any) -> tuple[str, float | str]:
    """Column and value; a word has another column than a number of the same name, as a column has one type."""
    return (f"{WORD}{name}", value) if isinstance(value, str) else (f"{ACTION}{name}", _number(value))


def _impression(stored: Stored) -> list[Row]:
    """A row an item; one without an item when nothing was shown."""
    body = stored.record.body
    slate = body["slate"]
    every = _head(stored) | {
        "request_id": _text(slate["request_id"]),
        "bundle": _text(slate["bundle"]),
        "rules": _text(slate["rules"]),
        "rung": _text(body["rung"]),
        "degraded": [_text(name) for name in slate["degraded"]],
    }
    rows = [every | _shown(position, item) for position, item in enumerate(slate["items"])] or [every]
    return [rows[0] | {"query": _json(body["query"])}, *rows[1:]]


def _preference(stored: Stored) -> list[Row]:
    return [_head(stored) | {"kind": stored.record.kind, "body": _json(dict(stored.record.body))}]


ROWS: dict[str, Callable[[Stored], list[Row]]] = {
    FEEDBACK: _feedback,
    IMPRESSIONS: _impression,
    PREFERENCES: _preference,
}


def _shown(position: int, item: Mapping[str, Any]) -> Row:
    return {
        "item": _text(item["item"]),
        "position": position,
        "propensity": _number(item["propensity"]),
        "probabilities": _json(item["probabilities"]),
        "utility": _number(item["utility"]),
        "sources": [_text(name) for name in item["sources"]],
        "rank": _whole(item["rank"]),
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


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST:
        raise ValueError(f"{value!r} is no whole number of 64 bits")
    return value


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
