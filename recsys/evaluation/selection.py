"""Selection on validation: the figures by which configurations are compared, and all figures of the validation period.

Quality is maximised, the cost of serving (recsys/training/serving_cost.py) is minimised or kept within a budget.

Shapes: U users of the validation queries.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys.errors import ConfigError, check_ranges
from recsys.evaluation.further_metrics import CATALOGUE_METRICS
from recsys.evaluation.report import Report
from recsys.expressions import suggestion
from recsys.metrics import FURTHER_METRICS
from recsys.stores.atomic_files import atomic_file, write_atomically

SELECTION_METRICS = ("ndcg@10", "recall@10", "recall@100", "recall@500", *FURTHER_METRICS)
"""metrics that may select: every user has one value and counts alike, which a paired test needs"""
SERVING = "serving"
"""stands for a system in the goals of its cost"""
COSTS = {"cpu_ms": "CPU ms\na request", "memory_mib": "memory\nMiB"}
"""figures of the cost of serving -> title"""
VALIDATION_USERS = "validation_users.parquet"
"""file of a run folder: `user`, and SELECTION_METRICS of each system as `system/metric`"""

Goal = tuple[str, str]
"""system and metric"""


def minimised(goal: str) -> bool:
    """Whether less is better of `metric` or `system/metric`."""
    return goal.rpartition("/")[2] in COSTS


def check_budget(budget: Mapping[str, float | None]) -> dict[str, float]:
    """Return the limits that are set; ConfigError for an unknown figure or a limit out of range."""
    if unknown := sorted(set(budget) - set(COSTS)):
        raise ConfigError(f"budget.{unknown[0]} is no cost of serving; {suggestion(unknown[0], tuple(COSTS))}")
    limits = {key: limit for key, limit in budget.items() if limit is not None}
    check_ranges("budget", **{key: (limit, 1e-6, 1e9) for key, limit in limits.items()})
    return limits


def over_budget(cost: Mapping[str, float], budget: Mapping[str, float]) -> list[str]:
    """Describe every limit that a cost exceeds."""
    return [f"{key} {cost[key]:.4g} > {limit:g}" for key, limit in budget.items() if cost[key] > limit]


def goals(optimised_metric: str | Sequence[str], systems: Sequence[str]) -> tuple[Goal, ...]:
    """Return the goals of `optimised_metric`: one, or several, of which the first selects."""
    texts = optimised_metric if isinstance(optimised_metric, list | tuple) else [optimised_metric]
    if not texts or len(set(texts)) < len(texts):
        raise ConfigError(f"optimised_metric is {texts}; give one figure, or several different ones")
    if str(texts[0]).rpartition("/")[2] in {**COSTS, **CATALOGUE_METRICS}:
        raise ConfigError(
            f"optimised_metric begins with {texts[0]!r}, but the first figure selects by a paired test; begin with one of "
            f"{', '.join(SELECTION_METRICS)}"
        )
    return tuple(_goal(text, systems) for text in texts)


def _goal(text: object, systems: Sequence[str]) -> Goal:
    """Return the goal of `metric`, of the last system, or `system/metric`, or of a cost.

    ConfigError for another metric, or a system that this configuration does not have.
    """
    system, slash, metric = str(text).rpartition("/")
    if metric in COSTS and system in ("", SERVING):
        return SERVING, metric
    if metric not in (known := (*SELECTION_METRICS, *CATALOGUE_METRICS)):
        raise ConfigError(
            f"optimised_metric is {text!r}; choose one of {', '.join(known)}, of the last stage or as "
            f"stage/metric, or a cost, {' or '.join(COSTS)}"
        )
    if slash and system not in systems:
        raise ConfigError(
            f"optimised_metric is {text!r}, but this configuration has no stage {system!r}; {suggestion(system, systems)}"
        )
    return system or systems[-1], metric


@dataclass(frozen=True, kw_only=True)
class ValidationFigures:
    """Figures of every stage on the validation period, mean over seeds."""

    report: Report
    goals: tuple[Goal, ...]
    """by the first of which configurations are compared"""
    users: Sequence[str]
    """[U] in the order of `report.per_user`"""
    cost: Mapping[str, float] = field(default_factory=dict)
    """figures of serving, mean over seeds; empty where no goal and no budget asked for them"""
    budget: Mapping[str, float] = field(default_factory=dict)
    """limits of COSTS"""

    @property
    def values(self) -> tuple[float, ...]:
        """Return the figures of the goals."""
        return tuple(
            float(self.cost[metric] if system == SERVING else self.report.rows[system][metric])
            for system, metric in self.goals
        )

    def to_document(self) -> dict[str, Any]:
        """Return the part of metrics.json under `validation`."""
        report, names = self.report, ["/".join(goal) for goal in self.goals]
        return {
            "optimised_metric": names[0],
            "value": self.values[0],
            "goals": dict(zip(names, self.values, strict=True)),
            "protocol": report.protocol,
            "targets_sha256": report.targets_sha256,
            "users": report.users,
            "seeds": list(report.seeds),
            "rows": {system: dict(row) for system, row in report.rows.items()},
            "cost": dict(self.cost),
            "budget": dict(self.budget),
        }

    def cost_sentence(self) -> str:
        """Sentence on the cost of serving, and on a budget that it exceeds."""
        stages = [f"{name[:-7]} {value:.2f}" for name, value in self.cost.items() if name.endswith("_cpu_ms")]
        over = "; ".join(over_budget(self.cost, self.budget))
        measured = (
            f"{self.cost['cpu_ms']:.2f} CPU ms a request ({', '.join(stages)}), {self.cost['memory_mib']:.2f} MiB"
        )
        return f"serving  {measured}{over and f'; over the budget: {over}'}"

    def curves(self) -> dict[str, float]:
        """Return the figures as trackers log them, by validation/system/metric."""
        rows = {**self.report.rows, SERVING: self.cost}
        return {
            f"validation/{system}/{metric}": value
            for system, row in rows.items()
            for metric, value in row.items()
            if isinstance(value, float)
        }

    def save(self, folder: Path, test_reads: Mapping[str, int]) -> None:
        """Write metrics.json of a run whose TEST was not evaluated."""
        document = {
            "validation": self.to_document(),
            "test_reads": dict(test_reads),
            "seconds": self.report.seconds,
            "peak_memory_mib": self.report.peak_memory_mib,
        }
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_atomically(folder / "metrics.json", text.encode())

    def save_users(self, folder: Path) -> None:
        """Write VALIDATION_USERS, by which runs are compared user by user."""
        columns: Mapping[str, np.ndarray] = {
            f"{system}/{metric}": values[metric]
            for system, values in self.report.per_user.items()
            for metric in SELECTION_METRICS
        }
        with atomic_file(folder / VALIDATION_USERS) as draft:
            pl.DataFrame({"user": list(self.users), **columns}).write_parquet(draft)
