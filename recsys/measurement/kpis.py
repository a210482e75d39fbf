"""Key figures of a period with 95% intervals, from the sums of its days per user.

Every figure is a ratio R of two sums over users, x / y. Users are the units: requests and items of one user are not
independent. The interval is that of the delta method, with its skewness removed (recsys.experiments.ratios).

    click@10           shown items of the first 10 positions with a credited event; of outcomes that count events
    click_ndcg@10      NDCG of the slates, what was credited being relevant; 0 for a slate without credit
    click_per_request  credit a slate
    click_per_user     credit a user who was shown something
    click_users        share of those users with credit: conversion
    return_7d          share of days of users that are followed by another one within 7 days
    retention_7d       the same on the 7th day after it
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

from recsys.experiments.ratios import ratio
from recsys.measurement.outcomes import EPOCH, USERS, MeasuredLog
from recsys.measurement.settings import DAY_S, MeasurementSettings
from recsys.measurement.user_sums import ALL, OF_ITEMS, names_of, splits_of

DAY = "day"
"""split by the day of the request"""
NDCG = "_ndcg@"
SCHEMA = {"split": pl.String, "value": pl.String, "metric": pl.String, "estimate": pl.Float64, "low": pl.Float64}
SCHEMA |= {"high": pl.Float64, "users": pl.Int64, "numerator": pl.Float64, "denominator": pl.Float64}


@dataclass(frozen=True, kw_only=True)
class Period:
    """Days of a measurement, both ends included."""

    first: date
    last: date

    def days(self, log: MeasuredLog) -> list[date]:
        """Return the measured days within it."""
        return [day for day in sorted(log.days(USERS)) if self.first <= day <= self.last]


def kpis(log: MeasuredLog, period: Period, splits: Sequence[str] | None = None) -> pl.DataFrame:
    """Return a row a split, value and metric, in the order of reports; intervals are null for fewer than two users.

    splits: None for all of them
    """
    days = period.days(log)
    chosen = (*splits_of(log.settings), DAY) if splits is None else splits
    rows = [row for split in chosen for row in _split_rows(log, days, split)]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _split_rows(log: MeasuredLog, days: Sequence[date], split: str) -> Iterator[tuple[object, ...]]:
    if not days:
        return
    sums = sums_of(log, days, split)
    users = sums.group_by("value", "user").agg(pl.col(*names_of(log.settings)).sum())
    for metric, (x, y) in metrics_of(log.settings).items():
        if split in OF_ITEMS and NDCG in metric:
            continue  # a part of a slate has no order of its own
        yield from _rows(split, metric, users.select("value", "user", x=x, y=y))
    active = sums if split == ALL else sums_of(log, days, ALL)
    for within in log.settings.return_days:
        days_on = followed(sums, active, within, log.end)
        for metric in ("return", "retention"):
            yield from _rows(split, f"{metric}_{within}d", days_on.select("value", "user", x=metric, y="count"))


def sums_of(log: MeasuredLog, days: Sequence[date], split: str) -> pl.DataFrame:
    """Return the sums of a split per value, user and day; those of the split `day` are those of all."""
    own = ALL if split == DAY else split
    parts = [log.table(USERS, day).filter(pl.col("split") == own).with_columns(day=pl.lit(day)) for day in days]
    sums = pl.concat(parts)
    return sums.with_columns(value=pl.col("day").cast(pl.String)) if split == DAY else sums


def metrics_of(settings: MeasurementSettings) -> dict[str, tuple[pl.Expr, pl.Expr]]:
    """Return metric -> its numerator and denominator of a user, over the sums of user_sums, in the order of reports."""
    parts = [_of_outcome(outcome, settings) for outcome in settings.outcomes]
    return {name: pair for part in parts for name, pair in part.items()}


def _of_outcome(outcome: str, settings: MeasurementSettings) -> Mapping[str, tuple[pl.Expr, pl.Expr]]:
    """Metric -> its numerator and denominator of a user."""
    total, observed = pl.col(f"sum:{outcome}"), pl.col(f"observed:{outcome}")
    top = () if settings.is_amount(outcome) else settings.k
    rates = {f"{outcome}@{k}": (pl.col(f"hits:{outcome}@{k}"), pl.col(f"shown:{outcome}@{k}")) for k in top}
    rates |= {f"{outcome}{NDCG}{k}": (pl.col(f"ndcg:{outcome}@{k}"), observed) for k in top}
    return rates | {
        f"{outcome}_per_request": (total, observed),
        f"{outcome}_per_user": (total, observed > 0),
        f"{outcome}_users": ((total != 0) & (observed > 0), observed > 0),
    }


def followed(sums: pl.DataFrame, active: pl.DataFrame, within: int, end: float) -> pl.DataFrame:
    """Return per value and user the count of days that are observed `within` days on, and how many of them another followed.

    sums: value, user, day; active: days with a slate of each user; end: unix seconds of the newest impression. Columns:
    `return`, another day within that time; `retention`, the last day of that time.
    """
    last = EPOCH + timedelta(days=int(end // DAY_S) - 1 - within)
    seen = sums.select("value", "user", "day").filter(pl.col("day") <= last)
    others = active.select("user", other="day")
    gap = (pl.col("other") - pl.col("day")).dt.total_days()
    later = seen.join(others, on="user").filter((gap >= 1) & (gap <= within))
    found = later.group_by("value", "user", "day").agg(retention=(gap == within).any())
    each = seen.join(found, on=["value", "user", "day"], how="left")
    returned, retained = pl.col("retention").is_not_null(), pl.col("retention").fill_null(False)
    return each.group_by("value", "user").agg(count=pl.len(), **{"return": returned.sum()}, retention=retained.sum())


def _rows(split: str, metric: str, users: pl.DataFrame) -> Iterator[tuple[object, ...]]:
    """Figures of a metric, by value. users: value, user, x, y."""
    counted = users.with_columns(pl.col("x", "y").cast(pl.Float64)).filter(pl.col("y") > 0).sort("value", "user")
    for part in counted.partition_by("value", maintain_order=True):
        x, y = part["x"].to_numpy(), part["y"].to_numpy()
        estimate, (low, high) = ratio(x, y)
        yield split, part["value"][0], metric, estimate, low, high, part.height, float(x.sum()), float(y.sum())
