"""Key figures as a page of Prometheus gauges, with bounded labels.

recsys_kpi{split="surface",value="home",metric="click@10"} 0.031
recsys_kpi_low{...}, recsys_kpi_high{...}    ends of the 95% interval
recsys_measured_until                        time of the newest impression, unix seconds
"""

from collections.abc import Iterator

import polars as pl

from recsys.measurement.kpis import DAY

FILE = "metrics.prom"
"""of a measurement; the gateway serves it below its own metrics"""
MAX_VALUES = 20
"""of a split: those with the most users are exported, since every label value is a time series"""
NAMES = {"recsys_kpi": "estimate", "recsys_kpi_low": "low", "recsys_kpi_high": "high"}


def gauges_page(figures: pl.DataFrame, end: float) -> str:
    """Return the page in Prometheus' text format; the days of a period are no time series and are left out."""
    kept = bounded(figures.filter(pl.col("split") != DAY), MAX_VALUES)
    lines = [line for name, column in NAMES.items() for line in _gauge(name, kept, column)]
    return "\n".join([*lines, "# TYPE recsys_measured_until gauge", f"recsys_measured_until {end}", ""])


def bounded(figures: pl.DataFrame, most: int) -> pl.DataFrame:
    """Keep the values of each split with the most users, in their order."""
    users = figures.group_by("split", "value").agg(pl.col("users").max())
    largest = users.sort(["users", "value"], descending=[True, False]).group_by("split").head(most)
    return figures.join(largest, on=["split", "value"], how="semi", maintain_order="left")


def _gauge(name: str, figures: pl.DataFrame, column: str) -> Iterator[str]:
    yield f"# TYPE {name} gauge"
    for split, value, metric, number in figures.select("split", "value", "metric", column).iter_rows():
        if number is not None:
            yield f'{name}{{split="{label_text(split)}",value="{label_text(value)}",metric="{metric}"}} {number!r}'


def label_text(text: str) -> str:
    """Return a text as the value of a label."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
