"""Removal of the rows of users from the Parquet event log.

A file keeps its name, which tells the sequences that are written; one without any row left stays as an empty table.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl

from recsys.data.sources.log_files import log_file_bytes, read_log_file
from recsys.errors import DataError, ServingError
from recsys.stores.atomic_files import write_atomically
from serving.events.parquet import FEEDBACK, IMPRESSIONS, MALFORMED, PREFERENCES

DAILY = "day=*/*.parquet"
SEQUENCES = re.compile(r"\d+-\d+")
PATTERNS = dict.fromkeys((FEEDBACK, IMPRESSIONS, PREFERENCES), DAILY) | {MALFORMED: "*.parquet"}


def remove_rows(folder: Path, chosen: Callable[[str], bool]) -> int:
    """Rewrite each file that has rows of a user whom `chosen` accepts, one at a time; return the number of removed rows.

    ServingError for a file that cannot be read or written.
    """
    return sum(_rewrite(file, kind, chosen) for kind, file in _files(folder))


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files of the log by their names; foreign ones are no business of the log."""
    for kind, pattern in PATTERNS.items():
        found = sorted((folder / kind).glob(pattern))
        yield from ((kind, file) for file in found if SEQUENCES.fullmatch(file.stem))


def _rewrite(file: Path, kind: str, chosen: Callable[[str], bool]) -> int:
    try:
        gone = _chosen_rows(file, kind, chosen)
        if not gone.any():
            return 0
        data = log_file_bytes(read_log_file(file).filter(~gone), file)
        write_atomically(file, data, file.stat().st_mode & 0o777)
    except (pl.exceptions.PolarsError, DataError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ServingError(
            f"{file} cannot be rewritten without its forgotten users ({reason}); mend or remove it"
        ) from None
    return int(gone.sum())


def _chosen_rows(file: Path, kind: str, chosen: Callable[[str], bool]) -> pl.Series:
    """[R] bool."""
    column = "record" if kind == MALFORMED else "user"
    values = read_log_file(file, [column])[column]
    if kind == MALFORMED:
        users = (json.loads(text)["user"] for text in values)
        return pl.Series([isinstance(user, str) and chosen(user) for user in users], dtype=pl.Boolean)
    return values.is_in([user for user in values.unique().drop_nulls() if chosen(user)])
