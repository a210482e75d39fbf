"""Evaluation report: console table, JSON document, charts, and verdict sentences."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from recsys.evaluation.chart import TITLES, draw, draw_reliability, short
from recsys.evaluation.exposure_report import POSITIONS, title_of
from recsys.evaluation.intervals import paired_bootstrap, paired_p_value
from recsys.evaluation.objectives import MEASURES, Measures
from recsys.stores.atomic_files import atomic_file, write_atomically

Rows = Mapping[str, Mapping[str, Any]]
"""system -> {metric: value, ci95: {metric: [low, high]}, users, seeds?, spread?, by_seed?, knobs?}"""

METHOD = "Full ranking, ties lose, 95% bootstrap intervals over users."
VERDICT_METRICS = ("ndcg@10", "recall@100")
"""metrics that `verdicts` compares: the top of the list, and the candidates left to rank"""
PICTURES = ("metrics.png", "reliability.png")
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Report:
    """Results of one evaluation, all systems on the same users. ValueError when a name has no row."""

    rows: Rows
    """in the order of table and chart; the last system is the evaluated one"""
    protocol: str
    targets_sha256: str
    users: int
    seconds: float
    """duration of the whole command"""
    peak_memory_mib: float
    seeds: tuple[int, ...] = ()
    """all seeds that were run; the row of a system of `ours` names those of its mean"""
    notes: tuple[str, ...] = ()
    served: str = ""
    """one sentence on the fit that was measured and the fit that is served; empty where nothing is served"""
    slices: Mapping[str, Rows] = field(default_factory=dict)
    objectives: Mapping[str, Measures] = field(default_factory=dict)
    """objective -> probability measures of the candidates, mean over seeds and splits"""
    shown: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """system -> exposure metrics, mean over seeds and splits (recsys/evaluation/exposure_report.py)"""
    ours: tuple[str, ...] = ()
    """systems compared with the others, in the order of the cascade; empty means the last one"""
    validation: Mapping[str, Any] = field(default_factory=dict)
    """figures of the validation period (recsys/evaluation/selection.py); all others are of TEST"""
    test_reads: Mapping[str, int] = field(default_factory=dict)
    """how often TEST was read, by `run` and where it is a job of one by `sweep`"""
    per_user: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)
    """system -> metric -> [users] float64, for `verdicts`; not part of the document"""
    user_tables: Mapping[str, pl.DataFrame] = field(default_factory=dict, repr=False, compare=False)
    """tables about single users, for trackers; not part of the document"""

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("a report needs at least one system")
        if strange := [name for name in (*self.ours, *self.per_user) if name not in self.rows]:
            raise ValueError(f"the report has no row for {strange[0]!r}; rows are {', '.join(self.rows)}")

    @property
    def values(self) -> tuple[float, ...]:
        """Return the optimised metrics, on VALIDATION."""
        return tuple(self.validation["goals"].values())

    def to_document(self) -> dict[str, Any]:
        """Return everything but `per_user` and `user_tables` as JSON values."""
        return {
            "protocol": self.protocol,
            "targets_sha256": self.targets_sha256,
            "users": self.users,
            "notes": list(self.notes),
            "served": self.served,
            "seeds": list(self.seeds),
            "ours": list(_tested(self)),
            "rows": _plain(self.rows),
            "slices": {name: _plain(rows) for name, rows in self.slices.items()},
            "objectives": {name: dict(measures) for name, measures in self.objectives.items()},
            "shown": {system: dict(measures) for system, measures in self.shown.items()},
            "validation": dict(self.validation),
            "test_reads": dict(self.test_reads),
            "seconds": self.seconds,
            "peak_memory_mib": self.peak_memory_mib,
        }

    def save(self, folder: Path) -> None:
        """Write metrics.png, reliability.png and then metrics.json into the folder, each atomically.

        Without a ranker there are no probabilities and no reliability.png.
        """
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_document(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with atomic_file(folder / PICTURES[0]) as draft:
            self.draw(draft)
        (folder / PICTURES[1]).unlink(missing_ok=True)
        if self.objectives:
            with atomic_file(folder / PICTURES[1]) as draft:
                draw_reliability(draft, self.objectives, self.protocol)
        write_atomically(folder / "metrics.json", text.encode())

    def table(self) -> Table:
        """Return the table of systems, with slices as sections below (strongest baseline and ours); the best is bold."""
        table = _table(self.protocol, "system")
        table.caption = Text("\n".join(self._caption()))
        _add_rows(table, self.rows)
        for name, rows in self.slices.items():
            table.add_section()
            users = max((row["users"] for row in rows.values()), default=0)
            table.add_row(Text(f"{name} ({users:,})", style="italic"))
            _add_rows(
                table, {system: rows[system] for system in (*_strongest(self, rows), *_tested(self)) if system in rows}
            )
        return table

    def probabilities(self) -> Table:
        """Return the table of objectives: ranking and calibration of the candidates' probabilities."""
        table = Table(title=Text("Probabilities of the candidates"), box=box.SIMPLE_HEAD, title_justify="left")
        for heading in ("objective", *MEASURES.values()):
            table.add_column(heading, justify="left" if heading == "objective" else "right")
        for name, measured in self.objectives.items():
            table.add_row(Text(name), *(short(measured[measure]) for measure in MEASURES))
        return table

    def exposure(self) -> Table:
        """Return the exposure table of the strongest baseline and ours: concentration, popularity and diversity."""
        table = Table(
            title=Text(f"Exposure in the first {POSITIONS} positions"), box=box.SIMPLE_HEAD, title_justify="left"
        )
        systems = [name for name in (*_strongest(self, self.rows), *_tested(self)) if name in self.shown]
        measures = dict.fromkeys(measure for name in systems for measure in self.shown[name])
        for heading in ("system", *map(title_of, measures)):
            table.add_column(heading, justify="left" if heading == "system" else "right")
        for name in systems:
            own = self.shown[name]
            table.add_row(Text(name), *(short(own[measure]) if measure in own else "" for measure in measures))
        return table

    def draw(self, path: Path) -> None:
        """Write a PNG at 150 dpi: one panel per metric, a dot and its interval for each system, in table order."""
        draw(path, self.rows, _tested(self), self.protocol, f"{self.users:,} users. {METHOD}")

    def _caption(self) -> Iterator[str]:
        yield f"{self.users:,} users. {METHOD}"
        if len(self.seeds) > 1:
            yield f"±: standard deviation over seeds {', '.join(map(str, self.seeds))}, of which the value is the mean."
        if self.served:
            yield self.served
        yield f"targets {self.targets_sha256[:12]}"
        yield from self.notes
        for system, row in self.rows.items():
            if parameters := row.get("knobs"):
                yield f"{system}: {', '.join(f'{name} {value}' for name, value in parameters.items())}"
        yield f"{self.seconds:,.0f} s, at most {self.peak_memory_mib:,.0f} MiB"


def verdicts(report: Report) -> tuple[str, ...]:
    """Return sentences on the systems of `ours` and VERDICT_METRICS, from paired bootstraps over the same users.

    Each system is compared with the one before it in `ours` and with the strongest of the others; the last sentence names
    the pairs without a significant difference. Systems and metrics without values in `per_user` are skipped.
    """
    decided: list[str] = []
    undecided: list[str] = []
    for position, system in enumerate(_tested(report)):
        for metric in VERDICT_METRICS:
            for rival in _rivals(report, metric, position):
                verdict = _verdict(report, metric, system, rival)
                (decided if verdict else undecided).append(verdict or f"{system} and {rival} at {TITLES[metric]}")
    return (*decided, *([f"cannot be told apart: {'; '.join(undecided)}"] if undecided else []))


def _tested(report: Report) -> tuple[str, ...]:
    """Return the evaluated systems: `ours`, or the last one."""
    return report.ours or (list(report.rows)[-1],)


def _strongest(report: Report, rows: Rows) -> Sequence[str]:
    """Return the system with the highest NDCG@10 that is not in `ours`."""
    others = [system for system in rows if system not in _tested(report)]
    return sorted(others, key=lambda system: rows[system]["ndcg@10"])[-1:]


def _plain(rows: Rows) -> dict[str, Any]:
    return {system: dict(row) for system, row in rows.items()}


def _table(title: str, first: str) -> Table:
    table = Table(
        title=Text(title),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column(first, overflow="fold")
    for heading in TITLES.values():
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _add_rows(table: Table, rows: Rows) -> None:
    best = _best(rows)
    for name, row in rows.items():
        table.add_row(Text(name), *(_cell(row, metric, best) for metric in TITLES))


def _best(rows: Rows) -> dict[str, float]:
    """Return the largest value of each metric."""
    return {metric: max(row[metric] for row in rows.values()) for metric in TITLES}


def _same(value: float, best: float) -> bool:
    """As printed: what reads the same is equally bold."""
    return short(value) == short(best)


def _cell(row: Mapping[str, Any], metric: str, best: Mapping[str, float]) -> Text:
    value = row[metric]
    cell = Text(short(value), style="bold" if _same(value, best[metric]) else "")
    if interval := row["ci95"].get(metric):
        cell.append(f"\n{short(interval[0])}–{short(interval[1])}", style="dim not bold")
    if "spread" in row:
        cell.append(f"\n±{short(row['spread'][metric])}", style="dim not bold")
    return cell


def _rivals(report: Report, metric: str, position: int) -> Iterator[str]:
    """Yield the system before this one, then the strongest of the others."""
    known = {system for system, values in report.per_user.items() if metric in values}
    ours = _tested(report)
    if ours[position] not in known:
        return
    if position and ours[position - 1] in known:
        yield ours[position - 1]
    if others := [system for system in report.rows if system in known and system not in ours]:
        yield max(others, key=lambda system: float(np.mean(report.per_user[system][metric])))


def _verdict(report: Report, metric: str, system: str, rival: str) -> str | None:
    """Return the verdict sentence, None without a significant difference."""
    ours, theirs = report.per_user[system][metric], report.per_user[rival][metric]
    difference, low, high = paired_bootstrap(ours, theirs, _SEED)
    if low <= 0 <= high:
        return None
    claim = f"improves {TITLES[metric]} over {rival}" if low > 0 else f"is BELOW {rival} at {TITLES[metric]}"
    figures = f"{short(float(ours.mean()))} vs {short(float(theirs.mean()))}"
    chance = short(paired_p_value(ours, theirs, _SEED))
    interval = f"difference {short(difference)}, 95% interval {short(low)} to {short(high)}, p {chance}"
    return f"{system} {claim}: {figures} ({interval})"
