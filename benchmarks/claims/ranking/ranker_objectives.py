"""One ranker for several real objectives: is it as good as one for each, and as trees?

Informfully IDEA by time (interesting, easy, favourite, bookmark of news), Steam (played and stayed with, of what was
bought) and RetailRocket (cart and purchase, of what was viewed), the latter two as sets with new ids and a split by
hash. The ranker with three seeds, a twin for each objective alone, DCN-V2 alone, two towers' score alone, LightGBM and its
lambdarank, and the rate of the item, all on the same features. Area under the curve (chance that a positive stands above a
negative), intervals of 95% over users; calibration on the test, beside the error that chance alone gives labels drawn from
the predictions.

`python ranker_objectives.py steam` looks at one data set. Writes benchmarks/results/ranker_objectives.json and .png.
"""

import pickle
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightgbm
import matplotlib
import numpy as np
import torch
from rich import box
from rich.progress import Progress
from rich.table import Table

from benchmarks.claims.ranking.ranker_truth import CONFIG as PLANTED
from benchmarks.lib.objective_cases import FOLDERS, Case, folder_of
from benchmarks.lib.ranker_peers import CROSSED, DEFAULT, PEERS, TOWERS, model_of, pointwise_of, trees
from benchmarks.lib.ranker_world import WORKERS, trained
from benchmarks.lib.result_file import RESULTS, Figure, console, print_figures, write_result
from recsys.contracts import PAD
from recsys.errors import ConfigError, exit_on_error
from recsys.evaluation.probabilities import (
    auc,
    auc_per_user,
    chance_error,
    normalised_entropy,
    predicted_over_observed,
    reliability,
)
from recsys.training.optimizers import DEFAULT_OPTIMIZER
from recsys.training.ranking_examples import RankingExamples
from recsys.training.schedules import DEFAULT_SCHEDULE

matplotlib.use("Agg")
from matplotlib import pyplot

SEEDS = 3
RESAMPLES = 200
OURS, BOOSTED, RANKED, RATE = "ranker", "LightGBM", "LightGBM lambdarank", "rate of the item"
CONFIG = replace(
    PLANTED,
    pointwise=pointwise_of("auto"),
    num_positions=0,
    sizes=replace(
        PLANTED.sizes, cross_rank=16, num_cross_layers=1, num_experts=2, expert_dim=32, dropout=0.2, id_dropout=0.3
    ),
    epochs=20,
    most_examples=None,
    patience=4,
    learning_rate=0.003,
    weight_decay=0.05,
    optimizer=DEFAULT_OPTIMIZER,
    scheduler=DEFAULT_SCHEDULE,
)

Row = dict[str, Any]


def twin(objective: str) -> str:
    return f"twin for {objective} alone"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One system to train on one data set."""

    case: str
    file: Path
    system: str
    seed: int
    objectives: tuple[str, ...]
    """those that it learns"""
    model: str = DEFAULT
    """file of conf/ranking/model, for systems that are rankers"""


def run(job: Job) -> dict[str, np.ndarray]:
    """objective -> predictions of the test, [B, C]."""
    torch.set_num_threads(1)
    case: Case = pickle.loads(job.file.read_bytes())
    columns = {name: list(case.spec.objectives).index(name) for name in job.objectives}
    if job.system == RATE:
        logits = case.test.candidate_scores[..., 1:]
        return {name: 1 / (1 + np.exp(-logits[..., column])) for name, column in columns.items()}
    if job.system in (BOOSTED, RANKED):
        return boosted(case, columns, ranked=job.system == RANKED)
    return learnt(case, columns, job.model, job.seed)


def learnt(case: Case, columns: dict[str, int], model: str, seed: int) -> dict[str, np.ndarray]:
    kept = np.isin(np.arange(case.spec.num_objectives), list(columns.values()))
    train, valid = (
        replace(one, labels=np.where(kept, one.labels, np.nan).astype(np.float32)) for one in (case.train, case.valid)
    )
    config = replace(CONFIG, model=model_of(model))
    fitted = trained(config, case.spec, case.items, train, valid, seed)
    predicted = fitted.probabilities(case.items, case.test).astype(float)
    return {name: predicted[..., column] for name, column in columns.items()}


def boosted(case: Case, columns: dict[str, int], *, ranked: bool) -> dict[str, np.ndarray]:
    """Probabilities, or scores of lambdarank within the known candidates of a request."""
    parts = [tabular(one, case) for one in (case.train, case.valid, case.test)]
    predicted = {}
    for name, column in columns.items():
        labels = [one.labels[..., column].ravel() for one in (case.train, case.valid)]
        known = [~np.isnan(one) for one in labels]
        shapes = [one.candidate_rows.shape for one in (case.train, case.valid)]
        groups = [one.reshape(shape).sum(1) for one, shape in zip(known, shapes, strict=True)]
        groups = [one[one > 0] if ranked else None for one in groups]
        train = lightgbm.Dataset(parts[0][known[0]], labels[0][known[0]], categorical_feature=[0], group=groups[0])
        valid = lightgbm.Dataset(parts[1][known[1]], labels[1][known[1]], reference=train, group=groups[1])
        model = trees(train, valid, ranked=ranked, leaves=15)
        predicted[name] = np.asarray(model.predict(parts[2], num_threads=1)).reshape(case.test.candidate_rows.shape)
    return predicted


def tabular(examples: RankingExamples, case: Case) -> np.ndarray:
    """[B * C, F]: id and content of the candidate, its rates, how often the history reached each objective, the context."""
    candidate = case.items.at(examples.candidate_rows)
    request, width = examples.request, examples.candidate_rows.shape[1]
    present = request["history_ids"][..., 0] > 0
    length = present.sum(1, keepdims=True)
    of_request = [request["history_labels"].sum(1) / np.maximum(length, 1), length]
    of_request += [part for name, part in sorted(request.items()) if name.startswith(("profile_", "context_"))]
    wide = [np.repeat(part[:, None], width, axis=1) for part in of_request]
    content = [candidate[part] for part in ("numbers", "vectors") if part in candidate]
    joined = np.concatenate([candidate["ids"], *content, examples.candidate_scores, *wide], axis=-1)
    return joined.reshape(-1, joined.shape[-1]).astype(np.float32)


def jobs(case: Case, file: Path) -> Iterable[Job]:
    """The longest first."""
    for seed in range(SEEDS):
        yield Job(case=case.name, file=file, system=OURS, seed=seed, objectives=case.objectives)
        for name in case.objectives:
            yield Job(case=case.name, file=file, system=twin(name), seed=seed, objectives=(name,))
    for system in (CROSSED, TOWERS):
        yield Job(case=case.name, file=file, system=system, seed=0, objectives=case.objectives, model=PEERS[system])
    for system in (BOOSTED, RANKED, RATE):
        yield Job(case=case.name, file=file, system=system, seed=0, objectives=case.objectives)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Predictions of all systems for one objective of one data set."""

    case: str
    objective: str
    labels: np.ndarray
    """[R] rows of the test whose label is known"""
    users: np.ndarray
    """[R] from 0"""
    predicted: dict[str, list[np.ndarray]]
    """system -> [R] a seed"""

    @staticmethod
    def of(case: Case, objective: str, found: dict[str, list[np.ndarray]]) -> "Answers":
        labels = case.test.labels[..., list(case.spec.objectives).index(objective)]
        known = (case.test.candidate_rows != PAD) & ~np.isnan(labels)
        users = np.broadcast_to(case.users[:, None], known.shape)[known]
        return Answers(
            case=case.name,
            objective=objective,
            labels=labels[known],
            users=np.unique(users, return_inverse=True)[1],
            predicted={system: [one[known] for one in seeds] for system, seeds in found.items()},
        )

    def rows(self) -> list[Row]:
        """A row a system: means over its seeds, the interval of its area and of how far ours is ahead."""
        rng = np.random.default_rng(0)
        num_users = int(self.users.max()) + 1
        drawn = rng.multinomial(num_users, np.full(num_users, 1 / num_users), RESAMPLES)
        areas = {
            system: np.array([self._area(seeds, counts[self.users]) for counts in drawn])
            for system, seeds in self.predicted.items()
        }
        return [
            {"data": self.case, "objective": self.objective, "system": system}
            | self._measures(system)
            | {"auc_ci95": _interval(areas[system]), "ranker_ahead_ci95": _interval(areas[OURS] - areas[system])}
            | ({} if system == RANKED else self._calibration(system, drawn))
            for system in self.predicted
        ]

    def _area(self, seeds: Sequence[np.ndarray], weights: np.ndarray | None) -> float:
        return float(np.mean([auc(self.labels, one, weights) for one in seeds]))

    def _measures(self, system: str) -> Row:
        seeds, chance = self.predicted[system], float(self.labels.mean())
        means: dict[str, Any] = {
            "auc": self._area(seeds, None),
            "auc_per_user": np.mean([auc_per_user(self.labels, one, self.users) for one in seeds]),
            "ranker_ahead": self._area(self.predicted[OURS], None) - self._area(seeds, None),
            "rate": chance,
        }
        return {name: round(float(value), 4) for name, value in means.items()} | {"rows": len(self.labels)}

    def _calibration(self, system: str, drawn: np.ndarray) -> Row:
        """Calibration of probabilities, which the scores of lambdarank are not; drawn [S, U] counts of users."""
        seeds = self.predicted[system]
        means = {
            "normalised_entropy": np.mean([normalised_entropy(self.labels, one) for one in seeds]),
            "ece": np.mean([reliability(self.labels, one).error for one in seeds]),
            "ece_of_chance": np.mean([chance_error(one) for one in seeds]),
            "predicted_over_observed": np.mean([predicted_over_observed(self.labels, one) for one in seeds]),
        }
        observed = drawn @ np.bincount(self.users, self.labels)
        predicted = drawn @ np.bincount(self.users, np.mean(seeds, axis=0))
        return {name: round(float(value), 4) for name, value in means.items()} | {
            "predicted_over_observed_ci95": _interval(predicted / np.maximum(observed, 1))
        }


def _interval(values: np.ndarray) -> list[float]:
    return np.quantile(values, (0.025, 0.975)).round(4).tolist()


def measured(names: Sequence[str]) -> list[Answers]:
    with (
        TemporaryDirectory() as folder,
        ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool,
        Progress(console=console) as progress,
    ):
        cases, planned = {}, []
        for name in names:
            case = Case.of(FOLDERS[name][1](folder_of(name)))
            file = Path(folder, name)
            file.write_bytes(pickle.dumps(case, protocol=pickle.HIGHEST_PROTOCOL))
            cases[case.name] = case
            planned += list(jobs(case, file))
        bar = progress.add_task("systems", total=len(planned))
        futures = {pool.submit(run, job): job for job in planned}
        for future in as_completed(futures):
            future.result()
            progress.advance(bar)
        found = [(job, future.result()) for future, job in futures.items()]
    return [
        Answers.of(case, objective, _of(found, case.name, objective))
        for case in cases.values()
        for objective in case.objectives
    ]


def _of(found: Sequence[tuple[Job, dict[str, np.ndarray]]], case: str, objective: str) -> dict[str, list[np.ndarray]]:
    """system -> predictions a seed."""
    answers: dict[str, list[np.ndarray]] = {}
    for job, predicted in found:
        if job.case == case and objective in predicted:
            answers.setdefault("twin" if job.system == twin(objective) else job.system, []).append(predicted[objective])
    return answers


def figures(rows: Sequence[Row]) -> dict[str, Figure]:
    ours = [row for row in rows if row["system"] == OURS]
    ahead = {system: [row["ranker_ahead"] for row in rows if row["system"] == system] for system in ("twin", BOOSTED)}
    return {
        "worst_auc_ahead_of_twin": Figure(value=min(ahead["twin"]), unit="AUC", goal=0.0, better="higher"),
        "worst_auc_ahead_of_lightgbm": Figure(value=min(ahead[BOOSTED]), unit="AUC", goal=0.0, better="higher"),
        "worst_ece": Figure(
            value=max(row["ece"] for row in ours), unit="probability, 20 bins of equal mass", goal=0.01, better="lower"
        ),
        "worst_ece_beyond_chance": Figure(
            value=round(max(row["ece"] - row["ece_of_chance"] for row in ours), 4),
            unit="probability above the error of labels drawn from the predictions",
            goal=0.01,
            better="lower",
        ),
        "worst_pcoc_distance": Figure(
            value=round(max(abs(row["predicted_over_observed"] - 1) for row in ours), 4),
            unit="|predicted / observed - 1|",
            goal=0.02,
            better="lower",
        ),
    }


def table(rows: Sequence[Row]) -> Table:
    shown = Table(
        title="Several real objectives: area under the curve and calibration on the test", box=box.SIMPLE_HEAD
    )
    for heading in (
        "data",
        "objective",
        "system",
        "AUC",
        "95%",
        "ranker ahead",
        "a user's",
        "NE",
        "ECE (chance)",
        "predicted / observed",
    ):
        shown.add_column(heading, justify="left" if heading in ("data", "objective", "system") else "right")
    for row in rows:
        low, high = row["auc_ci95"]
        ahead = "" if row["system"] == OURS else "{:+.4f} to {:+.4f}".format(*row["ranker_ahead_ci95"])
        shown.add_row(
            *(row[name] for name in ("data", "objective", "system")),
            f"{row['auc']:.4f}",
            f"{low:.3f} to {high:.3f}",
            ahead,
            f"{row['auc_per_user']:.4f}",
            *(_calibrated(row) if "ece" in row else ("", "", "")),
            end_section=row["system"] == RATE,
        )
    return shown


def _calibrated(row: Row) -> tuple[str, ...]:
    low, high = row["predicted_over_observed_ci95"]
    ratio = f"{row['predicted_over_observed']:.3f} ({low:.3f} to {high:.3f})"
    return f"{row['normalised_entropy']:.4f}", f"{row['ece']:.4f} ({row['ece_of_chance']:.4f})", ratio


def draw(answers: Sequence[Answers], file: Path) -> Path:
    """Reliability of the first seed: predictions in bins of equal mass beside what was observed."""
    figure, axes = pyplot.subplots(2, -(-len(answers) // 2), figsize=(14, 7), layout="constrained")
    for axis, one in zip(axes.flat, answers, strict=False):
        for system, marker in ((OURS, "o"), (BOOSTED, "x")):
            bins = reliability(one.labels, one.predicted[system][0])
            axis.plot(bins.predicted, bins.observed, marker=marker, linewidth=1, label=system)
        end = float(bins.predicted.max())
        axis.plot([0, end], [0, end], color="grey", linewidth=0.5)
        axis.set(title=f"{one.case}: {one.objective}", xlabel="predicted", ylabel="observed")
        axis.legend()
    for axis in list(axes.flat)[len(answers) :]:
        axis.remove()
    figure.savefig(file, dpi=100)
    pyplot.close(figure)
    return file


def read(arguments: Sequence[str]) -> list[str]:
    """Data sets, all of them if none is named; ConfigError for an unknown one."""
    if unknown := [one for one in arguments if one not in FOLDERS]:
        raise ConfigError(f"{unknown[0]!r} is no data set of this benchmark; name some of {', '.join(FOLDERS)}")
    return list(arguments) or list(FOLDERS)


def main() -> None:
    start, names = time.perf_counter(), read(sys.argv[1:])
    answers = measured(names)
    rows = [row for one in answers for row in one.rows()]
    claimed = figures(rows)
    console.print(table(rows))
    print_figures(claimed)
    picture = draw(answers, RESULTS / "ranker_objectives.png")
    file = write_result("ranker_objectives", rows, claimed, time.perf_counter() - start)
    console.print(f"\nresult   {file}\npicture  {picture}")
    console.print("next     python -m benchmarks.claims.ranking.ranker_truth", style="bold")


if __name__ == "__main__":
    with exit_on_error():
        main()
