"""Normalisation of ids, so that spellings of one user are one user and missing ids are no user.

The rule, in this order: outer blanks are removed; letters are composed (Unicode NFC); null words are no id;
a whole number is written without a fraction, 17850.0 as 17850, unless another number of the column has one.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from recsys.data.row_errors import refuse_rows
from recsys.errors import DataError
from recsys.schema import InvalidValueError, Text

NOTHING = ("null", "nan", "none", "nat", "\\n", "<na>", "n/a", "#n/a", "undefined", "(null)", "[null]")
"""null words in lower case, as databases, spreadsheets and data frames write them"""
BLANK = "\ufeff\u200b"
"""zero-width characters, which str.strip keeps"""
WHOLE, FRACTION = re.compile(r"(-?(?:0|[1-9]\d*))\.0+"), re.compile(r"-?\d+\.\d*[1-9]\d*")
ROUNDED = r"^\d(\.\d+)?[eE]\+\d+$"
LARGEST_WHOLE = 2.0**53


def ids_of(column: pl.Series, where: str, missing: Collection[str]) -> tuple[pl.Series, tuple[str, ...]]:
    """Return ids [R] as text, null where missing, and notes on merged spellings.

    missing: further null words. DataError for an invalid id.
    """
    text = _text(column, where)
    counts: dict[str, int] = dict(text.drop_nulls().value_counts().iter_rows())
    cleaned = {value: normalised_id(value) for value in counts}
    words = {*NOTHING, *(word.strip().casefold() for word in missing), ""}
    nothing = {value for value, one in cleaned.items() if {one.casefold(), WHOLE.sub(r"\1", one)} & words}
    whole = _whole({one for value, one in cleaned.items() if value not in nothing})
    final = {value: None if value in nothing else whole.get(one, one) for value, one in cleaned.items()}
    ids = text.replace_strict(list(final), list(final.values()), default=None, return_dtype=pl.String)
    return ids, tuple(_notes(where, column, counts, cleaned, nothing, whole))


def is_nothing(column: pl.Series, words: Collection[str]) -> pl.Series:
    """Return [R] bool, null where the text is: the whole text is one of these words, case-insensitive."""
    return column.str.strip_chars().str.to_lowercase().is_in([word.strip().lower() for word in words])


def _text(column: pl.Series, where: str) -> pl.Series:
    if column.dtype.is_nested() or column.dtype.is_temporal() or column.dtype == pl.Binary:
        raise DataError(f"{where}: holds {column.dtype}; text was wanted, convert the column")
    if column.dtype.is_float():
        known = column.fill_nan(None)
        odd = (known != known.round()) | (known.abs() > LARGEST_WHOLE)
        refuse_rows(where, column, odd, "is no id but a number", "store whole numbers or text")
        return known.cast(pl.Int64).cast(pl.String)
    text = column.cast(pl.String)
    rounded = text.str.strip_chars().str.contains(ROUNDED)
    refuse_rows(where, column, rounded, "is an id that a spreadsheet rounded", "export the column as text")
    return text


def normalised_id(value: str) -> str:
    """Return an id without outer blanks, letters composed (NFC); "" where nothing else is left."""
    while (stripped := value.strip().strip(BLANK)) != value:  # blanks of both kinds may alternate
        value = stripped
    return stripped if stripped.isascii() else unicodedata.normalize("NFC", stripped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Id(Text):
    """JSON value of a user or item id, normalised as in the training data."""

    least: int = 1

    def check(self, value: Any) -> str:
        if not (id := normalised_id(Text.check(self, value))):
            raise InvalidValueError("holds nothing but blanks; send an id")
        return id


def _whole(ids: Collection[str]) -> dict[str, str]:
    """Write 17850.0 as 17850 for all ids, unless another one has a fraction: then they may be version numbers."""
    if any(FRACTION.fullmatch(one) for one in ids):
        return {}
    return {one: found[1] for one in ids if (found := WHOLE.fullmatch(one))}


def _notes(
    where: str,
    column: pl.Series,
    counts: Mapping[str, int],
    cleaned: Mapping[str, str],
    nothing: Collection[str],
    whole: Mapping[str, str],
) -> Iterator[str]:
    real = [value for value in counts if value not in nothing]
    blank = sum(counts[value] for value in real if value.strip(BLANK).strip() != value)
    composed = sum(counts[value] for value in real if not unicodedata.is_normalized("NFC", value))
    if blank:
        yield f"{where}: ids with blanks around them, which do not count: {blank}"
    if composed:
        yield f"{where}: ids with decomposed letters (NFD), read as composed ones (NFC): {composed}"
    if written := sum(counts[value] for value in real if cleaned[value] in whole):
        yield f"{where}: ids written like 17850.0, read like 17850: {written}"
    if column.dtype.is_float():
        yield f"{where}: ids stored as {column.dtype}, read as whole numbers: {sum(counts.values())}"


def words_for_nothing(column: pl.Series, read: pl.Series, of: pl.Series | None = None) -> str:
    """Return counts of the null words of a column, most frequent first: 'NULL 12, empty 3'.

    of: a column that is not counted where it is null.
    """
    nothing = read.is_null() if of is None else read.is_null() & of.is_not_null()
    found = Counter(
        "empty" if one is None or not str(one).strip() else str(one).strip() for one in column.filter(nothing)
    )
    return ", ".join(f"{word} {count}" for word, count in found.most_common(5))
