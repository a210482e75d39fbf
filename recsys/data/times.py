"""Parsing of times to unix seconds, UTC. The unit of a numeric column is detected from all of its values.

Days (20231114), years (2023), days of a spreadsheet (45244.5, since 1899-12-30) and days since 1970 look like seconds of
1970; they are distinguished because every number of the column must fit. A row that does not fit is refused.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from recsys.data.row_errors import parsed_numbers, refuse_infinite, refuse_rows
from recsys.errors import DataError

DAY_S = 86_400.0
FINE = {"ms": (1e11, 1e14, 1e3), "us": (1e14, 1e17, 1e6), "ns": (1e17, 1e20, 1e9)}
"""unit -> (from, below, units per second); as seconds these numbers lie after the year 5138"""
EXCEL_EPOCH = 25_569
"""1970-01-01 in days of a spreadsheet"""
UNITS = {
    "s": "seconds since 1970",
    "ms": "milliseconds since 1970",
    "us": "microseconds since 1970",
    "ns": "nanoseconds since 1970",
    "day": "days like 20231114",
    "year": "years",
    "excel": "days of a spreadsheet",
    "epoch_day": "days since 1970",
}
RANGES = {"year": (1_900, 2_100), "excel": (29_221, 60_000), "epoch_day": (10_957, 22_280)}
"""unit -> accepted numbers: years; 1980 to 2064; 2000 to 2030"""
PLAIN = r"^\d{4}-\d\d-\d\d[ T]\d\d:\d\d:[0-5]\d(\.\d{1,9})?Z?$"
ZONE, OFFSET = r"(Z|[+-]\d\d:?\d\d)$", r"[+-]\d\d:?\d\d$"
LEAP = re.compile(r"(.*\d\d:\d\d):60(?:[.,]\d+)?(.*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Unix seconds [R], null where missing, with notes for reports."""

    seconds: pl.Series
    notes: tuple[str, ...] = ()


def seconds_of(column: pl.Series, where: str, unit: str | None = None) -> Times:
    """Parse times; DataError names a row that is no time or of another kind than the others. unit: of numbers."""
    if column.dtype in (pl.Date, pl.Datetime):
        return Times(seconds=column.cast(pl.Datetime("us")).dt.epoch("us") / 1e6)
    if column.dtype == pl.Boolean:
        raise DataError(f"{where}: holds Boolean; times were wanted, name another column")
    numbers = parsed_numbers(column, where)
    refuse_infinite(where, column, numbers)
    found = unit or _found_unit(column, numbers, where)
    seconds = _converted(column, numbers, found, where)
    notes = () if found == "s" or unit else (f"{where}: numbers read as {UNITS[found]}; `unit` names another one",)
    odd = numbers.is_null() & column.is_not_null()
    if odd.any():
        texts = pl.select(pl.when(odd).then(column.cast(pl.String))).to_series()
        written, more = _written(column, texts, where)
        seconds, notes = seconds.fill_null(written), (*notes, *more)
    return Times(seconds=seconds, notes=notes)


def _found_unit(column: pl.Series, numbers: pl.Series, where: str) -> str:
    known = numbers.drop_nulls()
    if not len(known):
        return "s"
    for unit, (low, high, _) in FINE.items():
        if known.abs().is_between(low, high, closed="left").all():
            return unit
    late = numbers.abs() >= FINE["ms"][0]
    same = "divide by 1000 where needed, all times of a column have one unit"
    refuse_rows(where, column, late, "looks like milliseconds or finer, unlike other rows", same)
    if _are_days(known).all():
        return "day"
    _refuse_some_days(column, numbers, where)
    whole = bool((known == known.round()).all())
    fitting = (unit for unit, (low, high) in RANGES.items() if known.is_between(low, high).all())
    return next((unit for unit in fitting if whole or unit == "excel"), "s")


def _are_days(numbers: pl.Series) -> pl.Series:
    """Return [R] bool, numbers of the form 20231114."""
    month, day = numbers // 100 % 100, numbers % 100
    return (
        (numbers == numbers.round())
        & numbers.is_between(19_000_101, 21_001_231)
        & month.is_between(1, 12)
        & day.is_between(1, 31)
    )


def _refuse_some_days(column: pl.Series, numbers: pl.Series, where: str) -> None:
    """Refuse day numbers among current unix seconds; among seconds since some start, a few are coincidence."""
    days = _are_days(numbers)
    share = days.drop_nulls().mean()
    if isinstance(share, float) and (share >= 0.5 or (share > 0 and float(numbers.median() or 0) > 1e8)):  # type: ignore[arg-type]
        refuse_rows(
            where, column, days, "is a day or so many seconds", "write all rows in one unit, days like 2024-05-31"
        )


def _converted(column: pl.Series, numbers: pl.Series, unit: str, where: str) -> pl.Series:
    if unit in FINE:
        return numbers / FINE[unit][2]
    if unit == "epoch_day":
        return numbers * DAY_S
    if unit == "excel":
        return ((numbers - EXCEL_EPOCH) * DAY_S).round(3)
    if unit not in ("day", "year"):
        return numbers
    text = numbers.cast(pl.Int64, strict=False).cast(pl.String) + ("" if unit == "day" else "0101")
    days = text.str.to_date("%Y%m%d", strict=False)
    refuse_rows(
        where, column, days.is_null() & numbers.is_not_null(), f"is none of the {UNITS[unit]}", "correct the row"
    )
    return days.cast(pl.Datetime("us")).dt.epoch("us") / 1e6


def _written(column: pl.Series, texts: pl.Series, where: str) -> tuple[pl.Series, tuple[str, ...]]:
    """Parse written times, ISO-8601 and the variants of databases; UTC where no zone is given."""
    plain = texts.str.strip_chars().str.replace(r"(?i)\s*(UTC|GMT|Z)$", "Z").str.replace(r"\s+([+-]\d\d:?\d\d)$", "$1")
    seconds = _seconds(plain)
    odd = seconds.is_null() & texts.is_not_null()
    refuse_rows(where, column, odd, "is no time", "write unix seconds or ISO-8601, for instance 2024-05-31T18:00:00Z")
    bare = ~plain.str.contains(ZONE)
    if plain.str.contains(OFFSET).any():
        refuse_rows(where, column, bare, "has no zone, as other rows have", "write the zone of every row")
    return seconds, (f"{where}: times without a zone, read as UTC: {bare.sum()}",) if bare.any() else ()


def _seconds(texts: pl.Series) -> pl.Series:
    usual = texts.filter(texts.str.contains(PLAIN)).unique()
    moments = usual.str.replace("T", " ").str.replace("Z$", "").str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us"
    )  # fmt: skip
    known = dict(zip(usual.to_list(), (moments.dt.epoch("us") / 1e6).to_list(), strict=True))
    others = texts.drop_nulls().filter(~texts.drop_nulls().is_in(usual.implode())).unique()
    known |= {text: _parsed(text) for text in others}
    return texts.replace_strict(list(known), list(known.values()), default=None, return_dtype=pl.Float64)


def _parsed(text: str) -> float | None:
    """Parse; a leap second, 23:59:60 UTC, is the first second of the next day, as in unix time."""
    leap = LEAP.fullmatch(text)
    try:
        moment = datetime.fromisoformat(f"{leap[1]}:59{leap[2]}" if leap else text)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() + bool(leap)
    except (ValueError, OverflowError):
        return None
    return None if leap and seconds % DAY_S else seconds
