"""Comparison of the configurations of a sweep, by their validation figures alone.

Jobs that differ by their seed are one configuration. Values are averaged over seeds before users are resampled, as in a report:
one interval is about users, the other one about seeds.

Shapes: U users of the validation queries.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text
from scipy.special import stdtrit

from recsys.evaluation.chart import TITLES, draw_comparison, draw_goals, short
from recsys.evaluation.impressions import title_of
from recsys.evaluation.intervals import bootstrap_interval, holm, paired_bootstrap, paired_p_value
from recsys.evaluation.pareto import pareto_front
from recsys.evaluation.selection import COSTS, minimised, over_budget

SAMPLES = 2_000
"""bootstrap samples of a p-value: its least value, times the number of configurations, has to stay small"""
_SEED = 0
LABEL_WIDTH = 60
"""characters of a label in a picture; the table has the whole of it"""


class Difference(NamedTuple):
    """Paired difference to the best configuration over the same users."""

    mean: float
    low: float
    high: float
    p: float
    """two-sided, adjusted for the number of configurations (Holm)"""


@dataclass(frozen=True, kw_only=True)
class FailedJob:
    """Job of a sweep without figures."""

    name: str
    error: str
    """type and sentence"""
    log: str
    """file with the traceback"""


@dataclass(frozen=True, kw_only=True)
class PrunedJob:
    """Job of a search that was ended by its validation curve."""

    name: str
    metric: str
    """monitored while its model was trained"""
    epoch: int
    value: float


@dataclass(frozen=True, kw_only=True)
class JobFigures:
    """Finished job of a sweep, with its figures on VALIDATION."""

    name: str
    """its number"""
    configuration: str
    """its own overrides without the seed"""
    protocol: str
    targets: str
    """fingerprint of the labels that it was measured on"""
    metric: str
    """the one that selects"""
    by_seed: Mapping[str, Sequence[float]]
    """metric -> its value for each seed"""
    goals: Mapping[str, float]
    """system/metric -> mean over seeds"""
    users: Sequence[str]
    per_user: np.ndarray
    """[U] of the metric that selects, empty where it has no value of a user"""
    cost: Mapping[str, float] = field(default_factory=dict)
    """figures of serving, empty where they were not measured"""
    budget: Mapping[str, float] = field(default_factory=dict)
    """limits of the cost"""

    def comparable(self, other: "JobFigures") -> bool:
        """Whether both were measured by the same metrics on the same targets of the same users."""
        metrics = [[one.metric, *(goal.rpartition("/")[2] for goal in one.goals)] for one in (self, other)]
        same = self.targets == other.targets and metrics[0] == metrics[1]
        return same and list(self.users) == list(other.users)


@dataclass(frozen=True, kw_only=True, eq=False)
class Configuration:
    """Jobs of a sweep that differ by their seed alone."""

    name: str
    jobs: tuple[str, ...]
    values: Mapping[str, float]
    """metric -> mean over seeds"""
    by_seed: tuple[float, ...]
    """of the optimised metric"""
    per_user: np.ndarray
    """[U] of the optimised metric, mean over seeds; empty where it has no value of a user"""
    goals: Mapping[str, float]
    """system/metric -> mean over seeds, where several are optimised"""
    cost: Mapping[str, float]
    over_budget: tuple[str, ...]
    """descriptions of the limits that the cost exceeds"""

    @staticmethod
    def of(jobs: Sequence[JobFigures]) -> "Configuration":
        seeds = [len(job.by_seed[job.metric]) for job in jobs]
        cost = {name: float(np.average([job.cost[name] for job in jobs], weights=seeds)) for name in jobs[0].cost}
        return Configuration(
            name=jobs[0].configuration,
            jobs=tuple(job.name for job in jobs),
            values={
                metric: float(np.mean([one for job in jobs for one in job.by_seed[metric]]))
                for metric in jobs[0].by_seed
            },
            by_seed=tuple(one for job in jobs for one in job.by_seed[job.metric]),
            per_user=np.average([job.per_user for job in jobs], axis=0, weights=seeds),
            goals={goal: float(np.average([job.goals[goal] for job in jobs], weights=seeds)) for goal in jobs[0].goals},
            cost=cost,
            over_budget=tuple(over_budget(cost, jobs[0].budget)),
        )

    @property
    def label(self) -> str:
        return f"{','.join(self.jobs)}: {self.name}"

    @property
    def mean(self) -> float:
        return float(np.mean(self.by_seed))

    def over_users(self) -> tuple[float, float] | None:
        """Return the 95% bootstrap interval of the mean, None without values of users."""
        return bootstrap_interval(self.per_user, _SEED) if len(self.per_user) else None

    def over_seeds(self) -> tuple[float, float] | None:
        """Return the 95% interval (Student's t) of the mean of any seed, None for a single one."""
        if (num := len(self.by_seed)) < 2:
            return None
        half = float(stdtrit(num - 1, 0.975) * np.std(self.by_seed, ddof=1) / np.sqrt(num))
        return self.mean - half, self.mean + half


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Configurations of a sweep, the best first."""

    protocol: str
    """as in a report"""
    metric: str
    configurations: tuple[Configuration, ...]
    differences: tuple[Difference | None, ...]
    """of each configuration to the best one; None for the best one itself, and for all of different targets"""
    comparable: bool
    failures: tuple[FailedJob, ...]
    pruned: tuple[PrunedJob, ...]
    budget: Mapping[str, float]

    @staticmethod
    def of(jobs: Sequence[JobFigures], failures: Sequence[FailedJob], pruned: Sequence[PrunedJob] = ()) -> "Comparison":
        """Group the jobs, order them by the optimised metric, those within the budget first, and test each against the best."""
        comparable = all(jobs[0].comparable(job) for job in jobs)
        names = dict.fromkeys(job.configuration for job in jobs) if comparable else {}
        groups = [[job for job in jobs if job.configuration == name] for name in names] or [[job] for job in jobs]
        found = [Configuration.of(group) for group in groups]
        if comparable:
            found.sort(key=lambda one: (bool(one.over_budget), -one.mean))
        return Comparison(
            protocol=jobs[0].protocol if jobs else "VALIDATION",
            metric=jobs[0].metric if jobs else "",
            configurations=tuple(found),
            differences=_differences(found) if comparable else (None,) * len(found),
            comparable=comparable,
            failures=tuple(failures),
            pruned=tuple(pruned),
            budget=jobs[0].budget if jobs else {},
        )

    @property
    def front(self) -> tuple[Configuration, ...]:
        """Return the configurations within the budget that no other one surpasses by all goals; empty for a single goal."""
        if self.best is None or len(self.best.goals) < 2:
            return ()
        within = [one for one in self.configurations if not one.over_budget]
        signs = [-1 if minimised(goal) else 1 for goal in self.best.goals]
        on_front = pareto_front(np.array([[*one.goals.values()] for one in within]) * signs)
        return tuple(one for one, kept in zip(within, on_front, strict=True) if kept)

    @property
    def best(self) -> Configuration | None:
        """Return the configuration with the highest mean within the budget; None where none is, or they do not compare."""
        first = self.configurations[0] if self.configurations and self.comparable else None
        return None if first is None or first.over_budget else first

    def to_document(self) -> dict[str, Any]:
        """Return the content of comparison.json."""
        front = self.front
        return {
            "protocol": self.protocol,
            "optimised_metric": self.metric,
            "budget": dict(self.budget),
            "best": self.best and self.best.name,
            "configurations": [
                {
                    "name": one.name,
                    "jobs": list(one.jobs),
                    "value": one.mean,
                    "over_users": one.over_users(),
                    "by_seed": list(one.by_seed),
                    "over_seeds": one.over_seeds(),
                    "to_best": difference and difference._asdict(),
                    "values": dict(one.values),
                    "goals": dict(one.goals),
                    "cost": dict(one.cost),
                    "over_budget": list(one.over_budget),
                    "front": one in front,
                }
                for one, difference in zip(self.configurations, self.differences, strict=True)
            ],
            "failures": [{"name": job.name, "error": job.error, "log": job.log} for job in self.failures],
            "pruned": [asdict(job) for job in self.pruned],
        }

    def frame(self) -> pl.DataFrame:
        """Return a row a configuration, the best one first: its jobs, every metric, the interval over users of the metric that
        selects, the paired difference to the best configuration with interval and p value, and the cost where it was measured.
        """
        return pl.DataFrame(
            [
                {
                    "configuration": one.name,
                    "jobs": list(one.jobs),
                    "seeds": len(one.by_seed),
                    **one.values,
                    **_columns("", ("low", "high"), one.over_users()),
                    **_columns("to_best ", Difference._fields, difference),
                    **one.cost,
                }
                for one, difference in zip(self.configurations, self.differences, strict=True)
            ]
        )

    def table(self) -> Table:
        """Return a row a configuration, the best one first and bold, and a row a pruned or failed job."""
        table = Table(
            title=Text(f"Configurations compared on {self.protocol}"),
            box=box.SIMPLE_HEAD,
            title_justify="left",
            caption_justify="left",
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("configuration", overflow="fold")
        measured = self.configurations[0].values if self.configurations else {}
        others = [metric for metric in measured if metric != self.metric]
        costs = [name for name in COSTS if self.configurations and name in self.configurations[0].cost]
        headings = (f"{_title(self.metric)}\nselects", "to the best", *map(_title, (*costs, *others)))
        for heading in headings:
            table.add_column(heading, justify="right", no_wrap=True)
        front = self.front
        for one, difference in zip(self.configurations, self.differences, strict=True):
            cells = (Text(short(one.values[metric])) for metric in others)
            measured_costs = (_cost(one.cost.get(name, math.nan), self.budget.get(name)) for name in costs)
            style = "bold" if one is self.best else ""
            name = f"{one.label}{' (front)' * (one in front)}{' (over the budget)' * bool(one.over_budget)}"
            table.add_row(Text(name), _selecting(one), _difference(difference), *measured_costs, *cells, style=style)
        for pruned in self.pruned:
            cell = Text(f"pruned\n{short(pruned.value)}", style="dim")
            table.add_row(Text(pruned.name), cell, *[Text("")] * (len(headings) - 1))
        for job in self.failures:
            table.add_row(Text(job.name), *[Text("failed", style="red")] * len(headings))
        table.caption = Text("\n".join(self._notes()))
        return table

    def draw(self, path: Path) -> None:
        """Write a PNG: the optimised metric of each configuration with its interval over users, and each seed."""
        rows = {
            shorten(one.label, LABEL_WIDTH, placeholder=" …"): (
                one.mean,
                *(one.over_users() or (one.mean, one.mean)),
                one.by_seed,
            )
            for one in self.configurations
        }
        draw_comparison(path, rows, f"{_title(self.metric)} on VALIDATION")

    def draw_front(self, path: Path) -> None:
        """Write a PNG: the first goal against each other one, the front, the budget and the best configuration."""
        front, best = self.front, self.best
        points = [
            {
                "label": ",".join(one.jobs),
                "goals": list(one.goals.values()),
                "front": one in front,
                "best": one is best,
                "over_budget": bool(one.over_budget),
            }
            for one in self.configurations
        ]
        names = [goal.rpartition("/")[2] for goal in self.configurations[0].goals]
        axes = [(_title(name).replace("\n", " "), minimised(name), self.budget.get(name)) for name in names]
        draw_goals(path, points, axes, f"Configurations on {self.protocol}")

    def _notes(self) -> list[str]:
        notes = ["dim: 95% intervals over users, and over seeds in brackets; p is paired over the same users (Holm)"]
        if self.front:
            notes.append(f"front: no other one is better by {' and '.join(self.configurations[0].goals)}")
        if self.budget:
            limits = " and ".join(f"{key} {limit:g}" for key, limit in self.budget.items())
            over = sum(bool(one.over_budget) for one in self.configurations)
            notes.append(f"budget: {limits}; {over} of {len(self.configurations)} are over it and are not chosen")
        notes += [f"{job.name} pruned after epoch {job.epoch}: {job.metric} {short(job.value)}" for job in self.pruned]
        if not self.comparable:
            notes.append("measured on different targets, users or metrics: not comparable, none is chosen")
        return [*notes, *(f"{job.name} failed: {job.error} ({job.log})" for job in self.failures)]


def _differences(found: Sequence[Configuration]) -> tuple[Difference | None, ...]:
    if not found:
        return ()
    best, *others = (one.per_user for one in found)
    if not len(best):
        return (None,) * len(found)
    p_values = holm([paired_p_value(one, best, _SEED, SAMPLES) for one in others])
    tested = [Difference(*paired_bootstrap(one, best, _SEED), p) for one, p in zip(others, p_values, strict=True)]
    return (None, *tested)


def _columns(prefix: str, names: Sequence[str], values: Sequence[float] | None) -> dict[str, float | None]:
    return {f"{prefix}{name}": None if values is None else values[number] for number, name in enumerate(names)}


def _title(metric: str) -> str:
    return (TITLES | COSTS).get(metric) or title_of(metric)


def _cost(value: float, limit: float | None) -> Text:
    return Text(f"{value:.2f}", style="red" if limit is not None and value > limit else "")


def _selecting(one: Configuration) -> Text:
    cell = Text(short(one.mean))
    if (users := one.over_users()) is not None:
        cell.append(f"\n{short(users[0])}–{short(users[1])}", style="dim not bold")
    if (seeds := one.over_seeds()) is not None:
        cell.append(f"\n[{short(seeds[0])}–{short(seeds[1])}]", style="dim not bold")
    return cell


def _difference(difference: Difference | None) -> Text:
    if difference is None:
        return Text("")
    cell = Text(f"{short(difference.mean)}, p {short(difference.p)}")
    return cell.append(f"\n{short(difference.low)}–{short(difference.high)}", style="dim")
