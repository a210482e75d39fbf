"""Where the answers of all systems, splits and seeds come together.

Values are averaged over seeds before anything is resampled: intervals are about users, `spread` is about seeds.

Shapes: B questions of a split, K places, U users of all splits, S seeds.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from recsys.data.dataset import Dataset
from recsys.evaluation import shown
from recsys.evaluation.attributes import Attributes
from recsys.evaluation.intervals import bootstrap_interval, weighted_mean
from recsys.evaluation.metrics import METRICS
from recsys.evaluation.objectives import Measures, mean
from recsys.evaluation.pooling import Pool, Sheet
from recsys.evaluation.questions import Questions
from recsys.evaluation.report import Report
from recsys.evaluation.slices import DEFINITIONS, EVERYTHING, slices

BOOTSTRAP_SEED = 0


class Scoreboard:
    """Open the questions of a split, record the answers to it, go on with the next split, ask for the report."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._sheets: list[Sheet] = []
        self._seeds: dict[str, list[int]] = {}
        """system -> its seeds, in the order of the table"""
        self._knobs: dict[str, list[dict[str, Any]]] = {}
        """baseline -> its knobs in every split"""
        self._notes = list(dataset.notes)
        self._objectives: list[Mapping[str, Measures]] = []
        """of every cascade"""
        self._attributes = Attributes.of(dataset)
        self._shown: dict[str, list[dict[str, float]]] = {}
        """system -> what its first places show, of every split and seed"""

    def open(self, questions: Questions) -> None:
        """From here on answers are to these questions."""
        self._sheets.append(Sheet(questions=questions, slices=slices(questions)))

    def note(self, line: str) -> None:
        """Something that the reader has to know; said once."""
        if line not in self._notes:
            self._notes.append(line)

    def record(self, system: str, ranking: np.ndarray, *, seed: int) -> None:
        """What a system of ours answers that was trained with this seed: [B, K] rows, best first, PAD at the end."""
        marks = self._sheets[-1].marks
        if (system, seed) in marks:
            raise ValueError(f"{system} with seed {seed} has answered the questions of this split before")
        marks[system, seed] = self._sheets[-1].mark(ranking)
        self._shown.setdefault(system, []).append(shown.measured(self._sheets[-1].questions, ranking, self._attributes))
        seeds = self._seeds.setdefault(system, [])
        if seed not in seeds:
            seeds.append(seed)

    def record_objectives(self, measures: Mapping[str, Measures]) -> None:
        """How right a cascade of ours is about its candidates: objective -> what `judged` says of it."""
        self._objectives.append(measures)

    def record_baseline(self, system: str, ranking: np.ndarray, *, knobs: dict[str, Any]) -> None:
        """What a baseline answers, with the knobs that were chosen for it."""
        self.record(system, ranking, seed=0)
        self._knobs.setdefault(system, []).append(knobs)

    def report(self, *, seconds: float, peak_memory_mib: float, served: str = "") -> Report:
        """The figures of all that was recorded; `served` as in a report.

        ValueError when a system did not answer in every split.
        """
        self._check_complete()
        names = [name for name in (EVERYTHING, *DEFINITIONS) if any(name in sheet.slices for sheet in self._sheets)]
        pools = {name: Pool(name=name, sheets=[one for one in self._sheets if name in one.slices]) for name in names}
        everything = pools.pop(EVERYTHING)
        pools = {name: pool for name, pool in pools.items() if pool.num_targets < everything.num_targets}
        ours = tuple(system for system in self._seeds if system not in self._knobs)
        return Report(
            protocol=self._protocol(),
            targets_sha256=self._sha256(),
            users=everything.num_users,
            notes=(*self._notes, *(f"{name}: {DEFINITIONS[name]}" for name in pools)),
            seeds=tuple(sorted({seed for system in ours for seed in self._seeds[system]})),
            rows=self._rows(everything),
            slices={name: self._rows(pool) for name, pool in pools.items()},
            ours=ours,
            objectives=mean(self._objectives),
            shown={system: shown.mean(parts) for system, parts in self._shown.items()},
            per_user={system: self._means(everything, system) for system in self._seeds},
            served=served,
            seconds=seconds,
            peak_memory_mib=peak_memory_mib,
        )

    def _rows(self, pool: Pool) -> dict[str, dict[str, Any]]:
        return {system: self._row(pool, system) for system in self._seeds}

    def _row(self, pool: Pool, system: str) -> dict[str, Any]:
        seeds = self._seeds[system]
        by_seed = [_figures(pool, system, seed) for seed in seeds]
        row: dict[str, Any] = {name: float(np.mean([one[name] for one in by_seed])) for name in by_seed[0]}
        row["ci95"] = {
            metric: list(bootstrap_interval(values, BOOTSTRAP_SEED, pool.weights(metric)))
            for metric, values in self._means(pool, system).items()
        }
        row["users"] = pool.num_users
        if system not in self._knobs:
            row["seeds"] = seeds
        if len(seeds) > 1:
            row["spread"] = {name: float(np.std([one[name] for one in by_seed], ddof=1)) for name in by_seed[0]}
        if knobs := _joined(self._knobs.get(system, [])):
            row["knobs"] = knobs
        return row

    def _means(self, pool: Pool, system: str) -> dict[str, np.ndarray]:
        """metric -> [U], mean over the seeds."""
        seeds = self._seeds[system]
        return {metric: np.mean([pool.values(metric, system, seed) for seed in seeds], axis=0) for metric in METRICS}

    def _check_complete(self) -> None:
        if not self._sheets:
            raise ValueError("no questions were opened; there is nothing to report")
        for system, seeds in self._seeds.items():
            for number, sheet in enumerate(self._sheets):
                if missing := [seed for seed in seeds if (system, seed) not in sheet.marks]:
                    raise ValueError(f"{system} with seed {missing[0]} did not answer the questions of split {number}")

    def _protocol(self) -> str:
        first, num = self._sheets[0].questions, len(self._sheets)
        pooled = f"{num} splits pooled: " if num > 1 else ""
        names = "; ".join(sheet.questions.split.name for sheet in self._sheets)
        strict = ", nothing fitted on validation or test" if first.split.strict else ""
        removed = "seen items removed but for repeats" if first.replay.repeat.possible else "seen items removed"
        return f"{self.dataset.name}, {pooled}{names}{strict}, one query a user, {removed}"

    def _sha256(self) -> str:
        """The hash of the one split, or the hash of all their hashes."""
        hashes = [sheet.questions.targets_sha256 for sheet in self._sheets]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _figures(pool: Pool, system: str, seed: int) -> dict[str, float]:
    """metric -> value of one seed."""
    figures = {metric: weighted_mean(pool.values(metric, system, seed), pool.weights(metric)) for metric in METRICS}
    return figures | {"coverage@10": pool.coverage(system, seed)}


def _joined(knobs: list[dict[str, Any]]) -> dict[str, Any]:
    """knob -> its value, or its values where splits chose differently."""
    values = {name: [one[name] for one in knobs] for name in (knobs[0] if knobs else {})}
    return {name: found[0] if found.count(found[0]) == len(found) else found for name, found in values.items()}
