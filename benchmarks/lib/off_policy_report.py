"""The tables and the picture of off_policy.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rich import box
from rich.table import Table

matplotlib.use("Agg")
from matplotlib import pyplot

PUBLISHED = {"DM": 0.157, "IPS": 0.311, "DR": 0.292, "Switch-DR": 0.258, "DR-os, SLOPE": 0.160}
"""mean relative error of random -> bts over 30 runs, as the Open Bandit Pipeline reports it"""
BAND = (0.90, 0.98)

Row = dict[str, Any]


def names(rows: Sequence[Row], key: str) -> list[str]:
    """Values of a column, each once, in their order."""
    return list(dict.fromkeys(row[key] for row in rows))


def coverage_table(rows: Sequence[Row], default: str, bootstrap: str) -> Table:
    """A row an estimator: its error, and least to greatest coverage of each kind of interval over the worlds."""
    kinds = list(next(row for row in rows if row["estimator"] == default)["coverage"])
    shown = Table(title=f"{len(names(rows, 'world'))} worlds of known truth", box=box.SIMPLE_HEAD)
    shown.add_column("estimator")
    for heading in ("error", "worst error", "worst bias", *kinds):
        shown.add_column(heading, justify="right")
    for name in names(rows, "estimator"):
        ours = [row for row in rows if row["estimator"] == name]
        rmse = np.array([row["rmse"] for row in ours])
        worst = max((row["bias"] for row in ours), key=abs)
        cover = [[row["coverage"].get(kind, np.nan) for row in ours] for kind in kinds]
        shown.add_row(
            name,
            *(f"{one:.3f}" for one in (np.exp(np.log(rmse).mean()), rmse.max())),
            f"{worst:+.3f}",
            *("" if np.isnan(one[0]) else f"{min(one):.3f} to {max(one):.3f}" for one in cover),
            style="bold" if name == default else "",
        )
    shown.caption = f"error: root mean square / truth, geometric mean of worlds; {bootstrap} of {default} only"
    return shown


def shop_table(rows: Sequence[Row], default: str) -> Table:
    """A row an estimator: median relative error of each direction and campaign."""
    shown = Table(title="Open Bandit, small: median relative error of the runs", box=box.SIMPLE_HEAD)
    shown.add_column("estimator")
    pairs = list(dict.fromkeys((row["direction"], row["campaign"]) for row in rows))
    pairs.sort(key=lambda pair: pair[0] != "random -> bts")
    for direction, campaign in pairs:
        row = _of(rows, direction, campaign)[0]
        heading = f"{direction}\n{campaign}\n{row['clicks']} clicks\ntruth {row['clicks_of_truth']}"
        shown.add_column(heading, justify="right")
    for heading in ("random -> bts\nmedian", "\nmean", "published\nmean"):
        shown.add_column(heading, justify="right")
    for name in names(rows, "estimator"):
        shown.add_row(
            name,
            *(f"{np.median(one['relative_errors']):.3f}" for pair in pairs for one in _of(rows, *pair, name)),
            *(f"{measure(pooled(rows, name)):.3f}" for measure in (np.median, np.mean)),
            f"{PUBLISHED[name]:.3f}" if name in PUBLISHED else "",
            style="bold" if name == default else "",
        )
    return shown


def _of(rows: Sequence[Row], direction: str, campaign: str, name: str | None = None) -> list[Row]:
    place = [row for row in rows if (row["direction"], row["campaign"]) == (direction, campaign)]
    return [row for row in place if name is None or row["estimator"] == name]


def pooled(rows: Sequence[Row], name: str) -> list[float]:
    """Errors of all runs and campaigns, random -> bts."""
    ours = [row for row in rows if row["estimator"] == name and row["direction"] == "random -> bts"]
    return [one for row in ours for one in row["relative_errors"]]


def draw(simulation: Sequence[Row], real: Sequence[Row], interval: str, file: Path) -> Path:
    """Coverage in every world beside estimates of the whole logs with their intervals."""
    campaigns = names(real, "campaign")
    figure, axes = pyplot.subplots(1, 1 + len(campaigns), figsize=(16, 5), layout="constrained")
    _draw_coverage(axes[0], simulation, interval)
    for axis, campaign in zip(axes[1:], campaigns, strict=True):
        _draw_shop(axis, _of(real, "random -> bts", campaign), campaign)
    figure.savefig(file, dpi=100)
    pyplot.close(figure)
    return file


def _draw_coverage(axis: Any, rows: Sequence[Row], interval: str) -> None:
    estimators = names(rows, "estimator")
    axis.axvspan(*BAND, color="tab:green", alpha=0.2, linewidth=0)
    for place, name in enumerate(estimators):
        found = [row["coverage"][interval] for row in rows if row["estimator"] == name]
        axis.plot(found, np.full(len(found), place), "|", markersize=14, color="tab:blue")
    axis.set_yticks(range(len(estimators)), estimators)
    axis.invert_yaxis()
    axis.set(xlabel="share of intervals of 95% that hold the truth", title=f"a mark a world, {interval}")


def _draw_shop(axis: Any, rows: Sequence[Row], campaign: str) -> None:
    low, high = (1000 * end for end in rows[0]["truth_ci95"])
    axis.axvspan(low, high, color="grey", alpha=0.2, linewidth=0)
    axis.axvline(1000 * rows[0]["truth"], color="grey", linestyle="--", linewidth=1)
    for place, row in enumerate(rows):
        low, high = (1000 * end for end in row["ci95"])
        axis.plot([low, high], [place, place], color="tab:blue")
        axis.plot(1000 * row["value"], place, "o", color="tab:blue")
    axis.set_yticks(range(len(rows)), [row["estimator"] for row in rows])
    axis.invert_yaxis()
    axis.set_title(f"{campaign}: bts from {rows[0]['clicks']} clicks of random", fontsize=9)
    axis.set_xlabel("clicks per 1,000; grey: bts' own log")
