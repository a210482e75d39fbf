"""Delimited files of known columns."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from recsys.data.description import did_you_mean
from recsys.errors import DataError


def read_columns(path: Path, columns: Mapping[str, str], *, separator: str) -> pl.DataFrame:
    """Read columns {name in the file: new name} as text; DataError for a missing file or column.

    Quotes are special in comma-separated files only.
    """
    quote = '"' if separator == "," else None
    try:
        frame = pl.read_csv(path, separator=separator, quote_char=quote, infer_schema=False, glob=False)
    except pl.exceptions.NoDataError:
        raise DataError(f"{path}: the file is empty; wanted the columns {', '.join(columns)}") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{path}: cannot be read: {reason}; correct the folder or fetch the file anew") from None
    for name in columns:
        if name not in frame.columns:
            raise DataError(
                f"{path}: there is no column {name!r}{did_you_mean(name, frame.columns)}; the file has "
                f"{', '.join(frame.columns)}"
            )
    return frame.select(pl.col(name).alias(new_name) for name, new_name in columns.items())


def shuffled_ids(ids: pl.Series) -> pl.Series:
    """Replace ids by numbers from 1 in the order of their hashes.

    For files whose ids are sorted by the label, which a model could exploit.
    """
    old = sorted(ids.unique().drop_nulls(), key=lambda one: hashlib.blake2b(one.encode()).digest())
    return ids.replace_strict(old, [str(number) for number in range(1, len(old) + 1)], return_dtype=pl.String)
