"""Drop of a metric against the same weekdays of the weeks before, by a test that may be looked at every day.

A day is compared with the same weekdays of the weeks before it, so that a weekly season is no drop. z = (usual - today) / error
is at most 0 on average while nothing drops, and d = drop * usual / error is its mean after a drop of that size. e = exp(d z -
d^2 / 2) is then an e-value, and R = (R + 1) e, the Shiryaev-Roberts procedure, crosses 1 / alpha in 1 / alpha days on average
at the earliest while nothing drops, whenever the change comes (Shin, Ramdas and Rinaldo, E-detectors, 2024).

Shapes: U users of a day.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from recsys.measurement.drift.figures import DriftFigure
from recsys.measurement.drift.thresholds import Thresholds
from recsys.measurement.kpis import NDCG, metrics_of, sums_of
from recsys.measurement.outcomes import USERS, MeasuredLog
from recsys.measurement.user_sums import ALL

FEWEST_WEEKS = 2
"""same weekdays before a day, at least, that say what is usual"""
FEWEST_USERS = 30
MOST_DAYS = 16 * 7
"""days that are read: a change that began before them has long been an alarm"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DayMean:
    """Ratio of two sums over the users of a day, with its variance (delta method)."""

    value: float
    variance: float

    @staticmethod
    def of(x: np.ndarray, y: np.ndarray) -> "DayMean | None":
        """Return the ratio of the sums of x and y [U]; None for too few users."""
        if len(x) < FEWEST_USERS or y.sum() <= 0:
            return None
        value = x.sum() / y.sum()
        return DayMean(value=float(value), variance=float(((x - value * y) ** 2).sum() / y.sum() ** 2))


def metrics_to_watch(log: MeasuredLog) -> list[str]:
    """Return the metrics whose drop is tested: quality of the order and credit a request, of every outcome."""
    names = metrics_of(log.settings)
    return [name for name in names if NDCG in name or name.endswith("_per_request")]


def drops(log: MeasuredLog, thresholds: Thresholds, metrics: Sequence[str] | None = None) -> list[DriftFigure]:
    """Return the figure of each metric on the newest day whose windows are over, where there are weeks to compare with."""
    of_days = newest_means(log)
    found = []
    for metric in metrics_to_watch(log) if metrics is None else metrics:
        by_day = {day: means[metric] for day, means in of_days.items() if metric in means}
        history = [*detector(by_day, thresholds)]
        if history:
            _, share, error, statistic = history[-1]
            limit = thresholds.limit("drop")
            alarm = limit is not None and statistic >= 1 / thresholds.alpha
            found.append(
                DriftFigure(
                    figure="drop", of=metric, window=24, value=share, error=error, limit=limit, alarm=alarm, requests=0
                )
            )
    return found


def newest_means(log: MeasuredLog) -> dict[date, dict[str, DayMean]]:
    """Return day -> metric -> its mean, of the last days whose windows are over."""
    days = [day for day in sorted(log.days(USERS)) if log.is_observed(day)]
    return {day: _means(log, day) for day in days[-MOST_DAYS:]}


def detector(means: dict[date, DayMean], thresholds: Thresholds) -> Iterator[tuple[date, float, float, float]]:
    """Yield each day that has a usual value: the day, its drop as a share of that, the error of it, and the statistic R."""
    statistic, size = 0.0, thresholds.limit("drop") or 0.05
    for day in sorted(means):
        before = [
            means[one] for week in range(1, thresholds.weeks + 1) if (one := day - timedelta(weeks=week)) in means
        ]
        if len(before) < FEWEST_WEEKS or not (usual := float(np.mean([one.value for one in before]))):
            continue
        variance = means[day].variance + sum(one.variance for one in before) / len(before) ** 2
        error = max(float(np.sqrt(variance)), 1e-12)
        z, d = (usual - means[day].value) / error, size * usual / error
        statistic = min((statistic + 1) * float(np.exp(min(d * z - d**2 / 2, 700.0))), 1e300)
        yield day, (usual - means[day].value) / usual, error / usual, statistic


def _means(log: MeasuredLog, day: date) -> dict[str, DayMean]:
    """Metric -> its mean of a day."""
    sums = sums_of(log, [day], ALL)
    found = {}
    for name, (x, y) in metrics_of(log.settings).items():
        columns = sums.select(x=x.cast(pl.Float64), y=y.cast(pl.Float64)).filter(pl.col("y") > 0)
        if (mean := DayMean.of(columns["x"].to_numpy(), columns["y"].to_numpy())) is not None:
            found[name] = mean
    return found
