"""The picture of the diversity fronts: a row of panels a run, a line a diversity."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

PANELS = {"distance": "intra-list distance", "coverage": "coverage of the catalogue", "gini": "exposure Gini"}
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7", "#767676")


def draw_fronts(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a PNG at 150 dpi: NDCG@10 on TEST against each measure, as the dial turns."""
    runs = list(dict.fromkeys(row["run"] for row in rows))
    figure = Figure(figsize=(15, 4.6 * len(runs)), dpi=150, layout="constrained")
    panels = figure.subplots(len(runs), len(PANELS), squeeze=False)
    for line, run in zip(panels, runs, strict=True):
        own = [row for row in rows if row["run"] == run]
        for panel, (key, title) in zip(line, PANELS.items(), strict=True):
            names = dict.fromkeys(row["diversity"] for row in own)
            for name, (line_style, colour) in zip(names, itertools.product(("o-", "s--", "^:"), COLOURS), strict=False):
                points = [(row["test"][key], row["test"]["ndcg@10"]) for row in own if row["diversity"] == name]
                panel.plot(
                    *zip(*points, strict=True), line_style, color=colour, markersize=3.5, linewidth=1, label=name
                )
            panel.axhline(0.99 * own[0]["test"]["ndcg@10"], color="#767676", linewidth=0.8, linestyle="--")
            panel.set(xlabel=title, ylabel="NDCG@10")
            panel.set_title(run, fontsize=10.5, loc="left", parse_math=False)
    panels[0][0].legend(fontsize=8)
    figure.savefig(path, format="png")
