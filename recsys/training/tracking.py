"""Experiment tracking: a list of trackers, each with the curves of a run and what it keeps at the end."""

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import polars as pl
from pytorch_lightning.loggers import CSVLogger, Logger

from recsys.bundle import Bundle
from recsys.encryption import ENCRYPTION_KEY
from recsys.errors import ConfigError

USER = "user"
"""column of tables about single users"""
USERS = ("numbers", "names", "none")


@dataclass(frozen=True, kw_only=True)
class DataUse:
    """Data set that a run reads."""

    name: str
    sha256: str
    counts: Mapping[str, int]
    """of users, items, events or rows"""
    path: Path
    """its folder or file"""


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """Everything that a finished run leaves to its trackers."""

    figures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """system -> metric -> value on TEST; empty where TEST was not evaluated"""
    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    """of values and texts; those with a column `user` are about single users"""
    pictures: Sequence[Path] = ()
    bundle: Bundle | None = None


class Tracker(Protocol):
    """One place that a run is tracked in."""

    def check(self) -> None:
        """Raise ConfigError where the tracker cannot start; nothing is loaded or trained yet."""

    def start(self, folder: Path, config: Mapping[str, Any], data: DataUse) -> Logger:
        """Open the curves of a run in its folder; a resumed run continues its own."""

    def finish(self, results: RunResults) -> None:
        """Keep the results."""

    def close(self, *, failed: bool) -> None:
        """End the run."""


class Tracking:
    """The trackers of a run, by name."""

    def __init__(self, *, trackers: Mapping[str, Tracker | None], users: str) -> None:
        """
        trackers: None leaves one out
        users: tables about single users, with their histories: under numbers, under their names, or none; none of them is
            made where data is encrypted at rest, which the files of trackers are not
        """
        if users not in USERS:
            raise ConfigError(f"logger.users is {users!r}; choose one of {', '.join(USERS)}")
        self.trackers = [tracker for tracker in trackers.values() if tracker is not None]
        self.users = users

    def check(self) -> None:
        for tracker in self.trackers:
            tracker.check()

    @contextmanager
    def tracked(self, folder: Path, config: Mapping[str, Any], data: DataUse) -> Iterator[list[Logger]]:
        """Open the curves of every tracker, and end the run with them."""
        try:
            yield [tracker.start(folder, config, data) for tracker in self.trackers]
        except BaseException:
            self._close(failed=True)
            raise
        self._close(failed=False)

    def finish(self, results: RunResults) -> None:
        shown = replace(results, tables=self._shown(results.tables))
        for tracker in self.trackers:
            tracker.finish(shown)

    def _close(self, *, failed: bool) -> None:
        for tracker in self.trackers:
            tracker.close(failed=failed)

    def _shown(self, tables: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
        if self.users == "none" or os.environ.get(ENCRYPTION_KEY):
            return {name: table for name, table in tables.items() if USER not in table.columns}
        return {name: _numbered(table) if self.users == "numbers" else table for name, table in tables.items()}


def _numbered(table: pl.DataFrame) -> pl.DataFrame:
    """Return a table whose users are called user 1, user 2 and so on, in the order of its rows."""
    if USER not in table.columns:
        return table
    numbers = {name: f"user {number}" for number, name in enumerate(table[USER].unique(maintain_order=True), 1)}
    return table.with_columns(pl.col(USER).replace_strict(numbers, return_dtype=pl.String))


class Curves:
    """Curves in any logger of Lightning, which is made with the run directory."""

    def __init__(self, *, logger: Callable[..., Logger]) -> None:
        """logger: save_dir -> logger"""
        self.logger = logger

    def check(self) -> None:
        """Check nothing: the folder is there."""

    def start(self, folder: Path, config: Mapping[str, Any], data: DataUse) -> Logger:
        try:
            return self.logger(save_dir=str(folder))
        except ModuleNotFoundError as error:
            raise ConfigError(f"the logger needs a package that is not installed: {error}; install it") from None

    def finish(self, results: RunResults) -> None:
        """Keep nothing: the run directory has it."""

    def close(self, *, failed: bool) -> None:
        """End nothing."""


class CsvCurves(Curves):
    """Curves in csv/metrics.csv of the run directory."""

    def __init__(self) -> None:
        super().__init__(logger=_csv_logger)


def _csv_logger(save_dir: str) -> CSVLogger:
    """CSV logger of a run directory that keeps existing rows, which Lightning's own would overwrite."""
    curves = CSVLogger(save_dir=save_dir, name="", version="csv")
    file = Path(save_dir) / "csv" / "metrics.csv"
    rows: list[dict[str, str]] = []
    if file.is_file():
        with file.open(newline="", encoding="utf-8") as opened:
            rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(opened)]
        file.unlink()
    curves.experiment.metrics.extend(rows)
    curves.save()
    return curves
