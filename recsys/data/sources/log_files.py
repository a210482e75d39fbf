"""Parquet files of the event log, named by their first and last sequence.

A file holds all records of its folder from its first to its last sequence. So a file within the span of another one is a copy:
the writer merges small files into a wider one before it deletes them, and a reader sees each record once at any moment.

Where an encryption key is configured (recsys.encryption), a file is encrypted as a whole under its path below the folder of the
log.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import polars as pl

from recsys.encryption import encrypted, readable

SUFFIX = ".parquet"
DAY = "day="


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class LogFile:
    """One file of the log."""

    first: int
    last: int
    path: Path

    @staticmethod
    def of(path: Path) -> "LogFile | None":
        """None for a file that is not named as the log names its files."""
        first, _, last = path.stem.partition("-")
        if path.suffix != SUFFIX or not (first.isdecimal() and last.isdecimal()) or int(first) > int(last):
            return None
        return LogFile(first=int(first), last=int(last), path=path)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFiles:
    """Files of some folders."""

    current: tuple[LogFile, ...]
    """hold every record once, by folder and first sequence"""
    superseded: tuple[LogFile, ...]
    """copies, held by a wider file of their folder"""
    foreign: tuple[Path, ...]
    """no files of the log"""


def read_log_file(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read a file, all columns for None; OSError, PolarsError, or DataError for one that was altered or lacks its key."""
    source = readable(path, log_name(path))
    return pl.read_parquet(source, glob=False, columns=None if columns is None else list(columns))


def log_file_bytes(table: pl.DataFrame, path: Path) -> bytes:
    """Return the content of the file of this path."""
    data = io.BytesIO()
    table.write_parquet(data)
    return encrypted(data.getvalue(), log_name(path))


def log_name(path: Path) -> str:
    """Return the path of a file below the folder of the log, which may be moved as a whole."""
    depth = 3 if path.parent.name.startswith(DAY) else 2
    return "/".join(path.parts[-depth:])


def log_files(paths: Iterable[Path]) -> LogFiles:
    """Sort files by their names; nothing is read."""
    named = {path: LogFile.of(path) for path in sorted(paths)}
    known = [file for file in named.values() if file is not None]
    current: list[LogFile] = []
    for _, folder in groupby(sorted(known, key=_by_span), key=lambda file: file.path.parent):
        end = -1
        for file in folder:
            if file.last > end:
                current.append(file)
                end = file.last
    return LogFiles(
        current=tuple(current),
        superseded=tuple(sorted(set(known) - set(current))),
        foreign=tuple(path for path, file in named.items() if file is None),
    )


def _by_span(file: LogFile) -> tuple[Path, int, int]:
    """Folder, then first sequence, the widest file first."""
    return file.path.parent, file.first, -file.last
