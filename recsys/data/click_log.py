"""Click logs: one row an impression with its labels and features, and no history.

Shapes: R rows, T labels.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from recsys.data.description import PARTS, part_of_split
from recsys.data.ids import NOTHING, is_nothing
from recsys.data.row_errors import parsed_numbers, refuse_rows
from recsys.data.scanning import Chunk, ChunkedTable
from recsys.data.times import seconds_of
from recsys.errors import DataError

RowOrder = Literal["time", "file", "none"]
Progress = Callable[[Iterable[Chunk], str, int | None], Iterable[Chunk]]
"""chunks, description, number of rows if known -> the same chunks"""


@dataclass(frozen=True, kw_only=True)
class ImpressionColumns:
    """Columns of a click log, as its description names them."""

    labels: tuple[str, ...]
    """columns of 0 and 1, empty where unknown; the order is that of the label axis"""
    target: str
    """label whose likelihood and AUC a training is watched by"""
    numbers: Mapping[str, Mapping[str, Any]]
    """number -> its encoding: kind, and bins where given (recsys/features/numbers.py)"""
    categories: Mapping[str, int]
    """category -> number of ids that its values are hashed to; 0 keeps a vocabulary of those in the training rows"""
    user: str | None
    """column by whose values an AUC is averaged, no feature of its own"""
    groups: tuple[str, ...]
    """further columns of that kind"""
    timestamp: str | None
    """time of the impression, whose hour and weekday are features"""
    unit: str | None
    """of numeric times (recsys/data/times.py)"""
    order: RowOrder
    """order of the rows where there is no timestamp: `file` that of the file, `none` no order"""
    split: str | None
    """column with the part of a given split"""
    missing: tuple[str, ...]
    """null words beside the common ones"""

    @property
    def features(self) -> tuple[str, ...]:
        """Columns that a model reads; the timestamp comes beside them."""
        return (*self.numbers, *self.categories)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Columns that a row needs to be scored."""
        return self.features if self.timestamp is None else (*self.features, self.timestamp)

    @property
    def slices(self) -> tuple[str, ...]:
        """Columns by which an AUC is averaged, each once."""
        return tuple(dict.fromkeys((*(() if self.user is None else (self.user,)), *self.groups)))


@dataclass(frozen=True, kw_only=True)
class ImpressionKeys:
    """Labels of all rows, and what splits and groups them."""

    labels: np.ndarray
    """[R, T] float32, NaN where unknown"""
    times: np.ndarray | None
    """[R] float64: unix seconds, or the number of the row; None without an order"""
    parts: np.ndarray | None
    """[R] str, one of PARTS; None without a given split"""
    groups: Mapping[str, np.ndarray]
    """column -> [R] int64 number of its value, -1 where missing"""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class ClickLog:
    """A described file of impressions; reading it takes the memory of a chunk, and of the keys."""

    name: str
    table: ChunkedTable
    columns: ImpressionColumns

    def keys(self, progress: Progress) -> ImpressionKeys:
        """Read labels, times, parts and groups; DataError with column and row for a value that cannot be used."""
        columns = self.columns
        extra = (*columns.slices, *(one for one in (columns.timestamp, columns.split) if one is not None))
        read = self.table.chunks((*columns.labels, *extra))
        frames, labels = [], []
        for chunk in progress(read, f"reading {self.table.path.name}", None):
            labels.append(np.stack([self._label(chunk, name) for name in columns.labels], axis=1))
            frames.append(chunk.frame.select(list(dict.fromkeys(extra))))
        if not frames:
            raise DataError(f"{self.table.path}: the table has no rows; write at least one")
        frame = pl.concat(frames)
        return ImpressionKeys(
            labels=np.concatenate(labels),
            times=self._times(frame, sum(map(len, labels))),
            parts=None if columns.split is None else self._parts(frame[columns.split]),
            groups={name: _codes(text_of(frame[name], columns.missing)) for name in columns.slices},
        )

    def where(self, column: str) -> str:
        """Return file and column for a message."""
        return f"{self.table.path}, column {column!r}"

    def _label(self, chunk: Chunk, name: str) -> np.ndarray:
        column, where = chunk.frame[name], self.where(name)
        numbers = number_of(column, self.columns.missing, where, chunk.start + 1)
        odd = ~numbers.is_in([0.0, 1.0])
        advice = "write 0 or 1, or nothing where the label is unknown"
        refuse_rows(where, column, odd, "is no label", advice, chunk.start + 1)
        return numbers.cast(pl.Float32).fill_null(np.nan).to_numpy()

    def _times(self, frame: pl.DataFrame, num_rows: int) -> np.ndarray | None:
        if self.columns.order == "none":
            return None
        if (name := self.columns.timestamp) is None:
            return np.arange(num_rows, dtype=np.float64)
        return times_of(frame[name], self.where(name), self.columns.unit)

    def _parts(self, column: pl.Series) -> np.ndarray:
        words = column.cast(pl.String)
        known = {word: part for word in words.unique().drop_nulls() if (part := part_of_split(word))}
        parts = words.replace_strict(known, default=None, return_dtype=pl.String)
        advice = f"write one of {', '.join(PARTS)} in every row"
        refuse_rows(self.where(column.name), column, parts.is_null(), "is no part of a split", advice)
        return parts.to_numpy()


def feature_columns(
    columns: ImpressionColumns, chunk: Chunk, where: str, names: Collection[str]
) -> dict[str, np.ndarray]:
    """Convert some features of a chunk to the arrays that `encode_table` reads; DataError for a number that is none."""
    numbers = {
        name: number_of(chunk.frame[name], columns.missing, f"{where}, column {name!r}", chunk.start + 1)
        for name in columns.numbers
        if name in names
    }
    texts = {name: text_of(chunk.frame[name], columns.missing) for name in columns.categories if name in names}
    return {name: one.fill_null(np.nan).to_numpy() for name, one in numbers.items()} | {
        name: one.to_numpy() for name, one in texts.items()
    }


def number_of(column: pl.Series, missing: tuple[str, ...], where: str, first_row: int) -> pl.Series:
    """Return Float64, null where missing; DataError for a value that is no finite number."""
    if column.dtype == pl.String:
        column = column.set(is_nothing(column, (*NOTHING, *missing)), None)
    numbers = parsed_numbers(column, where).fill_nan(None)
    odd = (numbers.is_null() & column.is_not_null()) | numbers.is_infinite()
    if column.dtype.is_float():
        odd = numbers.is_infinite()
    refuse_rows(
        where, column, odd, "is not a finite number", "write a number, or nothing where it is missing", first_row
    )
    return numbers


def text_of(column: pl.Series, missing: tuple[str, ...]) -> pl.Series:
    """Return stripped text, null where it is blank or one of the words for nothing."""
    text = column.cast(pl.String).str.strip_chars()
    return text.set(text.is_in(["", *missing]), None)


def times_of(column: pl.Series, where: str, unit: str | None) -> np.ndarray:
    """Return [R] unix seconds; DataError for a row without a time."""
    times = seconds_of(column, where, unit).seconds
    refuse_rows(
        where, column, times.is_null(), "is no time", "give every row a time, or say `order` where there is none"
    )
    return times.to_numpy()


def _codes(values: pl.Series) -> np.ndarray:
    """[R] int64: equal numbers for equal values, -1 where missing."""
    return (values.rank("dense").cast(pl.Int64) - 1).fill_null(-1).to_numpy()
