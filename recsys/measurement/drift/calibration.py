"""Calibration of what was served: predicted and observed rates of the items shown, by objective and tenth of the prediction.

Predicted is the probability of an item in its slate, observed its credit for the outcome of the same name. A model that learnt
from events alone says how likely a user comes to an item at all, not once it is shown: its ratio is to be compared over time,
and has a limit only where a file of thresholds sets one.

Shapes: M items shown.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from recsys.measurement.drift.effects import DriftEffect, jackknife
from recsys.measurement.drift.figures import DriftFigure
from recsys.measurement.drift.served import GROUPS, groups_of
from recsys.measurement.drift.thresholds import Thresholds
from recsys.measurement.kpis import Period
from recsys.measurement.log_rows import CREDIT
from recsys.measurement.new_rows import new_rows
from recsys.measurement.outcomes import IMPRESSIONS, MeasuredLog

MOST_ITEMS = 200_000
"""items shown of a day that are read, at most, those of the requests with the lowest hashes"""
TENTHS = 10
LOGGED = {"sequence": pl.Int64, "id": pl.String, "user": pl.String, "position": pl.Int64}
LOGGED |= {"bundle": pl.String, "probabilities": pl.String}


@dataclass(frozen=True, kw_only=True)
class ObjectiveCalibration:
    """Predicted against observed of one objective."""

    objective: str
    items: int
    predicted: float
    observed: float
    log_ratio: DriftEffect
    """log(predicted / observed)"""
    tenths: tuple[tuple[float, float], ...]
    """mean prediction and observed rate of equal parts of the items, by prediction"""

    def figure(self, hours: int, thresholds: Thresholds) -> DriftFigure:
        """Return the figure of its ratio."""
        limit = thresholds.limit("miscalibration")
        size = DriftEffect(value=abs(self.log_ratio.value), error=self.log_ratio.error)
        return DriftFigure(
            figure="miscalibration",
            of=self.objective,
            window=hours,
            value=size.value,
            error=size.error,
            limit=limit,
            alarm=limit is not None and size.above(limit, thresholds.errors_of(hours)),
            requests=0,
        )


def calibration(log: MeasuredLog, bundle: str, period: Period) -> list[ObjectiveCalibration]:
    """Return the calibration of every outcome that the bundle had a probability of, over days whose windows are over."""
    days = [day for day in period.days(log) if log.is_observed(day)]
    parts = [
        table for day in days if (table := _predictions(log, bundle, day, list(log.settings.outcomes))) is not None
    ]
    if not parts:
        return []
    shown = pl.concat(parts)
    return [one for name in log.settings.outcomes if (one := _of(name, shown)) is not None]


def _predictions(log: MeasuredLog, bundle: str, day: date, outcomes: list[str]) -> pl.DataFrame | None:
    """Items shown on a day by a bundle: user, prediction and credit of each outcome; None without any."""
    rows = new_rows(log.log / "impressions" / f"day={day}", -1, LOGGED)
    if rows is None:
        return None
    own = rows.filter((pl.col("bundle") == bundle) & pl.col("position").is_not_null()).unique(
        ["id", "position"], keep="first"
    )
    if own.height > MOST_ITEMS:
        own = own.filter(pl.col("id").hash(0) < 2**64 * MOST_ITEMS // own.height)
    texts = own["probabilities"].fill_null("{}").str.json_decode(pl.Struct(dict.fromkeys(outcomes, pl.Float64))).struct
    predicted = own.select("id", "position", "user", *(texts.field(name).alias(name) for name in outcomes))
    credits = log.table(IMPRESSIONS, day, ["id", "position", *(CREDIT + name for name in outcomes)])
    return predicted.join(credits, on=["id", "position"])


def _of(name: str, shown: pl.DataFrame) -> ObjectiveCalibration | None:
    known = shown.drop_nulls([name, CREDIT + name]).sort(name, "id", "position")
    predicted = known[name].to_numpy()
    observed = known[CREDIT + name].to_numpy().clip(0, 1)
    if not predicted.sum() or not observed.sum():
        return None
    groups = groups_of(known["user"].to_list())
    sums = np.stack([np.bincount(groups, values, GROUPS) for values in (predicted, observed)])
    without = sums.sum(axis=1, keepdims=True) - sums
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.log(without[0]) - np.log(without[1])
    whole = float(np.log(predicted.sum() / observed.sum()))
    effect = jackknife(whole, ratios) if np.isfinite(ratios).all() else DriftEffect(value=whole, error=np.inf)
    parts = zip(np.array_split(predicted, TENTHS), np.array_split(observed, TENTHS), strict=True)
    return ObjectiveCalibration(
        objective=name,
        items=len(predicted),
        predicted=float(predicted.mean()),
        observed=float(observed.mean()),
        log_ratio=effect,
        tenths=tuple((float(one.mean()), float(other.mean())) for one, other in parts if len(one)),
    )


def to_document(found: list[ObjectiveCalibration]) -> Iterator[Mapping[str, object]]:
    """Yield each calibration as JSON values."""
    for one in found:
        yield {
            "objective": one.objective,
            "items": one.items,
            "predicted": one.predicted,
            "observed": one.observed,
            "log_ratio": one.log_ratio.value,
            "error": None if np.isinf(one.log_ratio.error) else one.log_ratio.error,
            "tenths": [list(pair) for pair in one.tenths],
        }
