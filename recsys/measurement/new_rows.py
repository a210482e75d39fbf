"""Rows of a partition of the event log that were not read before."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from recsys.data.sources.event_log import ACTION, WORD
from recsys.data.sources.log_files import log_files, read_log_file
from recsys.errors import DataError

ATTEMPTS = 5
"""to read a day, while the log that is being written merges some of its files"""


def new_rows(folder: Path, read: int, columns: Mapping[str, Any], attempts: int = ATTEMPTS) -> pl.DataFrame | None:
    """Rows of a partition behind a sequence, all columns of actions included; None without any."""
    try:
        files = [file for file in log_files(folder.glob("*.parquet")).current if file.last > read]
        parts = [_typed(read_log_file(file.path), columns) for file in files]
    except FileNotFoundError:  # merged into another file since it was listed
        if attempts:
            return new_rows(folder, read, columns, attempts - 1)
        raise DataError(
            f"{folder}: its files change all the time; keep nothing but the event log's files there"
        ) from None
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DataError(f"{folder}: cannot be read: {reason}; keep nothing but the event log's files there") from None
    rows = pl.concat([part.filter(pl.col("sequence") > read) for part in parts], how="diagonal") if parts else None
    return None if rows is None or not rows.height else rows


def _typed(rows: pl.DataFrame, columns: Mapping[str, Any]) -> pl.DataFrame:
    """Return the given columns and those of actions; one that the file lacks is null."""
    actions = [name for name in rows.columns if name.startswith((ACTION, WORD))] if "query" not in columns else []
    chosen = [
        pl.col(name) if name in rows.columns else pl.lit(None, type).alias(name) for name, type in columns.items()
    ]
    return rows.select(*chosen, *actions)
