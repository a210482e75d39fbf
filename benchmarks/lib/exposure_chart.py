"""The picture of what limits on exposure cost: a panel a measure, a point a setting."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

PANELS = {"gini": "exposure Gini", "top_1_percent": "share of the top 1% of the items", "coverage": "coverage"}
COLOURS = ("#000000", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00")


def draw_prices(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Write a PNG at 150 dpi: NDCG@10 against each measure; settings of one kind are joined, the line is 1% below none."""
    figure = Figure(figsize=(15, 5), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(PANELS))
    kinds = dict.fromkeys(_kind(row) for row in rows)
    for panel, (key, heading) in zip(panels, PANELS.items(), strict=True):
        for kind, colour in zip(kinds, COLOURS, strict=False):
            points = [(row[key], row["ndcg@10"]) for row in rows if _kind(row) == kind]
            panel.plot(*zip(*points, strict=True), "o-", color=colour, markersize=4, linewidth=1, label=kind)
        panel.axhline(0.99 * rows[0]["ndcg@10"], color="#767676", linewidth=0.8, linestyle="--")
        panel.set(xlabel=heading, ylabel="NDCG@10")
    panels[0].legend(fontsize=8)
    figure.suptitle(title, x=0.008, ha="left", fontsize=11, fontweight="bold", parse_math=False)
    figure.savefig(path, format="png")


def _kind(row: Mapping[str, Any]) -> str:
    """dial on exposure 0.2 -> dial on exposure, item: at most 2.00% -> item."""
    name: str = row["setting"]
    return name.partition(":")[0] if ":" in name else name.rstrip(".0123456789 ")
