"""Errors that name a row of a table; the first data row is row 1."""

import polars as pl

from recsys.errors import DataError


def shortened(value: object) -> str:
    """Return a value as text of at most 60 characters for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def refuse_rows(where: str, column: pl.Series, bad: pl.Series, problem: str, advice: str, first_row: int = 1) -> None:
    """Raise DataError for the first bad row; bad: [R] bool or null. first_row: number of the first one of a chunk."""
    rows = bad.fill_null(False).arg_true()
    if len(rows):
        value = column[int(rows[0])]
        found = "empty" if value is None else shortened(value.to_list() if isinstance(value, pl.Series) else value)
        raise DataError(f"{where}, row {rows[0] + first_row}: {found} {problem}; {advice}")


def refuse_infinite(where: str, column: pl.Series, numbers: pl.Series) -> None:
    advice = "write a finite number, or nothing where it is missing"
    refuse_rows(where, column, ~numbers.is_finite(), "is not a finite number", advice)


def parsed_numbers(column: pl.Series, where: str) -> pl.Series:
    """Parse Float64; null where the text is no number."""
    if column.dtype == pl.String:
        column = column.str.strip_chars()
    elif not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise DataError(f"{where}: holds {column.dtype}; numbers were wanted, convert the column")
    return column.cast(pl.Float64, strict=False)
