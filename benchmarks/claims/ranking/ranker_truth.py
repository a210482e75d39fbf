"""Does the ranker learn what there is to learn? On a planted world, where every probability is known.

The world logs slates of a known policy: eight kinds of interaction between users, items, moments and histories, four
objectives from 30% to 1%. The first half of the events is learnt from, the last tenth is the test; what lies between
stops and calibrates the training, as much because the rarest rate is known to a hundredth only then. A system's share
of the explainable loss is (constant - system) / (constant - truth), in expected log loss under the known probabilities.
Three seeds of the ranker, of four twins that learn one objective each, and of one in a world without position bias,
compared by how they order slates by relevance; one whose history is pooled instead of attended to; DCN-V2 alone; two towers
alone; LightGBM on the same features; then each kind of interaction alone.

`python ranker_truth.py seed=7` plants another world, `seeds=1` is the quick look without twins. Writes
benchmarks/results/ranker_truth.json.
"""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich import box
from rich.progress import Progress
from rich.table import Table

from benchmarks.lib.ranker_peers import CROSSED, DEFAULT, PEERS, POOLED, TOWERS, boosted, model_of, rates
from benchmarks.lib.ranker_world import WORKERS, Examples, agreement, trained, truth_metrics
from benchmarks.lib.result_file import Figure, console, print_figures, write_result
from recsys.data.sources.planted import EFFECTS, OBJECTIVES, Planted
from recsys.errors import ConfigError, exit_on_error
from recsys.ranking.losses import BinaryCrossEntropy, ListNet
from recsys.ranking.model import RankerSizes
from recsys.training.optimizers import DEFAULT_OPTIMIZER
from recsys.training.ranking import RankerTrainerConfig
from recsys.training.ranking_examples import ExampleSampling, tensors
from recsys.training.ranking_task import RankingTask
from recsys.training.schedules import DEFAULT_SCHEDULE

SEEDS = 3
OURS, UNBIASED, BOOSTED, RANKED, RATES = (
    "ranker",
    "ranker, no position bias in its world",
    "LightGBM",
    "LightGBM lambdarank",
    "rate of the item",
)
CONFIG = RankerTrainerConfig(
    model=model_of(DEFAULT),
    sizes=RankerSizes(
        dim=32,
        num_heads=2,
        cross_rank=32,
        num_cross_layers=2,
        num_experts=3,
        expert_dim=64,
        dropout=0.0,
        id_dropout=0.5,
        feature_dropout=0.0,
    ),
    sampling=ExampleSampling(
        requests_per_user=1,
        requests=1_000_000_000,
        validation_requests=1_000_000_000,
        examples_gib=1.0,
        dense_candidates=10,
        shown=None,
    ),
    num_positions=10,
    pointwise=BinaryCrossEntropy(),
    loss=ListNet(),
    listwise_weight=0.0,
    balance="equal",
    watch="likelihood",
    batch_size=128,
    epochs=2,
    most_examples=None,
    patience=5,
    learning_rate=0.003,
    weight_decay=0.01,
    optimizer=DEFAULT_OPTIMIZER,
    scheduler=DEFAULT_SCHEDULE,
)

LONGER = replace(CONFIG, epochs=3)
"""the other benchmarks train two epochs, after which the order by the rarest objective has not converged"""

Row = dict[str, Any]


def single(name: str) -> str:
    return f"twin for {name} alone"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One system to train in one world."""

    system: str
    file: Path
    """of the examples"""
    seed: int
    objectives: tuple[str, ...] = OBJECTIVES
    """those that it learns"""
    config: RankerTrainerConfig = LONGER
    model: str = DEFAULT
    """file of conf/ranking/model, for systems that are rankers"""


def run(job: Job) -> Row:
    """Metrics of the system on the test."""
    torch.set_num_threads(1)
    examples = Examples.read(job.file)
    started = time.process_time()
    peers: dict[str, Callable[[Examples], np.ndarray]] = {
        BOOSTED: boosted,
        RANKED: partial(boosted, ranked=True),
        RATES: rates,
    }
    predicted, scores = (peers[job.system](examples), None) if job.system in peers else learnt(job, examples)
    row = {"system": job.system, "seed": job.seed, "cpu_seconds": round(time.process_time() - started)}
    if job.system != RANKED:
        found = truth_metrics(examples.probabilities, predicted)
        row["objectives"] = {name: found[name] for name in job.objectives}
    row["agreement"] = agreement(examples.unbiased, predicted if scores is None else scores)
    return row


def learnt(job: Job, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities at the logged positions, and logits without position bias, [B, C, T] each."""
    kept = np.isin(OBJECTIVES, job.objectives)
    train, valid = (
        replace(one, labels=np.where(kept, one.labels, np.nan).astype(np.float32))
        for one in (examples.train, examples.valid)
    )
    batch = tensors(examples.test)
    batch.pop("candidate_positions")
    config = replace(job.config, model=model_of(job.model))
    fitted = trained(config, examples.spec, examples.items, train, valid, job.seed)
    task = RankingTask(fitted.ranker, examples.items, 0, config).eval()
    probabilities = fitted.probabilities(examples.items, examples.test).astype(float)
    return probabilities, task.all_logits(batch).double().numpy()


def jobs(files: dict[str, Path], seeds: int) -> Iterable[Job]:
    """The longest first. One seed has no standard error, so it has no twins."""
    everything = files["everything"]
    for seed in range(seeds):
        yield Job(system=OURS, file=everything, seed=seed)
        for name in OBJECTIVES if seeds > 1 else ():
            yield Job(system=single(name), file=everything, seed=seed, objectives=(name,))
    for seed in range(seeds):
        yield Job(system=UNBIASED, file=files["no position"], seed=seed)
    for system in (CROSSED, POOLED, TOWERS):
        yield Job(system=system, file=everything, seed=0, model=PEERS[system])
    for system in (BOOSTED, RANKED, RATES):
        yield Job(system=system, file=everything, seed=0)
    for effect in EFFECTS:
        yield Job(system=f"{effect} alone", file=files[effect], seed=0)


def worlds(seed: int) -> dict[str, Planted]:
    large = Planted(users=8_000, items=500, rounds=25, slate=10, seed=seed, strength=2.0, effects=tuple(EFFECTS))
    others = tuple(name for name in EFFECTS if name != "position")
    without = replace(large, effects=others, strength=large.strength * _share_of_strength(others))
    alone = {name: replace(large, users=3_000, strength=3.0, effects=(name,)) for name in EFFECTS}
    return {"everything": large, "no position": without, **alone}


def _share_of_strength(effects: Sequence[str]) -> float:
    """Of all effects, so that those that are left are as strong as they were beside the others."""
    left, whole = (np.sum([np.square(EFFECTS[name]) for name in names], axis=0) for names in (effects, EFFECTS))
    return float(np.sqrt((left / whole).mean()))


def _saved(file: Path, world: Planted) -> Path:
    return Examples.of(world).save(file)


def measured(seed: int, seeds: int) -> list[Row]:
    with (
        TemporaryDirectory() as folder,
        ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool,
        Progress(console=console) as progress,
    ):
        planted = worlds(seed)
        bar = progress.add_task("worlds", total=len(planted))
        saving = {pool.submit(_saved, Path(folder, name), world): name for name, world in planted.items()}
        for _ in as_completed(saving):
            progress.advance(bar)
        files = {name: future.result() for future, name in saving.items()}
        planned = list(jobs(files, seeds))
        bar = progress.add_task("systems", total=len(planned))
        futures = [pool.submit(run, job) for job in planned]
        for future in as_completed(futures):
            progress.advance(bar)
            progress.print(line(future.result()), style="dim")
        return [future.result() for future in futures]


def line(row: Row) -> str:
    """Summary of a system, printed as soon as it is done."""
    shares = " ".join(f"{name} {one['share']:.3f}" for name, one in row.get("objectives", {}).items())
    return f"  {row['system']}, seed {row['seed']}: {shares}"


def of(rows: Sequence[Row], system: str) -> list[Row]:
    return [row for row in rows if row["system"] == system]


def figures(rows: Sequence[Row]) -> dict[str, Figure]:
    ours = [one for row in of(rows, OURS) for one in row["objectives"].values()]
    alone = [one["share"] for name in EFFECTS for one in of(rows, f"{name} alone")[0]["objectives"].values()]
    biased, unbiased = (_mean_agreement(of(rows, system)) for system in (OURS, UNBIASED))
    return {
        "worst_share_of_explainable_loss": Figure(
            value=min(one["share"] for one in ours), unit="share, worst objective and seed", goal=0.95, better="higher"
        ),
        "worst_ece": Figure(
            value=max(one["ece"] for one in ours), unit="probability, 20 bins of equal mass", goal=0.01, better="lower"
        ),
        "worst_pcoc_distance": Figure(
            value=round(max(abs(one["predicted_over_true"] - 1) for one in ours), 4),
            unit="|predicted / true - 1|",
            goal=0.02,
            better="lower",
        ),
        "worst_standard_errors_behind_single_task": Figure(
            value=round(max(behind(rows, name) for name in OBJECTIVES), 2) if of(rows, single(OBJECTIVES[0])) else None,
            unit="standard errors over seeds",
            goal=2.0,
            better="lower",
        ),
        "worst_share_of_an_interaction_alone": Figure(
            value=min(alone), unit="share, worst objective", goal=0.9, better="higher"
        ),
        "worst_agreement_lost_to_position_bias": Figure(
            value=round(max(unbiased[name] - biased[name] for name in OBJECTIVES), 4),
            unit="rank correlation with relevance, means over seeds",
            goal=0.01,
            better="lower",
        ),
    }


def _mean_agreement(rows: Sequence[Row]) -> dict[str, float]:
    return {name: float(np.mean([row["agreement"][name] for row in rows])) for name in OBJECTIVES}


def behind(rows: Sequence[Row], name: str) -> float:
    """Standard errors of the difference by which the ranker's share lies below that of its single-task twin."""
    shares = [[row["objectives"][name]["share"] for row in of(rows, system)] for system in (single(name), OURS)]
    twin, ours = (np.array(one) for one in shares)
    error = np.sqrt(twin.var(ddof=1) / len(twin) + ours.var(ddof=1) / len(ours))
    return float((twin.mean() - ours.mean()) / max(error, 1e-4))


def table(rows: Sequence[Row]) -> Table:
    shown = Table(
        title="Share of the explainable loss (predicted / true) by objective; rank correlation of clicks with relevance",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    for heading in ("system", "seed", *OBJECTIVES, "order", "CPU s"):
        shown.add_column(heading, justify="left" if heading == "system" else "right")
    for row in rows:
        found = row.get("objectives", {})
        cells = [
            f"{found[name]['share']:.3f} ({found[name]['predicted_over_true']:.2f})" if name in found else ""
            for name in OBJECTIVES
        ]
        shown.add_row(
            row["system"], str(row["seed"]), *cells, f"{row['agreement']['click']:.3f}", str(row["cpu_seconds"])
        )
    return shown


def read(arguments: Sequence[str]) -> tuple[int, int]:
    """The world's seed and the number of seeds of the systems; ConfigError for anything but seed=N and seeds=N."""
    values = {"seed": 0, "seeds": SEEDS}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key not in values or not value.isdigit() or argument == "seeds=0":
            raise ConfigError(f"{argument} is no argument of this benchmark; write seed=7, seeds=1 or nothing")
        values[key] = int(value)
    return values["seed"], values["seeds"]


def main() -> None:
    start, (seed, seeds) = time.perf_counter(), read(sys.argv[1:])
    rows = measured(seed, seeds)
    claimed = figures(rows)
    console.print(table(rows))
    print_figures(claimed)
    file = write_result("ranker_truth", rows, claimed, time.perf_counter() - start)
    console.print(f"\nresult   {file}")
    console.print(f"next     python -m benchmarks.claims.ranking.ranker_truth seed={seed + 1}", style="bold")


if __name__ == "__main__":
    with exit_on_error():
        main()
