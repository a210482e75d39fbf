"""All models and losses of conf/ under one protocol and one budget, in one table.

Towers: every user encoder with the loss of its recipe, and every loss with its encoder, on Amazon Toys (strict leave-one-out)
and MovieLens 100K (by time); one pair of towers without any other source, the epoch that is best on the validation; beside
them RecTools' SASRec with its own settings. Rankers: every ranker, and the default one with every loss, on the planted
world (share of the explainable log loss) and on Informfully (one minus the normalised entropy), means over objectives; beside
them LightGBM. All else is as the recipes, or the claims of these data sets, have it. Every training may use so many
CPU seconds of one core; schedules are not shortened for it.

`python -m benchmarks.claims.ranking.model_zoo` runs all of it. A row is written to build/model_zoo.jsonl as soon as it is
there, and the next run goes on with what is missing. `budget=60` gives each model 60 s, `seeds=3` trains each three times,
`data=toys,planted` takes these data sets alone; `data=synthetic,tiny` is a try in minutes. Toys and Informfully need
RECSYS_DATA. Writes benchmarks/results/model_zoo.json, unless data sets were named.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
from rich import box
from rich.progress import Progress
from rich.table import Table

from benchmarks.lib import zoo_rankers, zoo_towers
from benchmarks.lib.objective_cases import folder_of
from benchmarks.lib.ranker_world import WORKERS
from benchmarks.lib.result_file import ROOT, Figure, console, print_figures, write_result
from benchmarks.lib.zoo_rankers import RankerJob
from benchmarks.lib.zoo_rows import Row, RowFile, key_of
from benchmarks.lib.zoo_towers import PEER, TowerJob
from recsys.errors import ConfigError, exit_on_error

Job = TowerJob | RankerJob
FILE = RowFile(file=ROOT / "build" / "model_zoo.jsonl")
WHOLE = (zoo_towers.TOYS, zoo_towers.MOVIELENS, zoo_rankers.PLANTED, zoo_rankers.NEWS)
PUBLISHED = {
    (zoo_towers.TOYS, f"{zoo_towers.ENCODERS}=sasrec"): "R@10 .0970, N@10 .0580 (sampled softmax)",
    (zoo_towers.TOYS, f"{zoo_towers.ENCODERS}=esasrec"): "R@10 .0939, N@10 .0538",
    (zoo_towers.TOYS, f"{zoo_towers.ENCODERS}=hstu"): "R@10 .0778, N@10 .0450",
}
"""figures of the test of the same file and protocol, by others"""
COLUMNS = (
    "validation_ndcg@10",
    "test_ndcg@10",
    "test_recall@10",
    "test_recall@100",
    "explained",
    "epochs",
    "weights",
    "cpu_s",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Data sets, seeds and the budget of each training."""

    data: tuple[str, ...] = WHOLE
    seeds: int = 1
    budget_s: float = 600.0

    @staticmethod
    def of(arguments: Sequence[str]) -> "Plan":
        """Read `data=`, `seeds=` and `budget=`; ConfigError for others."""
        readers: dict[str, tuple[str, Callable[[str], Any]]] = {
            "data": ("data", lambda text: tuple(named(one) for one in text.split(","))),
            "seeds": ("seeds", int),
            "budget": ("budget_s", float),
        }
        given = {}
        for argument in arguments:
            name, _, text = argument.partition("=")
            if name not in readers:
                raise ConfigError(f"{argument!r} is no option of this benchmark; give data=, seeds= or budget=")
            key, read = readers[name]
            try:
                given[key] = read(text)
            except ValueError:
                raise ConfigError(f"{name} is {text!r}; give a number") from None
        return Plan(**given)

    def jobs(self) -> list[Job]:
        """Return all trainings; DataError where a data set is not at hand."""
        for data in self.data:
            zoo_towers.RECIPES.get(data, lambda: ())()
            if data == zoo_rankers.NEWS:
                folder_of(data)
        return [
            job(data=data, model=model, seed=seed, budget_s=self.budget_s)
            for data in self.data
            for job in (TowerJob if data in zoo_towers.RECIPES else RankerJob,)
            for model in job.models(data)
            for seed in range(self.seeds)
        ]


def named(text: str) -> str:
    """Return the data set of this name or of this first word; ConfigError without one."""
    known = (*zoo_towers.RECIPES, *zoo_rankers.SOURCES)
    found = [one for one in known if text in (one, one.split()[0])]
    if not found:
        raise ConfigError(f"data names {text!r}; choose among {', '.join(known)}")
    return found[0]


def run(job: Job) -> Row:
    """Return the row of a job; one that fails is a row with its error."""
    started = time.process_time()
    try:
        row = job.run()
    except Exception as failed:  # the other models still have their rows
        row = {**vars(job), "error": f"{type(failed).__name__}: {failed}"[:300]}
    return row | {"cpu_s": round(time.process_time() - started, 1)}


def measured(jobs: Sequence[Job], file: RowFile) -> list[Row]:
    """Run the jobs that have no row without an error yet, side by side; return the rows of all."""
    done = {key_of(row) for row in file.rows() if "error" not in row}
    missing = [job for job in jobs if key_of(vars(job)) not in done]
    console.print(f"{len(jobs) - len(missing)} of {len(jobs)} rows are there, {len(missing)} to go", style="dim")
    with (
        ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool,
        Progress(console=console) as progress,
    ):
        bar = progress.add_task("models", total=len(missing))
        for future in as_completed([pool.submit(run, job) for job in missing]):
            row = future.result()
            file.add(row)
            progress.advance(bar)
            progress.print(f"  {row['data']}, {row['model']}: {row.get('error') or headline(row)}", style="dim")
    keys = {key_of(vars(job)) for job in jobs}
    return [row for row in file.rows() if key_of(row) in keys]


def headline(row: Row) -> float:
    """Figure by which the models of a data set are ordered."""
    return float(row["explained"] if row["part"] == "rankers" else row["validation_ndcg@10"])


def figures(rows: Sequence[Row]) -> dict[str, Figure]:
    sasrec, peer = (
        mean(rows, zoo_towers.TOYS, model, "test_ndcg@10") for model in (f"{zoo_towers.ENCODERS}=sasrec", PEER)
    )
    return {
        "models_that_failed": Figure(value=sum("error" in row for row in rows), unit="rows", goal=0, better="lower"),
        "sasrec_relative_to_rectools": Figure(
            value=round(sasrec / peer, 4) if sasrec and peer else None,
            unit="NDCG@10 on the test of Toys relative to RecTools' SASRec in as many CPU seconds",
            goal=0.95,
            better="higher",
        ),
        "core_hours": Figure(
            value=round(sum(row["cpu_s"] for row in rows) / 3600, 2), unit="hours of one core", goal=8.0, better="lower"
        ),
    }


def mean(rows: Iterable[Row], data: str, model: str, column: str) -> float | None:
    """Mean over the seeds, None without any."""
    found = [row[column] for row in rows if (row["data"], row["model"]) == (data, model) and column in row]
    return float(np.mean(found)) if found else None


def table(rows: Sequence[Row]) -> Table:
    """The best of each data set first, those that failed last."""
    shown = Table(title="Models and losses, one budget", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("data", "model", *COLUMNS, "published"):
        shown.add_column(
            heading.replace("_", " "), justify="left" if heading in ("data", "model", "published") else "right"
        )
    models = dict.fromkeys((row["data"], row["model"]) for row in rows)
    means = {one: {column: mean(rows, *one, column) for column in COLUMNS} for one in models}
    order = list(dict.fromkeys(data for data, _ in models))
    for data, model in sorted(models, key=lambda one: (order.index(one[0]), -quality(means[one]))):
        cells = ("" if value is None else f"{value:,.{4 * (value < 1)}f}" for value in means[data, model].values())
        shown.add_row(data, model.rpartition("/")[2], *cells, PUBLISHED.get((data, model), ""))
    return shown


def quality(means: Mapping[str, float | None]) -> float:
    found = [means[column] for column in ("explained", "validation_ndcg@10")]
    return next((value for value in found if value is not None), -np.inf)


def main(arguments: Sequence[str]) -> None:
    start, plan = time.perf_counter(), Plan.of(arguments)
    rows = measured(plan.jobs(), FILE)
    claimed = figures(rows)
    console.print(table(rows))
    print_figures(claimed)
    console.print(f"\nrows     {FILE.file}")
    if plan.data == WHOLE:
        console.print(f"result   {write_result('model_zoo', rows, claimed, time.perf_counter() - start)}")
    console.print("next     python train.py recipe=synthetic retrieval/user_encoder=hstu", style="bold")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with exit_on_error():
        main(sys.argv[1:])
