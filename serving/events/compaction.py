"""Compaction and retention of the Parquet log: many small files of a folder become few, and old days are removed.

Safe at any moment: the merged file is complete and on disk before the files that it replaces are deleted, and readers take the
wider one of two files (recsys.data.sources.log_files). A crash in between leaves copies, which the next compaction deletes.
"""

import logging
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from recsys.data.sources.log_files import DAY, SUFFIX, LogFile, log_file_bytes, log_files, read_log_file
from recsys.errors import DataError
from recsys.stores.atomic_files import sync_folder, write_atomically

logger = logging.getLogger(__name__)

MERGED_BYTES = 16 << 20
"""files from this size on are left alone; a merge holds a few times as much in memory"""


def compact(folder: Path, *, min_files: int) -> int:
    """Merge runs of at least `min_files` neighbouring small files of one folder; return the number of files that are gone.

    A run that cannot be read or merged is named in the log and left as it is. OSError where the disk refuses.
    """
    found = log_files(folder.glob(f"*{SUFFIX}"))
    _delete(found.superseded)
    runs = [run for run in _runs(found.current) if len(run) >= max(2, min_files)]
    return len(found.superseded) + sum(_merge(folder, run) for run in runs)


def remove_days_before(table: Path, keep_days: float) -> list[str]:
    """Remove the partitions of a table that ended more than `keep_days` ago; return their names.

    A partition is hidden from readers before its files are deleted.
    """
    limit = datetime.now(UTC) - timedelta(days=keep_days + 1)
    old = [path for path in sorted(table.glob(f"{DAY}*")) if (day := _day(path)) is not None and day < limit]
    for hidden in table.glob(f".{DAY}*"):  # of a removal that did not end
        shutil.rmtree(hidden)
    for path in old:
        path.replace(hidden := path.with_name(f".{path.name}"))
        shutil.rmtree(hidden)
    return [path.name for path in old]


def _runs(files: Sequence[LogFile]) -> Iterator[list[LogFile]]:
    """Neighbouring small files whose sizes sum up to about MERGED_BYTES."""
    run: list[LogFile] = []
    num_bytes = 0
    for file in files:
        size = file.path.stat().st_size
        if size >= MERGED_BYTES or num_bytes + size > MERGED_BYTES:
            yield run
            run, num_bytes = [], 0
        if size < MERGED_BYTES:
            run.append(file)
            num_bytes += size
    yield run


def _merge(folder: Path, run: Sequence[LogFile]) -> int:
    try:
        table = pl.concat([read_log_file(file.path) for file in run], how="diagonal")
        if not table["sequence"].is_sorted():
            raise ValueError("the records are not in the order of the log")
    except (pl.exceptions.PolarsError, DataError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        logger.warning("%s: %s to %s stay apart: %s", folder, run[0].path.name, run[-1].path.name, reason)
        return 0
    merged = folder / f"{run[0].first}-{run[-1].last}{SUFFIX}"
    write_atomically(merged, log_file_bytes(table, merged))
    _delete([file for file in run if (file.first, file.last) != (run[0].first, run[-1].last)])
    return len(run) - 1


def _delete(files: Sequence[LogFile]) -> None:
    for file in files:
        file.path.unlink(missing_ok=True)
    if files:
        sync_folder(files[0].path.parent)


def _day(path: Path) -> datetime | None:
    try:
        return datetime.strptime(path.name.removeprefix(DAY), "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return None
