"""Delimited files whose columns are known beforehand."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from recsys.data.description import did_you_mean
from recsys.errors import DataError


def read_columns(path: Path, columns: Mapping[str, str], *, separator: str) -> pl.DataFrame:
    """The columns {name in the file: name wanted} of a file as text; DataError for a file or column that is not there.

    Only files with commas know quotes.
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
    """Ids that tell nothing: the places of the old ones in the order of their hashes, from 1.

    For files that were numbered in the order of what is to be predicted.
    """
    old = sorted(ids.unique().drop_nulls(), key=lambda one: hashlib.blake2b(one.encode()).digest())
    return ids.replace_strict(old, [str(number) for number in range(1, len(old) + 1)], return_dtype=pl.String)
