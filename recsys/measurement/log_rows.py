"""Impressions and events in the form that a measurement keeps, from the rows of the Parquet event log.

An impression has a row an item (one without an item for an empty slate), an event a row. Copies of a record are one row: the
earliest.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from recsys.data.sources.event_log import ACTION, WORD
from recsys.measurement.settings import OWNERS, MeasurementSettings

VALUE, CREDIT = "value_", "credit_"
"""column prefixes: value of an outcome for an event, credit of an outcome to an impression"""
SPLITS = ("bundle", "rules", "rung", "surface", "explored", "new_user", "hour")
"""columns of impressions that figures are split by, beside those of the settings"""
SHOWN_KEY, EVENT_KEY = ("id", "position"), ("id",)
EVENT = {"sequence": pl.Int64, "id": pl.String, "user": pl.String, "timestamp": pl.Float64}
EVENT |= {"item": pl.String, "request_id": pl.String}
SHOWN = EVENT | {"position": pl.Int64, "propensity": pl.Float64, "explored": pl.Boolean, "bundle": pl.String}
SHOWN |= {"rules": pl.String, "rung": pl.String, "team": pl.String, "query": pl.String}
"""columns of the log that are read"""


def impressions_of(rows: pl.DataFrame, settings: MeasurementSettings) -> pl.DataFrame:
    """Return impressions in canonical order from rows of the log, texts for all splits."""
    first = rows.filter(pl.col("query").is_not_null()).unique("id", keep="first", maintain_order=True)
    requests = first.select("id", *_of_query(first["query"], settings))
    hour = (pl.col("timestamp") % 86_400 // 3_600).cast(pl.Int64)
    table = rows.drop("query").join(requests, on="id", how="left", maintain_order="left")
    texts = table.with_columns(
        explored=_yes_or_no("explored"),
        new_user=_yes_or_no("new_user"),
        hour=pl.format("{}", hour.cast(pl.String).str.zfill(2)),
    )
    return once(texts.rename({"timestamp": "shown_at"}), SHOWN_KEY, "shown_at")


def _of_query(queries: pl.Series, settings: MeasurementSettings) -> list[pl.Series]:
    """Columns of the requests: surface, whether the user has no history, and those of the settings; null where missing."""
    named = [column.partition(".")[::2] for column in settings.by]
    columns = {one: sorted({name for owner, name in named if owner == one}) for one in OWNERS}
    owners = {one: pl.Struct(dict.fromkeys(names, pl.String)) for one, names in columns.items() if names}
    history = pl.List(pl.Struct({"timestamp": pl.Float64}))
    read = queries.str.json_decode(pl.Struct({"surface": pl.String, "history": history, **owners})).struct
    new = (read.field("history").list.len().fill_null(0) == 0).alias("new_user")
    chosen = [read.field(owner).struct.field(name).alias(f"{owner}.{name}") for owner, name in named]
    return [read.field("surface"), new, *chosen]


def _yes_or_no(column: str) -> pl.Expr:
    return pl.when(column).then(pl.lit("yes")).when(~pl.col(column)).then(pl.lit("no"))


def events_of(rows: pl.DataFrame, settings: MeasurementSettings) -> pl.DataFrame:
    """Return events in canonical order with the value of each outcome, from rows of the log."""
    actions = {name: action_values(rows, name, kind) for name, kind in settings.actions.items()}
    values = {name: _values(one.labels(actions), rows.height) for name, one in settings.expressions.items()}
    table = rows.select(*EVENT).with_columns(pl.Series(VALUE + name, one) for name, one in values.items())
    return once(table.rename({"timestamp": "at"}), EVENT_KEY, "at")


def action_values(rows: pl.DataFrame, name: str, kind: str) -> np.ndarray:
    column = (WORD if kind == "word" else ACTION) + name
    if column not in rows.columns:
        return np.full(rows.height, None if kind == "word" else np.nan, object if kind == "word" else float)
    return rows[column].to_numpy() if kind == "word" else rows[column].cast(pl.Float64).fill_null(np.nan).to_numpy()


def _values(labels: np.ndarray, num_rows: int) -> np.ndarray:
    """[R] float64 values, 0 where unknown."""
    return np.nan_to_num(np.broadcast_to(labels, (num_rows,)).astype(np.float64))


def once(table: pl.DataFrame, key: Sequence[str], time: str) -> pl.DataFrame:
    """Return each record once, the earliest of its copies, by time: the same rows in any order give the same table."""
    earliest = table.sort(time, "sequence", nulls_last=True).unique(key, keep="first", maintain_order=True)
    return earliest.sort(time, *key, nulls_last=True).rechunk()
