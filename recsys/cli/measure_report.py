"""Chapters of a measurement for terminal and HTML page."""

from collections.abc import Mapping, Sequence

import polars as pl

from recsys.cli.data_report import Chapter
from recsys.measurement.gauges import bounded
from recsys.measurement.kpis import NDCG, Period
from recsys.measurement.settings import MeasurementSettings
from recsys.measurement.user_sums import ALL

MAX_VALUES = 24
"""of a split, those with the most users"""
MAX_METRICS = 3
"""columns of a split in 80 characters"""
SHARES = ("@", "_users", "return_", "retention_")
"""parts of the names of metrics that are shares"""
Row = Mapping[str, float | str | None]


def chapters(figures: pl.DataFrame, settings: MeasurementSettings, period: Period) -> tuple[Chapter, ...]:
    """Return one chapter of all figures, and one a split with more than one value."""
    splits = [one for one in figures["split"].unique(maintain_order=True) if one != ALL]
    several = [one for one in splits if figures.filter(pl.col("split") == one)["value"].n_unique() > 1]
    return _whole(figures, period), *(_split(figures, settings, one) for one in several)


def headlines(settings: MeasurementSettings) -> list[str]:
    """Return one metric an outcome: the rate at the longest top of the slate, or the amount a slate."""
    return [
        f"{name}_per_request" if settings.is_amount(name) else f"{name}@{max(settings.k)}" for name in settings.outcomes
    ]


def number_text(metric: str, value: float | None) -> str:
    """Format a share in percent, another figure by its size; nothing for None."""
    if value is None:
        return ""
    if NDCG not in metric and any(part in metric for part in SHARES):
        return f"{100 * value:.2f}%"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def values_of(figures: pl.DataFrame, split: str) -> pl.DataFrame:
    """Return the figures of the values of a split with the most users, by value."""
    return bounded(figures.filter(pl.col("split") == split), MAX_VALUES).sort("value", maintain_order=True)


def _whole(figures: pl.DataFrame, period: Period) -> Chapter:
    rows = figures.filter(pl.col("split") == ALL).iter_rows(named=True)
    return Chapter(
        title=f"from {period.first} to {period.last}, 95% intervals over users",
        headings=("figure", "estimate", "low", "high", "users"),
        rows=tuple(
            (
                row["metric"],
                *(number_text(row["metric"], row[key]) for key in ("estimate", "low", "high")),
                f"{row['users']:,}",
            )
            for row in rows
        ),
    )


def _split(figures: pl.DataFrame, settings: MeasurementSettings, split: str) -> Chapter:
    known = set(figures["metric"])
    metrics = [one for one in headlines(settings) if one in known][:MAX_METRICS]
    found = {(row["value"], row["metric"]): row for row in values_of(figures, split).iter_rows(named=True)}
    values = list(dict.fromkeys(value for value, _ in found))
    return Chapter(
        title=f"by {split}",
        headings=(split, "users", *metrics),
        rows=tuple(_cells(value, [found.get((value, one)) for one in metrics]) for value in values),
    )


def _cells(value: str, rows: Sequence[Row | None]) -> tuple[str, ...]:
    users = max((int(row["users"] or 0) for row in rows if row), default=0)
    return (value, f"{users:,}", *("" if row is None else _with_interval(row) for row in rows))


def _with_interval(row: Row) -> str:
    """Estimate and half the length of its interval."""
    metric, estimate, low, high = str(row["metric"]), *(row[key] for key in ("estimate", "low", "high"))
    assert isinstance(estimate, float)
    text = number_text(metric, estimate)
    if not isinstance(low, float) or not isinstance(high, float):
        return text
    return f"{text} ±{number_text(metric, (high - low) / 2).removesuffix('%')}"
