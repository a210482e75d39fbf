"""Quality of the probabilities of a ranker on logged impressions: order, likelihood, calibration by decile.

Shapes: R rows, T labels, Q bins.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from recsys.evaluation.chart import draw_reliability, short
from recsys.evaluation.objectives import DECILES, Measures, mean
from recsys.evaluation.probabilities import (
    auc,
    group_auc,
    log_loss,
    normalised_entropy,
    predicted_over_observed,
    reliability,
)
from recsys.stores.atomic_files import atomic_file, write_atomically

LabelMeasures = Mapping[str, Measures]
"""label -> measures"""
RELIABILITY = "reliability.png"
GAUC = "gauc/"
"""prefix of the measures by group"""
TITLES = {
    "auc": "AUC",
    "log_loss": "log loss",
    "normalised_entropy": "NE",
    "ece": "ECE",
    "predicted_over_observed": "predicted / observed",
    "rate": "rate",
}
"""measure -> its title, behind which the GAUC of each group follows"""


def title_of(measure: str) -> str:
    """Return the title of a measure, also of one by group; the measure itself where it has none."""
    return f"GAUC {measure.removeprefix(GAUC)}" if measure.startswith(GAUC) else TITLES.get(measure, measure)


def columns_of(labels: LabelMeasures) -> list[str]:
    """Return the measures that tables show: those with a title, then those by group."""
    return [*TITLES, *dict.fromkeys(key for own in labels.values() for key in own if key.startswith(GAUC))]


def impression_measures(
    labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], groups: Mapping[str, np.ndarray]
) -> LabelMeasures:
    """Return label -> measures; labels [R, T] of 0, 1 and NaN, predicted [R, T], groups [R] int64, -1 where missing.

    A label that is alike in all rows is left out.
    """
    found: dict[str, Measures] = {}
    for column, name in enumerate(names):
        known = ~np.isnan(labels[:, column])
        own = labels[known, column].astype(np.float64)
        if 0 < own.sum() < len(own):
            of_groups = {group: codes[known] for group, codes in groups.items()}
            found[name] = _measures(own, predicted[known, column].astype(np.float64), of_groups)
    return found


def _measures(labels: np.ndarray, predicted: np.ndarray, groups: Mapping[str, np.ndarray]) -> Measures:
    """Measures of one label, [R] each."""
    deciles = reliability(labels, predicted, DECILES)
    low, high = deciles.interval
    by_group = {
        f"{GAUC}{name}": group_auc(labels[known], predicted[known], codes[known])
        for name, codes in groups.items()
        if (known := codes >= 0).any()
    }
    return {
        "auc": auc(labels, predicted),
        "log_loss": log_loss(labels, predicted),
        "normalised_entropy": normalised_entropy(labels, predicted),
        "ece": reliability(labels, predicted).error,
        "predicted_over_observed": predicted_over_observed(labels, predicted),
        "rate": float(labels.mean()),
        "rows": len(labels),
        "reliability": {
            "predicted": deciles.predicted.tolist(),
            "observed": deciles.observed.tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
            "rows": deciles.sizes.tolist(),
        },
        **{name: value for name, value in by_group.items() if value is not None},
    }


@dataclass(frozen=True, kw_only=True)
class ImpressionReport:
    """Figures of one training on a click log."""

    name: str
    protocol: str
    rows: Mapping[str, int]
    """period -> its rows"""
    seeds: tuple[int, ...]
    validation: Sequence[LabelMeasures]
    """for each seed"""
    test: Sequence[LabelMeasures]
    """the same of the test rows, empty where they were not looked at"""
    target: str
    served: str
    """sentence on the fit that was measured and the fit that is served"""
    seconds: float
    peak_memory_mib: float

    @property
    def values(self) -> tuple[float, ...]:
        """Return the figure to maximise: the AUC of the target on validation, mean over the seeds."""
        return (float(mean(self.validation)[self.target]["auc"]),)

    def to_document(self) -> dict[str, Any]:
        """Return JSON values: means over the seeds, and their standard deviation where there are several."""
        return {
            "task": "ranking",
            "name": self.name,
            "protocol": self.protocol,
            "rows": dict(self.rows),
            "seeds": list(self.seeds),
            "target": self.target,
            "validation": mean(self.validation),
            "test": mean(self.test),
            "spread": {"validation": _spread(self.validation), "test": _spread(self.test)},
            "by_seed": {
                key: [one[self.target][key] for one in self.validation]
                for key in columns_of({self.target: self.validation[0][self.target]})
                if all(key in one[self.target] for one in self.validation)
            },
            "served": self.served,
            "seconds": self.seconds,
            "peak_memory_mib": self.peak_memory_mib,
        }

    def save(self, folder: Path) -> None:
        """Write reliability.png, of the test where it was looked at, and then metrics.json into the folder, each atomically."""
        period, judged = ("test", self.test) if self.test else ("validation", self.validation)
        with atomic_file(folder / RELIABILITY) as draft:
            draw_reliability(draft, mean(judged), f"{self.name}, {self.protocol}, {period}: deciles, 95% intervals")
        text = json.dumps(self.to_document(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(folder / "metrics.json", text.encode())

    def table(self) -> Table:
        """Return the table of measures, a row for each period and label."""
        table = Table(title=Text(f"{self.name}, {self.protocol}"), box=box.SIMPLE_HEAD, title_justify="left")
        periods = {"validation": mean(self.validation), "test": mean(self.test)}
        measures = columns_of(periods["validation"])
        for heading in ("label", "rows", *map(title_of, measures)):
            table.add_column(heading, justify="left" if heading == "label" else "right")
        for period, labels in periods.items():
            for name, own in labels.items():
                figures = (short(own[key]) if key in own else "" for key in measures)
                table.add_row(Text(f"{name}, {period}"), f"{own['rows']:,}", *figures)
        table.caption = Text(f"{self.served}\n{self.seconds:,.0f} s, at most {self.peak_memory_mib:,.0f} MiB")
        return table

    def deciles(self) -> Table:
        """Return the table of the target's calibration on the test rows."""
        title = Text(f"Calibration of {self.target!r} by decile, test")
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
        for heading in ("decile", "rows", "predicted", "observed", "95% interval"):
            table.add_column(heading, justify="right")
        bins = mean(self.test)[self.target]["reliability"]
        columns = (bins[key] for key in ("rows", "predicted", "observed", "low", "high"))
        for number, (rows, predicted, observed, low, high) in enumerate(zip(*columns, strict=True), start=1):
            table.add_row(str(number), f"{rows:,}", short(predicted), short(observed), f"{short(low)}–{short(high)}")
        return table


def _spread(parts: Sequence[LabelMeasures]) -> dict[str, dict[str, float]]:
    """Return label -> measure -> standard deviation over the seeds; empty for one seed."""
    if len(parts) < 2:
        return {}
    return {
        name: {
            key: float(np.std([one[name][key] for one in parts], ddof=1))
            for key, value in own.items()
            if isinstance(value, float)
        }
        for name, own in parts[0].items()
    }
