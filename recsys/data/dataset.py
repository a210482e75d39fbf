"""Canonical form of a data set.

N items, U users, R rows (events), T objectives.
"""

import hashlib
import os
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from recsys.data.description import ITEM, ORDERS, SPLIT, TIMESTAMP, USER, Description

DTYPES: dict[str, Any] = {
    "word": pl.String,
    "category": pl.String,
    "text": pl.String,
    "categories": pl.List(pl.String),
    "number": pl.Float64,
    "timestamp": pl.Float64,
    "vector": pl.List(pl.Float64),
}
DESCRIPTION_FILE = "description.yaml"


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Validated tables in canonical order; null means missing, NaN does not occur. Build one with `canonical`."""

    name: str
    interactions: pl.DataFrame
    """[R] user, item: String; timestamp: Float64, unix seconds UTC; actions: Float64 or String; context columns by kind"""
    items: pl.DataFrame
    """[N] item: String and the columns by kind, one row for every known item, by crc32 of item"""
    users: pl.DataFrame
    """[U] user: String and the columns by kind, one row for every known user, by crc32 of user"""
    description: Description
    notes: tuple[str, ...]
    """notes for reports: dropped duplicates, the substitute for time"""
    impressions: pl.DataFrame | None = None
    """one row per shown item, by time, request and position: user, timestamp, request: String; known_at: Float64, time at
    which all outcomes are known; query: String, the JSON query, in the first row of a request; item: String; position:
    Int64; propensity: Float64; labels: Array of T Float32, 0 without an outcome, NaN where unknown. None without logged
    impressions"""

    @property
    def num_users(self) -> int:
        return self.users.height

    @property
    def num_items(self) -> int:
        return self.items.height

    @property
    def num_events(self) -> int:
        return self.interactions.height

    def labels(self) -> np.ndarray:
        """Return [R, T] float32, one column per objective; NaN where the label is missing."""
        return self.description.labels(self.actions(), self.num_events)

    def actions(self) -> dict[str, np.ndarray]:
        """Return the action columns [R] for expressions."""
        return action_columns(self.interactions, self.description)

    def positives(self) -> np.ndarray:
        """Return [R] bool, events whose target label is above zero; a missing label is no positive."""
        return self.labels()[:, list(self.description.objectives).index(self.description.target)] > 0

    def hash(self) -> str:
        """Return the sha256 of user, item, timestamp and actions in canonical order, independent of library versions."""
        digest = hashlib.sha256()
        for column in (USER, ITEM):
            digest.update(_text_bytes(self.interactions[column]))
        for column in (TIMESTAMP, *self.description.actions):
            digest.update(column.encode() + b"\0")
            values = self.interactions[column]
            digest.update(_text_bytes(values) if values.dtype == pl.String else _float_bytes(values))
        return digest.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write three Parquet files and a description.yaml that the source `Tables` reads back equal.

        Every file is written to a draft and renamed, the description last: a reader that finds it finds all files.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tables = {"interactions": self.interactions, "items": self.items, "users": self.users}
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as beside:
            for name, table in tables.items():
                table.write_parquet(Path(beside, f"{name}.parquet"))
            text = yaml.safe_dump(_tables_document(self), sort_keys=False, allow_unicode=True)
            Path(beside, DESCRIPTION_FILE).write_text(text, encoding="utf-8")
            for file in (*(f"{name}.parquet" for name in tables), DESCRIPTION_FILE):
                os.replace(Path(beside, file), folder / file)


def canonical(
    *,
    name: str,
    interactions: pl.DataFrame,
    items: pl.DataFrame | None,
    users: pl.DataFrame | None,
    description: Description,
) -> Dataset:
    """Build the canonical form from typed tables: no duplicates, one order, one row for every item and user.

    Events are ordered by (timestamp, user, crc32 of item, item): the checksum keeps raw ids, which are often sorted
    by popularity or by target, from ordering the events of one second. The actions come last, only to break full ties.
    """
    schema = _schema(description)
    unique = interactions.select(list(schema["interactions"])).unique(maintain_order=True)
    order = [pl.col(TIMESTAMP), pl.col(USER), pl.lit(checksums(unique[ITEM])), pl.col(ITEM), *description.actions]
    return Dataset(
        name=name,
        interactions=unique.sort(order, maintain_order=True),
        items=_complete(items, unique[ITEM], schema["items"]),
        users=_complete(users, unique[USER], schema["users"]),
        description=description,
        notes=_notes(description, interactions.height - unique.height),
    )


def checksums(ids: pl.Series) -> pl.Series:
    """Return the crc32 of every id's UTF-8 bytes, as UInt32."""
    unique = ids.unique()
    sums = pl.Series([zlib.crc32(one.encode()) for one in unique], dtype=pl.UInt32)
    return ids.replace_strict(unique, sums, return_dtype=pl.UInt32).alias("checksum")


def _schema(description: Description) -> dict[str, dict[str, Any]]:
    def columns(kinds: Mapping[str, str]) -> dict[str, Any]:
        return {column: DTYPES[kind] for column, kind in kinds.items()}

    return {
        "interactions": {USER: pl.String, ITEM: pl.String, TIMESTAMP: pl.Float64}
        | columns(description.actions)
        | columns(description.context)
        | ({SPLIT: pl.String} if description.split else {}),
        "items": {ITEM: pl.String} | columns(description.items),
        "users": {USER: pl.String} | columns(description.users),
    }


def _complete(table: pl.DataFrame | None, ids: pl.Series, schema: Mapping[str, Any]) -> pl.DataFrame:
    """Add a row of nulls for every id that `table` lacks, ordered by checksum so that row numbers carry no information."""
    known = pl.DataFrame(schema=schema) if table is None else table.select(list(schema))
    key = next(iter(schema))
    unseen = pl.DataFrame({key: ids.unique()}).join(known, on=key, how="anti")
    complete = pl.concat([known, unseen], how="diagonal")
    return complete.sort(pl.lit(checksums(complete[key])), key)


def _notes(description: Description, num_duplicates: int) -> tuple[str, ...]:
    notes = []
    if not description.clock:
        note = f"order: {description.order}, there is no time: {ORDERS[description.order]}"
        notes.append(f"{note}; hours, gaps, ages and days count for nothing")
    if num_duplicates:
        notes.append(f"duplicate rows of the interactions that were dropped: {num_duplicates}")
    return tuple(notes)


def action_columns(events: pl.DataFrame, description: Description) -> dict[str, np.ndarray]:
    """Return the action columns [R] of events for expressions: NaN or None where missing."""
    return {name: _floats(events[name]) if kind == "number" else np.array(events[name].to_list(), dtype=object)
            for name, kind in description.actions.items()}  # fmt: skip


def _floats(column: pl.Series) -> np.ndarray:
    return column.fill_null(float("nan")).to_numpy()


def _float_bytes(column: pl.Series) -> bytes:
    values = _floats(column).astype("<f8") + 0.0
    values[np.isnan(values)] = np.nan
    return values.tobytes()


def _text_bytes(column: pl.Series) -> bytes:
    texts = [None if text is None else text.encode() for text in column]
    lengths = [-1 if text is None else len(text) for text in texts]
    return np.array(lengths, "<i8").tobytes() + b"".join(filter(None, texts))


def _tables_document(dataset: Dataset) -> dict[str, Any]:
    described = dataset.description
    time = {"timestamp": TIMESTAMP, "unit": "s"} if described.clock else {"order": described.order}
    document = {
        "name": dataset.name,
        "interactions": {"file": "interactions.parquet", "user": USER, "item": ITEM}
        | time
        | {"actions": dict(described.actions), "context": dict(described.context)}
        | ({"split": SPLIT} if described.split else {}),
        "items": {"file": "items.parquet", "item": ITEM, "columns": dict(described.items)},
        "users": {"file": "users.parquet", "user": USER, "columns": dict(described.users)},
        "objectives": dict(described.objectives),
        "target": described.target,
    }
    optional = {"means": dict(described.means) or None, "title": described.title}
    return document | {key: value for key, value in optional.items() if value is not None}
