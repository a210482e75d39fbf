"""Evaluation report: console table, JSON document, charts, and verdict sentences."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from recsys.evaluation.chart import TITLES, draw, draw_reliability, short
from recsys.evaluation.exposure_report import POSITIONS, title_of
from recsys.evaluation.further_metrics import TITLES as FURTHER_TITLES
from recsys.evaluation.intervals import paired_bootstrap, paired_p_value
from recsys.evaluation.objectives import MAX_MISCALIBRATION, MEASURES, Measures, is_calibrated
from recsys.evaluation.user_groups import JUDGED, MIN_USERS
from recsys.stores.atomic_files import atomic_file, write_atomically

Rows = Mapping[str, Mapping[str, Any]]
"""system -> {metric: value, ci95: {metric: [low, high]}, users, seeds?, spread?, by_seed?, knobs?}"""

METHOD = "Full ranking, ties lose, 95% bootstrap intervals over users."
SELECTING = "ndcg@10"
"""metric by which a simple system is the best"""
VERDICT_METRICS = ("ndcg@10", "recall@100")
"""metrics that `verdicts` compares: the top of the list, and the candidates left to rank"""
PICTURES = ("metrics.png", "reliability.png")
COSTS = {
    "cpu_ms": "CPU ms a request (in batches)",
    "bundle_mib": "MiB of files",
    "training_cpu_s": "CPU s of training in this run",
}
"""cost of a cascade that a run measures by the way -> its unit"""
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
    fairness: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """system -> user column -> how its groups are served (recsys/evaluation/user_groups.py)"""
    cost: Mapping[str, float] = field(default_factory=dict)
    """COSTS of the cascade as far as the run measured them, mean over seeds and splits"""
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
            "conclusion": conclusion(self),
            "seeds": list(self.seeds),
            "ours": list(_tested(self)),
            "rows": _plain(self.rows),
            "slices": {name: _plain(rows) for name, rows in self.slices.items()},
            "objectives": {name: {**one, "calibrated": is_calibrated(one)} for name, one in self.objectives.items()},
            "shown": {system: dict(measures) for system, measures in self.shown.items()},
            "fairness": {system: dict(columns) for system, columns in self.fairness.items()},
            "cost": dict(self.cost),
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
        table = _table(self.protocol, "system", TITLES.values())
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
        table = _table("Probabilities of the candidates", "objective", MEASURES.values())
        for name, measured in self.objectives.items():
            table.add_row(Text(name), *(_with_interval(measured[one], measured.get(f"{one} ci95")) for one in MEASURES))
        if off := [name for name, measured in self.objectives.items() if not is_calibrated(measured)]:
            table.caption = Text(
                f"{', '.join(off)}: scores, no probabilities: predicted / observed is off by more than "
                f"{MAX_MISCALIBRATION:.0%}, beyond the noise of the users"
            )
        return table

    def further(self) -> Table:
        """Return the table of the further metrics of the strongest baseline and ours."""
        systems = [name for name in self._compared if set(FURTHER_TITLES) <= set(self.rows[name])]
        table = _table(f"Further figures of the first {POSITIONS} positions", "system", FURTHER_TITLES.values())
        for name in systems:
            table.add_row(Text(name), *(short(self.rows[name][metric]) for metric in FURTHER_TITLES))
        return table

    def user_groups(self) -> Table:
        """Return the table of the worst and the best served group of users, for the strongest baseline and the last of ours."""
        headings = ("column", "figure", "worst", "best", "ratio", "chance")
        table = _table("Groups of users, worst served / best served", "system", headings)
        for name in (*_strongest(self, self.rows), _tested(self)[-1]):
            for column, found in self.fairness.get(name, {}).items():
                for metric, one in found["ratios"].items():
                    named = map(Text, (name, column, JUDGED[metric], one["worst"], one["best"]))
                    table.add_row(*named, _with_interval(one["ratio"], one["ci95"]), short(one["chance"]))
        table.caption = Text("\n".join(self._small_groups()))
        return table

    def _small_groups(self) -> Iterator[str]:
        for column, found in next(iter(self.fairness.values()), {}).items():
            if num := found["num_too_small"]:
                names = ", ".join(f"{name} {users}" for name, users in found["too_small"].items())
                yield f"{column}: {num} groups of fewer than {MIN_USERS} users are not judged: {shorten(names, 120)}"

    @property
    def _compared(self) -> list[str]:
        """Return the strongest baseline and ours."""
        return [*_strongest(self, self.rows), *_tested(self)]

    def exposure(self) -> Table:
        """Return the exposure table of the strongest baseline and ours: concentration, popularity and diversity."""
        systems = [name for name in self._compared if name in self.shown]
        measures = dict.fromkeys(measure for name in systems for measure in self.shown[name])
        table = _table(f"Exposure in the first {POSITIONS} positions", "system", map(title_of, measures))
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


def conclusion(report: Report) -> str | None:
    """Return one sentence: the best simple system, what the last of ours adds to it, and what that costs; None without both."""
    known = [system for system in report._compared if SELECTING in report.per_user.get(system, {})]
    if len(known) < 2 or known[0] in _tested(report) or known[-1] != _tested(report)[-1]:
        return None
    simple, ours = known[0], known[-1]
    simple_values, our_values = (report.per_user[system][SELECTING] for system in (simple, ours))
    difference, low, high = paired_bootstrap(our_values, simple_values, _SEED)
    verdict = "better" if low > 0 else "WORSE" if high < 0 else "no difference beyond chance"
    added = f"{short(difference)} (95% interval {short(low)} to {short(high)}): {verdict}"
    costs = ", ".join(f"{_rounded(report.cost[name])} {unit}" for name, unit in COSTS.items() if name in report.cost)
    best = f"the best simple system is {simple} with {TITLES[SELECTING]} {short(float(simple_values.mean()))}"
    return f"{best}; {ours} adds {added}{costs and f'; it costs {costs}'}"


def _rounded(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


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


def _table(title: str, first: str, headings: Iterable[str]) -> Table:
    table = Table(
        title=Text(title),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _with_interval(value: float, interval: Sequence[float] | None) -> Text:
    cell = Text(short(value))
    if interval:
        cell.append(f"\n{short(interval[0])}–{short(interval[1])}", style="dim")
    return cell


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
