"""Choices in the ranker by measurement: experts, embeddings, epochs, and its loss without a part of its input.

The planted world (every probability known) and Informfully IDEA (news, by time). Shared and own experts (CGC of PLE, ours)
beside MMoE with as many experts, a shared bottom, and embeddings of each objective's own (STEM); one epoch, two, as many
as the validation likes, and embeddings that begin afresh with every epoch (MEDA); and, on the planted world, feature
dropout, with all there and with the history, the profile or the context lost on the way. Three seeds each; what is
explained is the share of the explainable log loss there, one minus the normalised entropy here, a mean over objectives.

Needs RECSYS_DATA, the folder that holds informfully-idea. Writes benchmarks/results/ranker_choices.json and .png.
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

import matplotlib
import numpy as np
import torch
from rich import box
from rich.progress import Progress
from rich.table import Table

from benchmarks.claims.ranking import ranker_objectives, ranker_truth
from benchmarks.lib.objective_cases import FOLDERS, Case, folder_of
from benchmarks.lib.ranker_peers import BOTTOM, MMOE, PEERS, STEM, model_of
from benchmarks.lib.ranker_world import WORKERS, Examples, trained, truth_metrics
from benchmarks.lib.result_file import RESULTS, Figure, console, print_figures, write_result
from recsys.contracts import PAD
from recsys.data.sources.planted import EFFECTS, Planted
from recsys.errors import exit_on_error
from recsys.evaluation.probabilities import normalised_entropy
from recsys.features.spec import FeatureSpec
from recsys.nn.blocks import TableEncoder, reset_embedding
from recsys.ranking.base import DROPPABLE_GROUPS
from recsys.training.ranking import RankerTrainerConfig, TrainedRanker
from recsys.training.ranking_examples import RankingExamples
from recsys.training.ranking_task import RankingTask

matplotlib.use("Agg")
from matplotlib import pyplot

SEEDS = 3
WORLD = Planted(users=3_000, items=300, rounds=25, slate=10, seed=0, strength=2.0, effects=tuple(EFFECTS))
OURS = "ours"
AFRESH = "embeddings afresh every epoch"
PLANTED, NEWS = "planted", "informfully"
DROPOUTS = (0.1, 0.2)

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One way to make a ranker, on one data set."""

    data: str
    system: str
    seed: int
    config: RankerTrainerConfig
    file: Path


class FreshEmbeddingTask(RankingTask):
    """Training whose embeddings are initialised again at every epoch but the first.

    Ids overfit within one epoch; the layers that read them go on (MEDA, Fan et al. 2024).
    """

    def on_train_epoch_start(self) -> None:
        if not self.current_epoch:
            return
        for encoder in (one for one in self.ranker.modules() if isinstance(one, TableEncoder)):
            for column, embedding in zip(encoder.columns, encoder.embeddings, strict=True):
                reset_embedding(embedding, trains_unknown=column.name == encoder.id_column)


class FreshEmbeddingTraining(RankerTrainerConfig):
    """Ranking training with `FreshEmbeddingTask`."""

    task_type = FreshEmbeddingTask


def ways(data: str) -> Iterable[tuple[str, RankerTrainerConfig]]:
    """Name and configuration of everything that is compared; ours first."""
    config = ranker_truth.CONFIG if data == PLANTED else ranker_objectives.CONFIG
    yield OURS, config
    for peer in (MMOE, BOTTOM, STEM):
        yield peer, replace(config, model=model_of(PEERS[peer]))
    yield "one epoch", replace(config, epochs=1)
    if data == PLANTED:
        yield "four epochs", replace(config, epochs=4)
        yield f"{AFRESH}, four", FreshEmbeddingTraining(**{**vars(config), "epochs": 4})
        for dropout in DROPOUTS:
            yield f"feature dropout {dropout:g}", replace(config, sizes=replace(config.sizes, feature_dropout=dropout))
    else:
        yield AFRESH, FreshEmbeddingTraining(**vars(config))


def run(job: Job) -> Row:
    """Explained loss of the whole test, and of requests without one of their parts."""
    torch.set_num_threads(1)
    held: Examples | Case = pickle.loads(job.file.read_bytes())
    started = time.process_time()
    fitted = trained(job.config, held.spec, held.items, held.train, held.valid, job.seed)
    row = {"data": job.data, "system": job.system, "seed": job.seed, "explained": explained(fitted, held, held.test)}
    if isinstance(held, Examples):
        row["lost"] = {
            group: explained(fitted, held, without(held.test, group, held.spec))
            for group in DROPPABLE_GROUPS
            if any(name.startswith(f"{group}_") for name in held.test.request)
        }
    return row | {"cpu_seconds": round(time.process_time() - started)}


def explained(fitted: TrainedRanker, held: Examples | Case, test: RankingExamples) -> float:
    """Mean over the objectives."""
    predicted = fitted.probabilities(held.items, test).astype(float)
    if isinstance(held, Examples):
        return float(np.mean([one["share"] for one in truth_metrics(held.probabilities, predicted).values()]))
    found = []
    for name in held.objectives:
        column = list(held.spec.objectives).index(name)
        labels = test.labels[..., column]
        known = (test.candidate_rows != PAD) & ~np.isnan(labels)
        found.append(1 - normalised_entropy(labels[known], predicted[..., column][known]))
    return float(np.mean(found))


def without(examples: RankingExamples, group: str, spec: FeatureSpec) -> RankingExamples:
    """Requests that lost their history, their profile or their context on the way."""
    missing = {f"{table.name}_numbers": table.missing_numbers for table in (spec.profile, spec.context)}
    request = {
        name: np.full_like(array, missing.get(name, 0)) if name.startswith(f"{group}_") else array
        for name, array in examples.request.items()
    }
    return replace(examples, request=request)


def measured() -> list[Row]:
    with (
        TemporaryDirectory() as folder,
        ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool,
        Progress(console=console) as progress,
    ):
        planned = []
        for data in (PLANTED, NEWS):
            held = Examples.of(WORLD) if data == PLANTED else Case.of(FOLDERS[data][1](folder_of(data)))
            file = Path(folder, data)
            file.write_bytes(pickle.dumps(held, protocol=pickle.HIGHEST_PROTOCOL))
            planned += [
                Job(data=data, system=system, seed=seed, config=config, file=file)
                for system, config in ways(data)
                for seed in range(SEEDS)
            ]
        bar = progress.add_task("systems", total=len(planned))
        futures = [pool.submit(run, job) for job in planned]
        for future in as_completed(futures):
            progress.advance(bar)
            row = future.result()
            progress.print(f"  {row['data']}, {row['system']}, seed {row['seed']}: {row['explained']:.4f}", style="dim")
        return [future.result() for future in futures]


def of(rows: Sequence[Row], data: str, system: str) -> list[Row]:
    return [row for row in rows if (row["data"], row["system"]) == (data, system)]


def ahead(rows: Sequence[Row], data: str, system: str) -> tuple[float, float]:
    """Mean lead of a system over ours, and the standard error of that over the seeds, which both share."""
    theirs, ours = (np.array([row["explained"] for row in of(rows, data, one)]) for one in (system, OURS))
    difference = theirs - ours
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


def lost(rows: Sequence[Row], system: str, group: str) -> float:
    return float(np.mean([row["lost"][group] for row in of(rows, PLANTED, system)]))


def systems(rows: Sequence[Row], data: str) -> list[str]:
    return list(dict.fromkeys(row["system"] for row in rows if row["data"] == data))


def figures(rows: Sequence[Row]) -> dict[str, Figure]:
    others = [(data, name) for data in (PLANTED, NEWS) for name in systems(rows, data) if name != OURS]
    most = max(mean - 2 * error for mean, error in (ahead(rows, *one) for one in others))
    dropping = f"feature dropout {DROPOUTS[0]:g}"
    return {
        "most_that_another_choice_is_surely_ahead": Figure(
            value=round(most, 4),
            unit="explained loss, mean over objectives less two standard errors over seeds",
            goal=0.005,
            better="lower",
        ),
        "kept_without_history_by_feature_dropout": Figure(
            value=round(lost(rows, dropping, "history") - lost(rows, OURS, "history"), 4),
            unit="share of the explainable loss above that without dropout",
            goal=0.0,
            better="higher",
        ),
        "price_of_feature_dropout": Figure(
            value=round(-ahead(rows, PLANTED, dropping)[0], 4),
            unit="share of the explainable loss with nothing lost",
            goal=0.01,
            better="lower",
        ),
    }


def table(rows: Sequence[Row]) -> Table:
    shown = Table(title="What is explained, mean of three seeds", box=box.SIMPLE_HEAD, title_justify="left")
    groups = list(of(rows, PLANTED, OURS)[0]["lost"])
    for heading in ("data", "system", "explained", "ahead of ours", *(f"without {one}" for one in groups), "CPU s"):
        shown.add_column(heading, justify="left" if heading in ("data", "system") else "right")
    for data in (PLANTED, NEWS):
        for name in systems(rows, data):
            own = of(rows, data, name)
            mean, error = ahead(rows, data, name)
            beside = "" if name == OURS else f"{mean:+.4f} ± {error:.4f}"
            without_each = [f"{lost(rows, name, one):.3f}" if data == PLANTED else "" for one in groups]
            explained_mean = f"{np.mean([row['explained'] for row in own]):.4f}"
            cpu = f"{np.mean([row['cpu_seconds'] for row in own]):.0f}"
            shown.add_row(data, name, explained_mean, beside, *without_each, cpu)
    return shown


def draw(rows: Sequence[Row], file: Path) -> None:
    """Plot the lead of every other choice over ours, two standard errors to both sides."""
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained", dpi=150)
    for panel, data in zip(panels, (PLANTED, NEWS), strict=True):
        names = [name for name in systems(rows, data) if name != OURS][::-1]
        found = [ahead(rows, data, name) for name in names]
        panel.errorbar([mean for mean, _ in found], names, xerr=[2 * error for _, error in found], fmt="o", capsize=3)
        panel.axvline(0, color="grey", linewidth=1)
        panel.set_title(f"{data}: explained log loss ahead of ours")
    figure.savefig(file)
    pyplot.close(figure)


def main() -> None:
    start = time.perf_counter()
    rows = measured()
    claimed = figures(rows)
    console.print(table(rows))
    print_figures(claimed)
    draw(rows, RESULTS / "ranker_choices.png")
    file = write_result("ranker_choices", rows, claimed, time.perf_counter() - start)
    console.print(f"\nresult   {file}\npicture  {file.with_suffix('.png')}")
    console.print("next     python -m benchmarks.claims.ranking.ranker_truth", style="bold")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with exit_on_error():
        main()
