"""Inspection of one column: its values decide the possible kinds, its name the most likely one.

R rows. Values of a delimited file are text, those of a Parquet file have types.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from recsys.data.description import Kind
from recsys.data.ids import NOTHING, is_nothing
from recsys.data.times import RANGES, UNITS, seconds_of
from recsys.errors import DataError

SAMPLE_ROWS = 100_000
"""rows evenly spread over the file whose values are inspected; only ids are counted in all rows"""
SURE = 0.95
"""share of the values that must have a form"""
WORDS = ("", "na", *NOTHING)
"""null words in columns without human-readable text"""
ISO = r"^\d{4}-\d\d?-\d\d?([ T]\d\d?:\d\d(:\d\d([.,]\d+)?)?)? ?(Z|UTC|[+-]\d\d:?\d\d)?$"
COMPACT = r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(\.0)?$"
NUMBERS: dict[str, tuple[float, float]] = {
    "s": (6e8, 4e9), "ms": (6e11, 4e12), "us": (6e14, 4e15), "ns": (6e17, 4e18), **RANGES
}  # fmt: skip
"""unit -> accepted numbers; for seconds and finer the years 1989 to 2096"""
BY_NAME = frozenset(RANGES)
"""units whose numbers are ambiguous: a column is a time only by its name"""
OPAQUE = (pl.Binary, pl.Duration, pl.Time, pl.Object)
"""types that cannot hold an id, a number or a time"""
LIST_SEPARATORS = ("|", ";", ",")
TIME_NAME = re.compile(r"(^|_)(time|date|datetime|timestamp|ts|at|when|created|day|stamp)($|_)|timestamp|date$|time$")


@dataclass(frozen=True, kw_only=True)
class ColumnLook:
    """Findings on one column."""

    name: str
    index: int
    rows: int
    filled: int
    """rows with a value"""
    distinct: int
    dtype: pl.DataType
    whole: bool
    """numbers without a fraction"""
    low: float | None
    """minimum of the numbers; None where the column holds no numbers"""
    high: float | None
    unit: str | None
    """unit of times: ISO 8601, unix seconds, ...; None where the column holds no times"""
    separator: str | None
    """separator of lists written as text; empty for list types"""
    entries: str
    """kind of list entries: text or numbers; empty without lists"""
    length: float
    """mean number of characters of a value"""
    words: float
    """mean number of words of a value"""
    values: tuple[str, ...]
    """distinct values, commonest first, where there are at most 50; else empty"""

    @property
    def unique(self) -> float:
        """Return distinct values per row with a value."""
        return self.distinct / max(1, self.filled)

    @property
    def plain_name(self) -> str:
        """`visitorId` -> visitor_id"""
        return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.name).lower()).strip("_")

    @property
    def numeric(self) -> bool:
        return self.low is not None

    @property
    def opaque(self) -> bool:
        """Return whether its values cannot be inspected."""
        return not self.entries and (self.dtype.is_nested() or self.dtype in OPAQUE)

    @property
    def numbering(self) -> bool:
        """Return whether it counts the rows and is unnamed or named like an index."""
        named = self.unnamed or self.plain_name in ("index", "unnamed_0", "row", "nr")
        return named and self.whole and self.distinct == self.rows and self.high == (self.low or 0) + self.rows - 1

    @property
    def timely(self) -> bool:
        """Return whether its values and its name are those of a time."""
        by_name = TIME_NAME.search(self.plain_name) is not None
        coarse = self.unit in [UNITS[unit] for unit in BY_NAME]
        return self.unit is not None and (by_name or not self.numeric or (self.unnamed and not coarse))

    @property
    def unnamed(self) -> bool:
        return re.fullmatch(r"column_\d+", self.name) is not None


def look(frame: pl.DataFrame) -> dict[str, ColumnLook]:
    """Return name -> findings on the column, in the order of the file."""
    step = max(1, frame.height // SAMPLE_ROWS)
    sample = frame.gather_every(step)
    return {name: _look(index, frame[name], sample[name]) for index, name in enumerate(frame.columns)}


def _look(index: int, column: pl.Series, sample: pl.Series) -> ColumnLook:
    """Inspect a column by a sample of its values."""
    opaque = column.dtype.is_nested() or column.dtype in OPAQUE
    present = column.drop_nulls()
    if column.dtype == pl.String:
        present = present.filter(~is_nothing(present, WORDS))
        sample = sample.filter(~is_nothing(sample, WORDS)).drop_nulls()
    text = pl.Series(dtype=pl.String) if opaque else sample.drop_nulls().cast(pl.String).str.strip_chars()
    numbers = _numbers(column.dtype, text)
    low, high = (None, None) if numbers is None else (float(numbers.min()), float(numbers.max()))  # type: ignore[arg-type]
    separator, entries = _lists(column, text)
    distinct = present.n_unique() if not isinstance(column.dtype, pl.Struct | pl.Object) else len(present)
    return ColumnLook(
        name=column.name,
        index=index,
        rows=len(column),
        filled=len(present),
        distinct=distinct,
        dtype=column.dtype,
        whole=numbers is not None and bool((numbers % 1 == 0).all()),
        low=low,
        high=high,
        unit=_unit(column.dtype, text, numbers),
        separator=separator,
        entries=entries,
        length=_mean(text.str.len_chars()),
        words=_mean(text.str.count_matches(r"\S+")),
        values=tuple(_commonest(text)) if distinct <= 50 else (),
    )


def _mean(lengths: pl.Series) -> float:
    return float(lengths.mean() or 0.0)  # type: ignore[arg-type]


def _commonest(text: pl.Series) -> list[str]:
    counts = text.alias("value").to_frame().group_by("value").len().sort("len", "value", descending=[True, False])
    return counts["value"].to_list()


def _numbers(dtype: pl.DataType, text: pl.Series) -> pl.Series | None:
    """Return the values as numbers, None where nearly all are not numeric."""
    if dtype.is_temporal() or not len(text):
        return None
    if dtype == pl.Boolean:
        text = text.replace_strict({"true": "1", "false": "0"})
    numbers = text.cast(pl.Float64, strict=False).drop_nulls()
    finite = numbers.filter(numbers.is_finite())
    return finite if len(finite) >= max(1.0, SURE * len(text)) else None


def _unit(dtype: pl.DataType, text: pl.Series, numbers: pl.Series | None) -> str | None:
    if dtype in (pl.Date, pl.Datetime):
        return "times"
    if numbers is not None:
        if _share(text.str.contains(COMPACT)) >= SURE:
            return UNITS["day"]
        fitting = (unit for unit, (low, high) in NUMBERS.items() if _share(numbers.is_between(low, high)) >= SURE)
        return next((UNITS[unit] for unit in fitting), None)
    return "written out" if len(text) and (_share(text.str.contains(ISO)) >= SURE or _read_as_times(text)) else None


def _read_as_times(text: pl.Series) -> bool:
    """Return whether the time parser reads all of the first values."""
    first = text.head(100)
    if not first.str.contains(r"^\d{4}").all():
        return False
    try:
        seconds_of(first, "")
    except DataError:
        return False
    return True


def _share(matching: pl.Series) -> float:
    return float(matching.mean() or 0.0)  # type: ignore[arg-type]


def _lists(column: pl.Series, text: pl.Series) -> tuple[str | None, str]:
    """Return separator and kind of list entries; (None, "") without lists."""
    if isinstance(column.dtype, pl.List | pl.Array) and not column.dtype.inner.is_nested():
        return "", "numbers" if column.dtype.inner.is_numeric() else "text"
    for separator in LIST_SEPARATORS:
        if _share(text.str.contains(separator, literal=True)) > 0.05:
            entries = text.str.split(separator).explode().str.strip_chars()
            if _vectors(text, separator, entries):
                return separator, "numbers"
            if _repeated(entries, len(text)):
                return separator, "text"
    return None, ""


def _vectors(text: pl.Series, separator: str, entries: pl.Series) -> bool:
    lengths = text.str.count_matches(separator, literal=True)
    numeric = entries.cast(pl.Float64, strict=False).is_not_null().all()
    return bool(numeric) and lengths.n_unique() == 1 and int(lengths[0]) > 0


def _repeated(entries: pl.Series, rows: int) -> bool:
    """Return whether list entries are labels: repeated in other rows and one or two words long, unlike sentence parts."""
    short = _share(entries.str.count_matches(r"\S+") <= 2)
    return len(entries) > 1.05 * rows and entries.n_unique() < 0.5 * len(entries) and short >= 0.8


def record_kind(one: ColumnLook) -> tuple[Kind | None, str]:
    """Return the kind of a column of items or users with the reason, None where it should be left out."""
    name = one.plain_name
    if not one.filled:
        return None, "empty in every row"
    if one.distinct == 1:
        return None, "one value in all rows"
    if one.entries:
        return _list_kind(one)
    if one.opaque:
        return None, f"holds {one.dtype}"
    if one.numbering:
        return None, "numbers the rows"
    if one.timely:
        return "timestamp", one.unit or ""
    coded = re.search(r"(^|_)(id|code|zip|zipcode|postcode|type|cluster|segment)$", name)
    if one.numeric and not coded:
        return "number", f"{one.low:g} to {one.high:g}"
    if re.search(r"title|(^|_)name$|headline|description|summary|(^|_)text$|overview|abstract", name) or one.words >= 3:
        return "text", f"{one.words:.0f} words a value" if one.words >= 1.5 else "by its name"
    if one.unique > 0.5 and one.distinct > 50:
        if one.words >= 1.2:
            return "text", "another value in most rows"
        return None, "another value in most rows: as a category it cannot be learned"
    return "category", f"{one.distinct:,} values"


def _list_kind(one: ColumnLook) -> tuple[Kind | None, str]:
    between = f" between {one.separator!r}" if one.separator else ""
    if one.entries == "numbers":
        return "vector", f"numbers{between}"
    return "categories", f"lists{between}"


def by_name(looks: Mapping[str, ColumnLook], pattern: re.Pattern[str]) -> list[ColumnLook]:
    """Return the columns whose name matches, in the order of the file."""
    return [one for one in looks.values() if pattern.search(one.plain_name)]
