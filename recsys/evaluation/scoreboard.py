"""Results of all systems, splits and seeds, aggregated to a report.

Values are averaged over seeds before anything is resampled: intervals are about users, `spread` is about seeds.

Shapes: B queries of a split, K positions, U users of all splits, S seeds.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from recsys.data.dataset import Dataset
from recsys.evaluation import exposure_report
from recsys.evaluation.attributes import Attributes
from recsys.evaluation.further_metrics import CATALOGUE_METRICS, CatalogueShares
from recsys.evaluation.intervals import bootstrap_interval, jackknife_interval, weighted_mean
from recsys.evaluation.objectives import Measures, mean
from recsys.evaluation.pooled_slices import PooledSlice, SplitResults
from recsys.evaluation.report import Report
from recsys.evaluation.run_tables import LISTED, user_tables
from recsys.evaluation.slices import DEFINITIONS, EVERYTHING, slices
from recsys.evaluation.user_groups import user_groups
from recsys.replay.evaluation_queries import EvaluationQueries

BOOTSTRAP_SEED = 0


class Scoreboard:
    """Collector of results: open a split, record rankings for it, continue with the next split, build the report."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._splits: list[SplitResults] = []
        self._seeds: dict[str, list[int]] = {}
        """system -> its seeds, in the order of the table"""
        self._parameters: dict[str, list[dict[str, Any]]] = {}
        """baseline -> its chosen parameters in every split"""
        self._notes = list(dataset.notes)
        self._objectives: list[Mapping[str, Measures]] = []
        """measures of every cascade"""
        self._costs: dict[str, list[float]] = {}
        """figure of `recsys.evaluation.report.COSTS` -> its value for every cascade"""
        self._attributes = Attributes.of(dataset)
        self._slates: dict[str, np.ndarray] = {}
        """system -> first positions of its newest ranking, [B, LISTED] of the newest split"""
        self._shown: dict[str, list[dict[str, float]]] = {}
        """system -> exposure metrics of every split and seed"""

    def open_split(self, queries: EvaluationQueries) -> None:
        """Start a split: rankings recorded from here on answer these queries."""
        self._splits.append(SplitResults(queries=queries, slices=slices(queries)))
        self._slates.clear()

    def note(self, line: str) -> None:
        """Add a note to the report, once."""
        if line not in self._notes:
            self._notes.append(line)

    def record(self, system: str, ranking: np.ndarray, *, seed: int) -> None:
        """Record the ranking [B, K] of one of our systems trained with a seed: rows, best first, PAD at the end."""
        results = self._splits[-1].results
        if (system, seed) in results:
            raise ValueError(f"{system} with seed {seed} has answered the questions of this split before")
        results[system, seed] = self._splits[-1].evaluate(ranking)
        self._slates[system] = ranking[:, :LISTED].copy()
        self._shown.setdefault(system, []).append(
            exposure_report.exposure_metrics(self._splits[-1].queries, ranking, self._attributes)
        )
        seeds = self._seeds.setdefault(system, [])
        if seed not in seeds:
            seeds.append(seed)

    def record_objectives(self, measures: Mapping[str, Measures]) -> None:
        """Record the probability measures of a cascade, as `evaluate_objectives` returns them."""
        self._objectives.append(measures)

    def record_cost(self, **figures: float) -> None:
        """Record costs of a cascade by the names of `recsys.evaluation.report.COSTS`."""
        for name, value in figures.items():
            self._costs.setdefault(name, []).append(value)

    def record_baseline(self, system: str, ranking: np.ndarray, *, parameters: dict[str, Any]) -> None:
        """Record the ranking of a baseline with its chosen parameters."""
        self.record(system, ranking, seed=0)
        self._parameters.setdefault(system, []).append(parameters)

    def report(self, *, seconds: float, peak_memory_mib: float, served: str = "") -> Report:
        """Build the report of all recorded results; `served` as in a report.

        ValueError when a system has no ranking in some split.
        """
        self._check_complete()
        names = [name for name in (EVERYTHING, *DEFINITIONS) if any(name in split.slices for split in self._splits)]
        slices_of_report = {
            name: PooledSlice(name=name, splits=[one for one in self._splits if name in one.slices]) for name in names
        }
        everything = slices_of_report.pop(EVERYTHING)
        slices_of_report = {
            name: pooled for name, pooled in slices_of_report.items() if pooled.num_targets < everything.num_targets
        }
        ours = tuple(system for system in self._seeds if system not in self._parameters)
        per_user = {system: self._means(everything, system) for system in self._seeds}
        return Report(
            protocol=self._protocol(),
            targets_sha256=self._sha256(),
            users=everything.num_users,
            notes=(*self._notes, *(f"{name}: {DEFINITIONS[name]}" for name in slices_of_report)),
            seeds=tuple(sorted({seed for system in ours for seed in self._seeds[system]})),
            rows=self._rows(everything),
            slices={name: self._rows(pooled) for name, pooled in slices_of_report.items()},
            ours=ours,
            objectives=mean(self._objectives),
            shown={system: exposure_report.mean(parts) for system, parts in self._shown.items()},
            cost={name: float(np.mean(values)) for name, values in self._costs.items()},
            fairness=self._fairness(everything, per_user),
            per_user=per_user,
            user_tables=user_tables(self._splits[-1].queries, self._slates, (ours or tuple(self._seeds))[-1]),
            served=served,
            seconds=seconds,
            peak_memory_mib=peak_memory_mib,
        )

    def _rows(self, pooled: PooledSlice) -> dict[str, dict[str, Any]]:
        return {system: self._row(pooled, system) for system in self._seeds}

    def _row(self, pooled: PooledSlice, system: str) -> dict[str, Any]:
        seeds = self._seeds[system]
        by_seed = [_figures(pooled, system, seed) for seed in seeds]
        row: dict[str, Any] = {name: float(np.mean([one[name] for one in by_seed])) for name in by_seed[0]}
        row["ci95"] = {
            metric: list(bootstrap_interval(values, BOOTSTRAP_SEED, pooled.weights(metric)))
            for metric, values in self._means(pooled, system).items()
        }
        if pooled.name == EVERYTHING:
            _add_catalogue_shares(row, [pooled.catalogue_shares(system, seed) for seed in seeds])
        row["users"] = pooled.num_users
        if system not in self._parameters:
            row["seeds"] = seeds
        if len(seeds) > 1:
            row["spread"] = {name: float(np.std([one[name] for one in by_seed], ddof=1)) for name in by_seed[0]}
            row["by_seed"] = {name: [one[name] for one in by_seed] for name in by_seed[0]}
        if parameters := _joined(self._parameters.get(system, [])):
            row["knobs"] = parameters
        return row

    def _means(self, pooled: PooledSlice, system: str) -> dict[str, np.ndarray]:
        """Return metric -> [U], mean over the seeds."""
        seeds = self._seeds[system]
        return {
            metric: np.mean([pooled.values(metric, system, seed) for seed in seeds], axis=0)
            for metric in pooled.metrics
        }

    def _fairness(
        self, pooled: PooledSlice, per_user: Mapping[str, Mapping[str, np.ndarray]]
    ) -> dict[str, dict[str, Any]]:
        """Return system -> user column -> how its groups are served, for our systems and the best baseline."""
        groups = user_groups(self.dataset, self._splits[0].queries.replay.names[pooled.users])
        best = sorted(self._parameters, key=lambda name: per_user[name]["ndcg@10"].mean())[-1:]
        systems = [name for name in per_user if name in best or name not in self._parameters]
        return {
            system: {column: one.to_document(per_user[system]) for column, one in groups.items()}
            for system in systems
            if groups
        }

    def _check_complete(self) -> None:
        if not self._splits:
            raise ValueError("no questions were opened; there is nothing to report")
        for system, seeds in self._seeds.items():
            for number, split in enumerate(self._splits):
                if missing := [seed for seed in seeds if (system, seed) not in split.results]:
                    raise ValueError(f"{system} with seed {missing[0]} did not answer the questions of split {number}")

    def _protocol(self) -> str:
        first, num = self._splits[0].queries, len(self._splits)
        pooled = f"{num} splits pooled: " if num > 1 else ""
        names = "; ".join(split.queries.split.name for split in self._splits)
        strict = ", nothing fitted on validation or test" if first.split.strict else ""
        removed = "seen items removed but for repeats" if first.replay.repeat.possible else "seen items removed"
        return f"{self.dataset.name}, {pooled}{names}{strict}, one query a user, {removed}"

    def _sha256(self) -> str:
        """Return the target hash of the one split, or the hash of all hashes."""
        hashes = [split.queries.targets_sha256 for split in self._splits]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _figures(pooled: PooledSlice, system: str, seed: int) -> dict[str, float]:
    """Return metric -> value of one seed."""
    figures = {
        metric: weighted_mean(pooled.values(metric, system, seed), pooled.weights(metric)) for metric in pooled.metrics
    }
    return figures | {"coverage@10": pooled.coverage(system, seed)}


def _add_catalogue_shares(row: dict[str, Any], by_seed: Sequence[CatalogueShares]) -> None:
    """Add the entropy of what is shown to the row of a system, and the intervals of entropy and coverage."""
    for metric, name in CATALOGUE_METRICS.items():
        row[metric] = float(np.mean([getattr(one, name) for one in by_seed]))
        without = np.mean([getattr(one, f"{name}_without") for one in by_seed], axis=0)
        row["ci95"][metric] = list(jackknife_interval(row[metric], without))


def _joined(parameters: list[dict[str, Any]]) -> dict[str, Any]:
    """Return parameter -> its value, or its values where splits chose differently."""
    values = {name: [one[name] for one in parameters] for name in (parameters[0] if parameters else {})}
    return {name: found[0] if found.count(found[0]) == len(found) else found for name, found in values.items()}
