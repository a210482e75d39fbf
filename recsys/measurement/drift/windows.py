"""Counts by hour of what a bundle served, from the Parquet event log: read once, and a replay makes them again.

    drift/<bundle>/2026-11-26.parquet     columns of TABLE, and `read`: last sequence of that day

A row of a day is the number of requests of an hour by users of a group whose cell is in a bin (recsys.measurement.drift.bins).
Names are columns of the reference, <column>@<segment>, and counters (#requests, #item and so on), which have one bin. Each file
holds how far its day was read, so that a crash leaves every row counted once. Nothing in it is of a single user.

Shapes: R requests.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from recsys.bundle import Bundle
from recsys.data.sources.log_files import DAY, log_file_bytes, read_log_file
from recsys.errors import DataError
from recsys.features.spec import FeatureSpec
from recsys.measurement.drift.reference import Reference, segment_keys
from recsys.measurement.drift.served import (
    DAY_S,
    GROUPS,
    STRATA,
    Cells,
    cells_of_first_items,
    cells_of_requests,
    counts_of,
    strata_of,
)
from recsys.measurement.log_rows import EVENT, action_values
from recsys.measurement.new_rows import new_rows
from recsys.measurement.outcomes import EPOCH
from recsys.stores.atomic_files import locked, write_atomically

FOLDER = "drift"
"""below the folder of a measurement"""
REQUESTS, DEGRADED, JUDGED, STALE = "#requests", "#degraded", "#with an event", "#stale state"
"""counters of all requests, of those with a flag, of those whose user has an event that is older than FRESH_S, and of the ones
among these whose history lacks it
"""
EXPOSURE = "#item"
"""name of the rows that count items shown: `item` has the item, `hour` is that of a quarter of the day, `group` is 0"""
READ = "#read"
"""name of a row that counts nothing, so that a day of other bundles has a file and is not read again"""
FRESH_S = 300.0
HOURS, HOUR_S = 24, 3_600
SHOWN: dict[str, Any] = {
    "sequence": pl.Int64,
    "id": pl.String,
    "user": pl.String,
    "timestamp": pl.Float64,
    "item": pl.String,
}
SHOWN |= {"utility": pl.Float64, "sources": pl.List(pl.String), "probabilities": pl.String, "bundle": pl.String}
SHOWN |= {"degraded": pl.List(pl.String), "query": pl.String}
"""columns of the log that are read"""
TABLE = {"name": pl.String, "hour": pl.Int64, "group": pl.Int64, "bin": pl.Int64, "item": pl.String, "count": pl.Int64}
KEY = ("name", "hour", "group", "bin", "item")


@dataclass(frozen=True, kw_only=True)
class Window:
    """Counts of some hours up to the newest one."""

    hours: int
    """length"""
    counts: Mapping[str, np.ndarray]
    """name -> [GROUPS, bins]"""
    strata: np.ndarray
    """[STRATA] requests by hour of the week"""
    items: Mapping[str, int]
    """item -> how often it was shown, the most shown first"""

    def counter(self, name: str) -> np.ndarray:
        """Return [GROUPS] of a counter."""
        return self.counts.get(name, np.zeros((GROUPS, 1), dtype=np.int64))[:, 0]

    @property
    def requests(self) -> int:
        return int(self.counter(REQUESTS).sum())


@dataclass(frozen=True, kw_only=True)
class DriftLog:
    """Counts in a folder, of the event log in another one."""

    log: Path
    folder: Path
    """of the bundle's counts"""
    bundle: str
    """fingerprint: requests that another one answered are not counted"""
    spec: FeatureSpec
    reference: Reference

    @staticmethod
    def of(log: Path, measurement: Path, bundle: Bundle, spec: FeatureSpec) -> "DriftLog":
        """Return the counts of a bundle beside the figures of a measurement; BundleError for one without a reference."""
        reference, name = Reference.read(bundle), bundle.fingerprint
        return DriftLog(log=log, folder=measurement / FOLDER / name, bundle=name, spec=spec, reference=reference)

    def update(self) -> int:
        """Count what the log holds beyond the last call; return the number of requests."""
        folders = sorted((self.log / "impressions").glob(f"{DAY}*"))
        if not folders:
            raise DataError(
                f"{self.log} holds no impressions; name the folder that the event log is written to, live/events"
            )
        with locked(self.folder):
            return sum(self._count_day(folder) for folder in folders)

    def days(self) -> list[date]:
        return sorted(date.fromisoformat(file.stem) for file in self.folder.glob("????-??-??.parquet"))

    @property
    def end(self) -> int:
        """Return the newest hour with a request, hours since 1970; DataError where the bundle served none."""
        for day in reversed(self.days()):
            served = self._table(day).filter(pl.col("name") == REQUESTS)
            if served.height:
                return (day - EPOCH).days * HOURS + int(served["hour"].to_numpy().max())
        raise DataError(f"no request of {self.log} was answered by the bundle {self.bundle}; give the one that serves")

    def window(self, hours: int, end: int) -> Window:
        """Return the counts of the last hours up to `end`, hours since 1970."""
        first = end - hours + 1
        days = [EPOCH + timedelta(days=day) for day in range(first // HOURS, end // HOURS + 1)]
        known = set(self.days())
        parts = [
            self._table(day).with_columns(hour=pl.col("hour") + (day - EPOCH).days * HOURS)
            for day in days
            if day in known
        ]
        if not parts:
            return Window(hours=hours, counts={}, strata=np.zeros(STRATA), items={})
        within = pl.concat(parts).filter(pl.col("hour").is_between(first, end))
        served = within.filter(pl.col("name") == REQUESTS)
        strata = np.bincount(strata_of(served["hour"].to_numpy() * HOUR_S), served["count"].to_numpy(), STRATA)
        shown = within.filter(pl.col("name") == EXPOSURE).group_by("item").agg(pl.col("count").sum())
        ranked = shown.sort(["count", "item"], descending=[True, False])
        counted = within.filter(pl.col("name") != EXPOSURE).group_by("name", "group", "bin").agg(pl.col("count").sum())
        return Window(
            hours=hours,
            counts={
                name: self._dense(name, rows) for (name,), rows in counted.partition_by("name", as_dict=True).items()
            },
            strata=strata,
            items=dict(zip(ranked["item"], ranked["count"], strict=True)),
        )

    def _dense(self, name: object, rows: pl.DataFrame) -> np.ndarray:
        column = self.reference.columns.get(str(name).partition("@")[0])
        counts = np.zeros((GROUPS, 1 if column is None else column.column.num_bins), dtype=np.int64)
        counts[rows["group"].to_numpy(), rows["bin"].to_numpy()] = rows["count"].to_numpy()
        return counts

    def _file(self, day: date) -> Path:
        return self.folder / f"{day}.parquet"

    def _table(self, day: date) -> pl.DataFrame:
        try:
            return read_log_file(self._file(day))
        except (pl.exceptions.PolarsError, OSError, DataError) as error:
            reason = str(error).strip().split("\n")[0]
            raise DataError(
                f"{self._file(day)} cannot be read ({reason}); remove {self.folder}, it is counted again"
            ) from None

    def _count_day(self, folder: Path) -> int:
        """Add the new rows of a day of the log; return the number of requests."""
        day = date.fromisoformat(folder.name.removeprefix(DAY))
        before = self._table(day) if self._file(day).exists() else None
        rows = new_rows(folder, -1 if before is None else int(before["read"][0]), SHOWN)
        if rows is None:
            return 0
        own = rows.filter(pl.col("bundle") == self.bundle).unique(["id", "item"], keep="first", maintain_order=True)
        requests = own.filter(pl.col("query").is_not_null())
        counted = [(READ, 0, 0, 0, None, 0), *self._rows_of(requests, folder), *_exposure(own)]
        added = pl.DataFrame(counted, schema=TABLE, orient="row")
        parts = [added] if before is None else [before.select(*TABLE), added]
        total = pl.concat(parts).group_by(*KEY).agg(pl.col("count").sum()).sort(*KEY, nulls_last=True)
        read = total.with_columns(read=pl.lit(int(rows["sequence"].to_numpy().max()), pl.Int64))
        write_atomically(self._file(day), log_file_bytes(read, self._file(day)), 0o600)
        return requests.height

    def _rows_of(self, requests: pl.DataFrame, folder: Path) -> Iterator[tuple[object, ...]]:
        """Rows of the table by request: every column, the same by segment, and the counters."""
        if not requests.height:
            return
        queries = [orjson.loads(text) for text in requests["query"]]
        cells = self._cells(requests, queries)
        keys = requests["timestamp"].to_numpy().astype(np.int64) // HOUR_S % HOURS * GROUPS + cells.groups
        columns = {name: one.column for name, one in self.reference.columns.items()}
        for name, column in columns.items():
            yield from _sparse(name, counts_of(column, cells.columns[name], keys, HOURS * GROUPS))
        for name in self.reference.segments:
            labels, at, segment = segment_keys(columns[name], cells.columns[name])
            for number, label in enumerate(labels):
                inside = at[segment == number]
                for other, column in columns.items():
                    if label in self.reference.columns[other].segments:
                        own = [cells.columns[other][row] for row in inside]
                        yield from _sparse(f"{other}@{label}", counts_of(column, own, keys[inside], HOURS * GROUPS))
        judged, stale = self._stale(requests, queries, folder)
        flagged = requests["degraded"].list.len().fill_null(0).to_numpy() > 0
        everything = np.ones(requests.height, dtype=bool)
        for counter, chosen in ((REQUESTS, everything), (DEGRADED, flagged), (JUDGED, judged), (STALE, stale)):
            yield from _sparse(counter, np.bincount(keys[chosen], minlength=HOURS * GROUPS)[:, None])

    def _cells(self, requests: pl.DataFrame, queries: Sequence[Mapping[str, object]]) -> Cells:
        of_queries = cells_of_requests(queries, self.reference.request_columns, self.reference.history_length)
        probabilities = [orjson.loads(text) if text else {} for text in requests["probabilities"]]
        of_items = cells_of_first_items(
            requests["utility"].to_list(), requests["sources"].to_list(), probabilities, self.reference.objectives
        )
        users = requests["user"].to_list()
        return Cells(users=users, times=of_queries.times, columns={**of_queries.columns, **of_items})

    def _stale(
        self, requests: pl.DataFrame, queries: Sequence[Mapping[str, object]], folder: Path
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return [R] bool twice: the user has an event that was in the log before the request and is older than FRESH_S;
        the history of the request lacks it.
        """
        events = self._events(folder)
        newest = [max((event["timestamp"] for event in query.get("history", ())), default=-np.inf) for query in queries]  # type: ignore[attr-defined]
        times = requests.select("user", "sequence", at=pl.col("timestamp") - FRESH_S).with_columns(
            pl.Series("newest", newest, pl.Float64), pl.Series("row", np.arange(requests.height))
        )
        found = times.sort("at").join_asof(
            events.sort("timestamp"),
            left_on="at",
            right_on="timestamp",
            by="user",
            strategy="backward",
            check_sortedness=False,
        )
        logged = (pl.col("sequence_right") < pl.col("sequence")).fill_null(False)
        judged = found.sort("row").select(judged=logged, stale=logged & (pl.col("timestamp") > pl.col("newest")))
        return judged["judged"].to_numpy(), judged["stale"].fill_null(False).to_numpy()

    def _events(self, folder: Path) -> pl.DataFrame:
        """Events of the day of a folder and of the one before that reach an objective: user, sequence, timestamp."""
        day = date.fromisoformat(folder.name.removeprefix(DAY))
        names = [self.log / "feedback" / f"{DAY}{one}" for one in (day - timedelta(days=1), day)]
        parts = [rows for name in names if (rows := new_rows(name, -1, EVENT)) is not None]
        if not parts:
            return pl.DataFrame(schema={"user": pl.String, "sequence": pl.Int64, "timestamp": pl.Float64})
        rows = pl.concat(parts, how="diagonal")
        actions = {name: action_values(rows, name, kind) for name, kind in self.spec.actions.items()}
        reached = np.nan_to_num(self.spec.labels(actions, rows.height)).max(axis=1, initial=0.0) > 0
        return rows.filter(pl.Series(reached)).select("user", "sequence", "timestamp")


def _sparse(name: str, counts: np.ndarray) -> Iterable[tuple[object, ...]]:
    """Rows of the table from counts [HOURS * GROUPS, bins]."""
    keys, bins = np.nonzero(counts)
    hours, groups = np.divmod(keys, GROUPS)
    values = counts[keys, bins]
    for row in zip(hours.tolist(), groups.tolist(), bins.tolist(), values.tolist(), strict=True):
        yield (name, *row[:3], None, row[3])


def _exposure(rows: pl.DataFrame) -> Iterable[tuple[object, ...]]:
    """Rows of the table that count items shown, by quarter of the day."""
    hour = (pl.col("timestamp") % DAY_S // (6 * HOUR_S)).cast(pl.Int64) * 6
    shown = rows.drop_nulls("item").group_by(hour.alias("hour"), "item").len()
    return [(EXPOSURE, hour, 0, 0, item, count) for hour, item, count in shown.iter_rows()]
