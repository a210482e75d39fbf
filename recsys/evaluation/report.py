"""What an evaluation says: a table to read, a chart, a document to keep, and sentences that name winner and loser."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from recsys.errors import DataError
from recsys.evaluation.metrics import paired_bootstrap

Rows = Mapping[str, Mapping[str, Any]]
"""system -> what `metrics.evaluate` gave"""

TITLES = {"recall@10": "recall@10", "ndcg@10": "NDCG@10", "recall@100": "recall@100", "coverage@10": "coverage@10"}
METHOD = "Full ranking, ties lose, 95% bootstrap intervals over users."
_SEED = 0
_OURS, _OTHERS = "#0072B2", "#767676"  # Okabe and Ito's blue, and grey: apart for every kind of colour vision


@dataclass(frozen=True, kw_only=True)
class Report:
    """The systems of one evaluation, all measured on the same users. ValueError when a name has no row."""

    rows: Rows
    """in the order of table and chart; the last system is the one that the evaluation is about"""
    protocol: str
    targets_sha256: str
    users: int
    notes: tuple[str, ...] = ()
    slices: Mapping[str, Rows] = field(default_factory=dict)
    ours: tuple[str, ...] = ()
    """systems that are held against the others, in the order of the cascade; empty means the last one"""
    per_user: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)
    """system -> metric -> [users] float64, for `verdicts`; not part of the document"""

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("a report needs at least one system")
        if strange := [name for name in (*self.ours, *self.per_user) if name not in self.rows]:
            raise ValueError(f"the report has no row for {strange[0]!r}; rows are {', '.join(self.rows)}")

    def to_document(self) -> dict[str, Any]:
        """Everything but `per_user`, JSON-able."""
        return {
            "protocol": self.protocol,
            "targets_sha256": self.targets_sha256,
            "users": self.users,
            "notes": list(self.notes),
            "ours": list(_tested(self)),
            "rows": _plain(self.rows),
            "slices": {name: _plain(rows) for name, rows in self.slices.items()},
        }

    def save(self, folder: Path) -> None:
        """Write metrics.png and then metrics.json into the folder, each beside its place and renamed."""
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_document(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        _replace(folder / "metrics.png", self.draw)
        _replace(folder / "metrics.json", lambda path: path.write_text(text, encoding="utf-8"))

    def table(self) -> Table:
        """Systems as rows, slices as sections below; the best value of a column and section is bold."""
        table = _table(self.protocol, "system")
        lines = (f"{self.users:,} users. {METHOD}", f"targets {self.targets_sha256[:12]}", *self.notes)
        table.caption = Text("\n".join(lines))
        _add_rows(table, self.rows)
        for name, rows in self.slices.items():
            table.add_section()
            users = max((row["users"] for row in rows.values()), default=0)
            table.add_row(Text(f"{name} ({users:,} users)", style="italic"))
            _add_rows(table, rows)
        return table

    def draw(self, path: Path) -> None:
        """A PNG at 150 dpi: one panel a metric, a dot and its interval for each system, in the order of the table."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12.5, 1.5 + 0.36 * len(self.rows)), dpi=150, layout="constrained")
        panels = figure.subplots(1, len(TITLES), sharey=True)
        for panel, metric in zip(panels, TITLES, strict=True):
            _draw_panel(panel, metric, self)
        _label_systems(panels[0], self)
        figure.suptitle(self.protocol, x=0.008, ha="left", fontsize=12, fontweight="bold", parse_math=False)
        figure.supxlabel(f"{self.users:,} users. {METHOD} ", x=0.008, ha="left", fontsize=8, color="#555555")
        figure.savefig(path, format="png")


def compare(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """The last system of several runs (name with overrides -> metrics.json), one row a run, best values bold.

    Runs on other targets than the first are marked, for their figures cannot be compared with it, and then no value is
    bold. DataError when a document is not one of a report.
    """
    rows = {name: _last_row(name, document) for name, document in runs.items()}
    targets = {name: document.get("targets_sha256") for name, document in runs.items()}
    table = _table("Runs compared by their last system", "run")
    others = {name for name in targets if targets[name] != next(iter(targets.values()))}
    if others:
        table.caption = "* measured on other targets than the first run: not comparable"
    _add_rows(table, {f"{name} *" if name in others else name: row for name, row in rows.items()}, mark=not others)
    return table


def verdicts(report: Report) -> tuple[str, ...]:
    """Plain sentences on the systems of `ours`, metric by metric, from paired bootstraps over the same users.

    Each is held against the one before it in `ours` and against the strongest of the other systems. Systems and
    metrics without values in `per_user` are passed over.
    """
    return tuple(
        _verdict(report, metric, system, rival)
        for position, system in enumerate(_tested(report))
        for metric in TITLES
        for rival in _rivals(report, metric, position)
    )


def _tested(report: Report) -> tuple[str, ...]:
    """The systems that the evaluation is about: `ours`, or the last one."""
    return report.ours or (list(report.rows)[-1],)


def _plain(rows: Rows) -> dict[str, Any]:
    return {system: dict(row) for system, row in rows.items()}


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    beside = path.with_name(f".{path.name}.part")
    try:
        write(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _table(title: str, first: str) -> Table:
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left", pad_edge=False)
    table.add_column(first, overflow="fold")
    for heading in TITLES.values():
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _add_rows(table: Table, rows: Rows, mark: bool = True) -> None:
    best = _best(rows) if mark else {}
    for name, row in rows.items():
        table.add_row(Text(name), *(_cell(row, metric, best) for metric in TITLES))


def _best(rows: Rows) -> dict[str, float]:
    """The largest value of each metric."""
    return {metric: max(row[metric] for row in rows.values()) for metric in TITLES if rows}


def _same(value: float, best: float | None) -> bool:
    """As printed: what reads the same is equally bold."""
    return best is not None and _short(value) == _short(best)


def _cell(row: Mapping[str, Any], metric: str, best: Mapping[str, float]) -> Text:
    value = row[metric]
    cell = Text(_short(value), style="bold" if _same(value, best.get(metric)) else "")
    if interval := row["ci95"].get(metric):
        cell.append(f"\n{_short(interval[0])}–{_short(interval[1])}", style="dim not bold")
    return cell


def _short(value: float) -> str:
    """.0992 instead of 0.0992."""
    text = f"{value:z.4f}"
    return text.replace("0.", ".", 1) if abs(value) < 0.99995 else text


def _draw_panel(panel: Any, metric: str, report: Report) -> None:
    best = _best(report.rows)[metric]
    for place, (system, row) in enumerate(report.rows.items()):
        low, high = row["ci95"].get(metric, (row[metric], row[metric]))
        colour = _colour(report, system)
        panel.hlines(place, low, high, color=colour, linewidth=7, alpha=0.3)
        panel.plot(row[metric], place, "D" if system in _tested(report) else "o", color=colour, markersize=5)
        weight = "bold" if _same(row[metric], best) else "normal"
        _label_value(panel, row[metric], (high, place), color=colour, weight=weight)
    panel.set_title(TITLES[metric], fontsize=10.5, loc="left")
    _tidy(panel, max(row["ci95"].get(metric, (0, row[metric]))[1] for row in report.rows.values()))


def _label_value(panel: Any, value: float, place: tuple[float, float], **style: str) -> None:
    paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
    panel.annotate(
        _short(value), place, (7, 0), textcoords="offset points", va="center", fontsize=8.5, bbox=paper, **style
    )


def _tidy(panel: Any, largest: float) -> None:
    panel.set_xlim(0, 1.32 * largest or 1)
    panel.locator_params(axis="x", nbins=4)
    panel.tick_params(axis="both", length=0, labelsize=8, labelcolor="#555555")
    panel.grid(axis="x", color="#E6E6E6", linewidth=0.8)
    panel.grid(axis="y", color="#EFEFEF", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[:].set_visible(False)


def _label_systems(panel: Any, report: Report) -> None:
    panel.set_yticks(range(len(report.rows)), labels=list(report.rows), parse_math=False)
    panel.set_ylim(len(report.rows) - 0.4, -0.6)
    for label, system in zip(panel.get_yticklabels(), report.rows, strict=True):
        label.set(color=_colour(report, system), fontsize=9.5)


def _colour(report: Report, system: str) -> str:
    return _OURS if system in _tested(report) else _OTHERS


def _last_row(name: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
    rows = document.get("rows")
    if not isinstance(rows, Mapping) or not rows:
        raise DataError(
            f"the metrics of run {name!r} hold no rows, wanted the metrics.json of a report; evaluate it again"
        )
    row = list(rows.values())[-1]
    if missing := [key for key in (*TITLES, "ci95") if key not in row]:
        raise DataError(f"the metrics of run {name!r} lack {missing[0]}, wanted all of a report; evaluate it again")
    return row


def _rivals(report: Report, metric: str, position: int) -> Iterator[str]:
    """The system before this one, then the strongest of the others."""
    known = {system for system, values in report.per_user.items() if metric in values}
    ours = _tested(report)
    if ours[position] not in known:
        return
    if position and ours[position - 1] in known:
        yield ours[position - 1]
    if others := [system for system in report.rows if system in known and system not in ours]:
        yield max(others, key=lambda system: float(np.mean(report.per_user[system][metric])))


def _verdict(report: Report, metric: str, system: str, rival: str) -> str:
    ours, theirs = report.per_user[system][metric], report.per_user[rival][metric]
    difference, low, high = paired_bootstrap(ours, theirs, _SEED)
    figures = f"{_short(float(ours.mean()))} vs {_short(float(theirs.mean()))}"
    interval = f"difference {_short(difference)}, 95% interval {_short(low)} to {_short(high)}"
    return f"{_claim(system, rival, TITLES[metric], low, high)}: {figures} ({interval})"


def _claim(system: str, rival: str, title: str, low: float, high: float) -> str:
    if low > 0:
        return f"{system} improves {title} over {rival}"
    if high < 0:
        return f"{system} is BELOW {rival} at {title}"
    return f"{system} and {rival} cannot be told apart at {title}"
