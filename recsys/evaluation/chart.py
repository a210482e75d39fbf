"""Charts of an evaluation: one panel per metric, a dot and its interval for each system."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Mapping[str, Mapping[str, Any]]

TITLES = {
    "recall@10": "recall@10",
    "ndcg@10": "NDCG@10",
    "recall@100": "recall@100",
    "recall@500": "recall@500",
    "coverage@10": "coverage@10",
    "debiased_ndcg@10": "NDCG@10\ndebiased",
}
_OURS, _OTHERS = "#0072B2", "#767676"  # Okabe and Ito's blue, and grey: apart for every kind of colour vision


def draw(path: Path, rows: Rows, ours: Collection[str], title: str, caption: str) -> None:
    """Write a PNG at 150 dpi; the systems in `ours` are highlighted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 1.6 + 0.36 * len(rows)), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(TITLES), sharey=True)
    for panel, metric in zip(panels, TITLES, strict=True):
        _draw_panel(panel, metric, rows, ours)
    _label_systems(panels[0], rows, ours)
    figure.suptitle(title, x=0.008, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    figure.supxlabel(f"{caption} ", x=0.008, ha="left", fontsize=8, color="#555555")
    figure.savefig(path, format="png")


def draw_reliability(path: Path, objectives: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Write a PNG at 150 dpi: predicted against observed rate of each objective, in bins of equal mass.

    Both axes are logarithmic, since most candidates are unlikely; bins without a positive lie on the lower edge. Where
    the bins have an interval, `low` and `high`, it is drawn.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 4 * len(objectives), 4.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(objectives), squeeze=False)[0]
    for panel, (name, measured) in zip(panels, objectives.items(), strict=True):
        predicted, observed = (measured["reliability"][one] for one in ("predicted", "observed"))
        seen = [one for one in (*predicted, *observed) if one > 0]
        low, high = min(seen) / 1.5, max(seen) * 1.5
        panel.plot([low, high], [low, high], color=_OTHERS, linewidth=0.8)
        panel.plot(predicted, [max(one, low) for one in observed], "o-", color=_OURS, markersize=4, linewidth=1)
        if "low" in measured["reliability"]:
            panel.vlines(
                predicted, measured["reliability"]["low"], measured["reliability"]["high"], color=_OURS, alpha=0.5
            )
        panel.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), xlabel="predicted", ylabel="observed")
        panel.minorticks_off()
        panel.set_title(f"{name}: ECE {short(measured['ece'])}", fontsize=10.5, loc="left", parse_math=False)
    figure.suptitle(title, x=0.008, ha="left", fontsize=9, fontweight="bold", parse_math=False)
    figure.savefig(path, format="png")


def draw_comparison(path: Path, rows: Mapping[str, tuple[float, float, float, Sequence[float]]], title: str) -> None:
    """Write a PNG at 150 dpi: for each configuration its mean, the ends of its interval, and a dot for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.4 + 0.36 * len(rows)), dpi=150, layout="constrained")
    panel = figure.subplots()
    for number, (mean, low, high, by_seed) in enumerate(rows.values()):
        colour = _colour(number == 0)
        panel.hlines(number, low, high, color=colour, linewidth=7, alpha=0.3)
        panel.plot(by_seed, [number] * len(by_seed), "o", color=colour, markersize=3)
        panel.plot(mean, number, "D", color=colour, markersize=5)
        _label_value(panel, mean, (high, number), color=colour, weight="bold" if number == 0 else "normal")
    _label_systems(panel, rows, [*rows][:1])
    _tidy(panel, max(high for _, _, high, _ in rows.values()))
    panel.set_title(title, fontsize=10.5, loc="left", parse_math=False)
    figure.savefig(path, format="png")


def draw_pareto_front(path: Path, points: Sequence[Mapping[str, Any]], names: tuple[str, str], weight: str) -> None:
    """Write a PNG at 150 dpi: NDCG of two objectives for each weight, the Pareto front joined.

    points: {"weight", "worth" of both, "front", "served"} each
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5.5), dpi=150, layout="constrained")
    axis = figure.subplots()
    front = sorted(point["worth"] for point in points if point["front"])
    axis.plot(*zip(*front, strict=True), color=_OURS, linewidth=1.2)
    for point in points:
        colour = _OURS if point["front"] else _OTHERS
        axis.plot(*point["worth"], "D" if point["served"] else "o", color=colour, markersize=6)
        label = f"{point['weight']:g}{' (served)' if point['served'] else ''}"
        axis.annotate(label, point["worth"], (5, 4), textcoords="offset points", fontsize=8)
    axis.set(xlabel=f"NDCG@10 of {names[0]}", ylabel=f"NDCG@10 of {names[1]}")
    axis.set_title(f"by {weight}", fontsize=10.5, loc="left", parse_math=False)
    figure.savefig(path, format="png")


def draw_goals(
    path: Path, points: Sequence[Mapping[str, Any]], axes: Sequence[tuple[str, bool, float | None]], title: str
) -> None:
    """Write a PNG at 150 dpi: the first goal against each other one, a panel each.

    points: {"label", "goals", "front", "best", "over_budget"} each; crosses are over the budget. axes: title, whether less is
    better, and the budget of each goal
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 5.5 * (len(axes) - 1), 5), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(axes) - 1, squeeze=False, sharey=True)[0]
    for number, (panel, axis) in enumerate(zip(panels, axes[1:], strict=True), 1):
        _draw_goal(panel, [(one["goals"][number], one["goals"][0], one) for one in points], *axis)
    panels[0].set_ylabel(axes[0][0])
    figure.suptitle(title, x=0.008, ha="left", fontsize=9, fontweight="bold", parse_math=False)
    figure.supxlabel(
        "blue: front, no other is better by all goals; diamond: best within the budget; crosses: over the budget ",
        x=0.008, ha="left", fontsize=8, color="#555555",
    )  # fmt: skip
    figure.savefig(path, format="png")


def _draw_goal(
    panel: Any,
    points: Sequence[tuple[float, float, Mapping[str, Any]]],
    title: str,
    less_is_better: bool,
    limit: float | None,
) -> None:
    front = sorted((x, y) for x, y, one in points if one["front"])
    panel.plot([x for x, _ in front], [y for _, y in front], color=_OURS, linewidth=0.8, linestyle=":")
    for x, y, one in points:
        marker = "x" if one["over_budget"] else "D" if one["best"] else "o"
        panel.plot(x, y, marker, color=_colour(one["front"]), markersize=8 if one["best"] else 5)
        if one["front"]:
            panel.annotate(one["label"], (x, y), (5, 4), textcoords="offset points", fontsize=8, color=_OURS)
    if limit is not None:
        panel.axvline(limit, color=_OTHERS, linewidth=0.8, linestyle="--")
    panel.set_xlabel(f"{title} ({'less' if less_is_better else 'more'} is better)")
    panel.grid(color="#EFEFEF", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[:].set_visible(False)


def draw_dry_run(path: Path, run: Mapping[str, Any], title: str) -> None:
    """Write a PNG at 150 dpi: cost of each rule, and moved exposure of each column.

    run: document of a DryRun
    """
    from matplotlib.figure import Figure

    rules, shifts = run["rules"], run["shifts"]
    figure = Figure(figsize=(13, 1.8 + 0.3 * max(len(rules), len(shifts), 3)), dpi=150, layout="constrained")
    costs, moves = figure.subplots(1, 2)
    for panel, rows, key, name, heading in (
        (costs, rules, "value_lost", "name", "value lost, by rule"),
        (moves, shifts, "moved", "column", "exposure that changes hands, by column"),
    ):
        panel.barh(range(len(rows)), [row[key] for row in rows], color=_OURS, height=0.6)
        panel.set_yticks(range(len(rows)), labels=[row[name] for row in rows], parse_math=False, fontsize=8.5)
        panel.invert_yaxis()
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
        panel.set_title(heading, fontsize=10.5, loc="left")
        panel.axvline(0, color=_OTHERS, linewidth=0.8)
        panel.spines[:].set_visible(False)
    figure.suptitle(title, x=0.008, ha="left", fontsize=11, fontweight="bold", parse_math=False)
    figure.savefig(path, format="png")


def short(value: float) -> str:
    """Format with four decimals and without the leading 0: .0992."""
    text = f"{value:z.4f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.99995 else text


def _draw_panel(panel: Any, metric: str, rows: Rows, ours: Collection[str]) -> None:
    best = max(row[metric] for row in rows.values())
    for row_number, (system, row) in enumerate(rows.items()):
        low, high = row["ci95"].get(metric, (row[metric], row[metric]))
        colour = _colour(system in ours)
        panel.hlines(row_number, low, high, color=colour, linewidth=7, alpha=0.3)
        panel.plot(row[metric], row_number, "D" if system in ours else "o", color=colour, markersize=5)
        weight = "bold" if short(row[metric]) == short(best) else "normal"
        _label_value(panel, row[metric], (high, row_number), color=colour, weight=weight)
    panel.set_title(TITLES[metric], fontsize=10.5, loc="left")
    _tidy(panel, max(row["ci95"].get(metric, (0, row[metric]))[1] for row in rows.values()))


def _label_value(panel: Any, value: float, at: tuple[float, float], **style: str) -> None:
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
    panel.annotate(short(value), at, (7, 0), textcoords="offset points", va="center", fontsize=8.5, bbox=paper, **style)


def _tidy(panel: Any, largest: float) -> None:
    panel.set_xlim(0, 1.32 * largest or 1)
    panel.locator_params(axis="x", nbins=4)
    panel.tick_params(axis="both", length=0, labelsize=8, labelcolor="#555555")
    panel.grid(axis="x", color="#E6E6E6", linewidth=0.8)
    panel.grid(axis="y", color="#EFEFEF", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[:].set_visible(False)


def _label_systems(panel: Any, rows: Collection[str], ours: Collection[str]) -> None:
    panel.set_yticks(range(len(rows)), labels=list(rows), parse_math=False)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    for label, system in zip(panel.get_yticklabels(), rows, strict=True):
        label.set(color=_colour(system in ours), fontsize=9.5)


def _colour(ours: bool) -> str:
    return _OURS if ours else _OTHERS
