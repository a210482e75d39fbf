"""Encoding of records and events into arrays, for training, evaluation and serving.

Shapes: R rows, B queries, L history length of the towers, H of the longest history, T objectives, N items of the catalogue.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from recsys.contracts import PAD, Query
from recsys.features.batches import RequestBatch
from recsys.features.history import EventSequences, encode_labels
from recsys.features.memory import remembered_rows
from recsys.features.numbers import bucket_of, piecewise_linear, signed_log
from recsys.features.spec import MISSING, RESERVED, UNKNOWN, Column, Columns, FeatureSpec, TableSpec, checksum
from recsys.features.state import history_events, item_key
from recsys.tensors import PARTS, Arrays

DAY = 86_400.0
UNKNOWN_SUFFIX = ":unknown"
"""suffix of a column's name in `degraded`: it has a value that the bundle does not know"""


def encode_table(table: TableSpec, columns: Columns, num_rows: int) -> Arrays:
    """Encode one table: {"ids": [R, I] int64, "numbers": [R, F] float32, "vectors": [R, V] float32}, without empty parts.

    Categories and lists are object arrays of str / tuples, None where missing; numbers float arrays, NaN where missing.
    """
    ids = [_encode_ids(column, columns[column.name]) for column in table.of_part("ids")]
    numbers = [_encode_number(column, columns[column.name]) for column in table.of_part("numbers")]
    numbers += [np.asarray(columns[name], dtype=np.float32)[:, None] for name in table.extra_numbers]
    vectors = [_encode_vector(column, columns[column.name]) for column in table.of_part("vectors")]
    parts = zip(PARTS, (ids, numbers, vectors), strict=True)
    encoded = {name: np.concatenate(part, axis=1) for name, part in parts if part}
    assert all(len(part) == num_rows for part in encoded.values())
    return encoded


def _encode_ids(column: Column, values: np.ndarray) -> np.ndarray:
    if column.kind == "number":
        raw, missing = _floats(values)
        return np.where(missing, MISSING, RESERVED + bucket_of(raw, column.edges))[:, None]
    if column.kind == "category":
        ids = {value: _lookup(column, value) for value in set(values.tolist())}
        return np.fromiter(map(ids.__getitem__, values.tolist()), np.int64, len(values))[:, None]
    encoded = np.full((len(values), column.slots), MISSING, dtype=np.int64)
    for row, listed in enumerate(values):
        kept = [_lookup(column, value) for value in (listed or ())[: column.slots]]
        encoded[row, : len(kept)] = kept
    return encoded


def _lookup(column: Column, value: Any) -> int:
    if value is None:
        return MISSING
    if column.hash_size:
        return RESERVED + checksum(value) % column.hash_size
    return column.index.get(value, UNKNOWN)


def _floats(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return [R] float64, 0 where missing, and [R] bool, missing."""
    raw = np.asarray(values, dtype=np.float64)
    missing = ~np.isfinite(raw)
    return np.where(missing, 0.0, raw), missing


def _encode_number(column: Column, values: np.ndarray) -> np.ndarray:
    """Return the values of a number and, last, its missing flag: [R, column.width] float32."""
    raw, missing = _floats(values)
    if column.encoding == "piecewise":
        parts = piecewise_linear(raw, column.edges) if len(column.edges) > 1 else np.zeros((len(raw), 1))
    else:
        scaled = ((signed_log(raw) if column.encoding == "log" else raw) - column.mean) / column.scale
        parts = np.clip(scaled, -10, 10)[:, None]
    present = np.where(missing[:, None], 0.0, parts)
    return np.concatenate([present, missing[:, None]], axis=1).astype(np.float32)


def _encode_vector(column: Column, values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(np.asarray(values, dtype=np.float32).reshape(len(values), column.slots))


def missing_columns(table: TableSpec, encoded: Arrays, num_rows: int) -> list[list[str]]:
    """Columns that are missing or of the wrong kind in each row of an encoded table, and with UNKNOWN_SUFFIX those with a
    value that training never saw.
    """
    lacking: list[tuple[str, np.ndarray]] = []
    starts = dict.fromkeys(PARTS, 0)
    for column in table.columns:
        values = encoded[column.part][:, starts[column.part] : starts[column.part] + column.width]
        starts[column.part] += column.width
        lacking.append(
            (column.name, values[:, -1] == 1 if column.part == "numbers" else (values == MISSING).all(axis=1))
        )
        if column.part == "ids":
            lacking.append((column.name + UNKNOWN_SUFFIX, (values == UNKNOWN).any(axis=1)))
    return [[name for name, rows in lacking if rows[row]] for row in range(num_rows)]


def time_columns(now: np.ndarray) -> Columns:
    """Hour of the day and day of the week as points on circles; now is [R] unix seconds, UTC."""
    hour = 2 * np.pi * (now % DAY) / DAY
    weekday = 2 * np.pi * (now % (7 * DAY)) / (7 * DAY)
    return {
        "hour_sin": np.sin(hour),
        "hour_cos": np.cos(hour),
        "weekday_sin": np.sin(weekday),
        "weekday_cos": np.cos(weekday),
    }


@dataclass(frozen=True, kw_only=True)
class ItemTable:
    """The encoded catalogue. Row N, one past the last item, is all padding, so that PAD (-1) selects it."""

    ids: tuple[str, ...]
    encoded: Arrays
    """as encode_table gives them, N + 1 rows"""

    @staticmethod
    def encode(table: TableSpec, ids: Sequence[str], columns: Columns) -> "ItemTable":
        encoded = encode_table(table, columns, len(ids))
        padded = {name: np.concatenate([part, np.zeros_like(part[:1])]) for name, part in encoded.items()}
        return ItemTable(ids=tuple(ids), encoded=padded)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def rows(self) -> dict[str, int]:
        """item id -> row"""
        return {item: row for row, item in enumerate(self.ids)}

    @cached_property
    def ties(self) -> np.ndarray:
        """[N + 1] rank of every item in the order of `item_key`, padding last."""
        order = sorted(range(len(self)), key=lambda row: item_key(self.ids[row]))
        ties = np.full(len(self) + 1, len(self))
        ties[order] = np.arange(len(self))
        return ties

    def revised(self, rows: np.ndarray, encoded: Arrays, new_ids: Sequence[str]) -> "ItemTable":
        """Return a table with other features at rows [M], ascending; those from N on are the rows of new items."""
        if not len(rows):
            return self
        return ItemTable(
            ids=(*self.ids, *new_ids),
            encoded={name: _revised(part, rows, encoded[name], len(new_ids)) for name, part in self.encoded.items()},
        )

    def at(self, rows: np.ndarray) -> Arrays:
        """Features of the items at `rows` (any shape, PAD allowed): {"ids": [*rows.shape, I], ...}."""
        return {part: encoded[rows] for part, encoded in self.encoded.items()}


def _revised(part: np.ndarray, rows: np.ndarray, values: np.ndarray, num_new: int) -> np.ndarray:
    """[N + 1, ...] and values [M, ...] -> [N + num_new + 1, ...]; the last row stays all padding."""
    grown = np.concatenate([part, np.zeros_like(part, shape=(num_new, *part.shape[1:]))])
    grown[rows] = values
    grown[-1] = 0
    return grown


def encode_queries(spec: FeatureSpec, items: ItemTable, queries: Sequence[Query]) -> tuple[RequestBatch, np.ndarray]:
    """Queries -> (what the models read of them, catalogue rows of whole histories [B, H], newest last).

    H is at least L. Behind the newest L events stands what is older, compressed as a memory is: whether a query has it in its
    history or in its memory changes nothing.
    """
    sequences, everyone = _sequences(spec, items, queries), np.arange(len(queries))
    newest = sequences.before(sequences.offsets[1:], everyone, spec.history_length)
    recent = sequences.items_at(newest)
    rows = np.concatenate([_older_rows(spec, items, queries, sequences), recent], axis=1)
    now = np.array([query.now for query in queries])
    context_columns = _gather(spec.context, [query.context for query in queries])
    request = RequestBatch(
        history=items.at(recent),
        labels=sequences.labels_at(newest),
        gaps=sequences.gaps_at(newest, now),
        profile=encode_table(spec.profile, _gather(spec.profile, [query.profile for query in queries]), len(queries)),
        context=encode_table(spec.context, {**context_columns, **time_columns(now)}, len(queries)),
    )
    return request, rows


def _older_rows(spec: FeatureSpec, items: ItemTable, queries: Sequence[Query], sequences: EventSequences) -> np.ndarray:
    """Catalogue rows [B, H'] of what is older than the newest L events of each query, newest last, padding in front."""
    older = np.flatnonzero(sequences.positions < (np.diff(sequences.offsets) - spec.history_length)[sequences.users])
    known = items.rows
    kept = [
        (query, row, *entry)
        for query, one in enumerate(queries)
        for item, entry in one.memory.items()
        if (row := known.get(item, PAD)) != PAD
    ]
    times = [event.timestamp for query in queries for event in query.history] if len(older) else []
    left = np.stack(
        [
            sequences.users[older],
            sequences.items[older],
            np.ones(len(older)),
            np.array(times, dtype=np.float64)[sequences.rows[older]],
        ],
        axis=1,
    )
    owner, row, counts, last = np.concatenate([left, np.array(kept, dtype=np.float64).reshape(-1, 4)]).T
    row = row.astype(np.int64)
    return _padded(*remembered_rows(owner.astype(np.int64), row, counts, last, items.ties[row]), len(queries))


def _padded(owner: np.ndarray, row: np.ndarray, num: int) -> np.ndarray:
    """Rows [M] grouped by their owner [M], 0 to num - 1 -> [num, longest], PAD in front."""
    lengths = np.bincount(owner, minlength=num)
    padded = np.full((num, lengths.max(initial=0)), PAD, dtype=np.int64)
    padded[np.arange(padded.shape[1]) >= padded.shape[1] - lengths[:, None]] = row
    return padded


def _sequences(spec: FeatureSpec, items: ItemTable, queries: Sequence[Query]) -> EventSequences:
    """History events of the queries that reach an objective, without unknown items."""
    events = [event for query in queries for event in query.history]
    histories = np.repeat(np.arange(len(queries)), [len(query.history) for query in queries])
    known = items.rows
    rows = np.array([known.get(event.item, PAD) for event in events], dtype=np.int64)
    kept, labels, times = history_events(events, histories, items.ties[rows], spec)
    known_items = rows[kept] != PAD
    kept = kept[known_items]
    return EventSequences(
        offsets=np.concatenate([[0], np.cumsum(np.bincount(histories[kept], minlength=len(queries)))]),
        rows=kept,
        items=rows[kept],
        labels=encode_labels(labels[known_items]),
        timestamps=times[known_items] if spec.clock else np.full(len(kept), np.nan),
    )


def _gather(table: TableSpec, records: Sequence[Mapping[str, Any]]) -> Columns:
    return {
        column.name: column_array(column.kind, [record.get(column.name) for record in records], column.slots)
        for column in table.columns
    }


def column_array(kind: str, values: Sequence[Any], length: int = 0) -> np.ndarray:
    """Convert raw values of tables and callers to the array that spec and encode_table read.

    A value of the wrong kind counts as missing, and so does a blank text; texts are stripped. length: of a vector; a missing
    one is all zeros.
    """
    if kind in ("number", "timestamp"):
        return np.array([_as_number(value) for value in values], dtype=np.float64)
    if kind == "vector":
        return np.stack([_as_vector(value, length) for value in values])
    array = np.empty(len(values), dtype=object)
    convert = _as_texts if kind == "categories" else _as_text
    for row, value in enumerate(values):
        array[row] = convert(value)
    return array


def _as_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return np.nan
    return float(value) if abs(value) <= sys.float_info.max else np.nan


def _as_vector(value: Any, length: int) -> np.ndarray:
    usable = isinstance(value, list | tuple) and len(value) == length and all(_as_number(one) == one for one in value)
    return np.array(value if usable else [0.0] * length, dtype=np.float32)


def _as_text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _as_texts(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        return None
    return tuple(dict.fromkeys(text for one in value if (text := one.strip()))) or None
