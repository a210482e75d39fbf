"""How fast the towers train: seconds to the validation NDCG@10 that RecTools' SASRec reaches in eight minutes.

Both learn Amazon Toys under strict leave-one-out on the same cores, one after the other, and are asked the same
validation questions after every epoch (the whole catalogue is ranked, seen items removed, a target loses every tie);
the time of questions does not count. RecTools has its own settings with 128 factors and sessions of 20, and memory
settings that suit it. Ours is one pair of towers of recipe=sequence alone, without any other source: as the recipe has
it, and without item attributes, on ids alone as RecTools is. Writes benchmarks/results/retrieval_training.json.

On a machine that others use too, `shared` as the argument lets both train on one thread, counts their CPU seconds in
place of the clock's, and gives RecTools as many as all cores have in its eight minutes: threads that wait for each other
on busy cores would cost it more than us.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich import box
from rich.table import Table

from benchmarks.lib.result_file import ROOT, Figure, console, print_figures, write_result
from recsys.data.splits import VALIDATION
from recsys.errors import DataError, exit_on_error
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.training.prepare import Prepared, prepare
from recsys.training.retrieval import RetrievalExamples, RetrievalTask
from recsys.training.trainer import Trainer
from recsys.training.trainer_options import DEFAULT_OPTIONS
from recsys.training.validation_queries import ValidationQueries

FILE = Path("amazon-toys", "Toys_and_Games.txt")
SHARED = sys.argv[1:] == ["shared"]
CORES = os.cpu_count() or 1
THREADS = 1 if SHARED else CORES
BUDGET = 480.0 * (CORES if SHARED else 1)
"""seconds of training that RecTools has; the epoch that they end in is the last"""
SCHEDULES = {"ours": (), "ours, ids alone": ("features.leave_out=[attributes]",)}
MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "68719476736"}
"""freed memory is kept for the next step instead of handed back to the system"""
SEED = 0

Row = dict[str, Any]


class Stopwatch(pl.Callback):
    """Seconds of training alone, and after every epoch the validation figure; ends the training when it is enough.

    Among the seconds of a row, `seconds` are those that count.
    """

    def __init__(
        self,
        ask: Callable[[Any], float],
        examples: Callable[[Any, Any], int],
        enough: Callable[[Row], bool],
    ) -> None:
        """
        ask: the task in evaluation mode -> its validation figure
        examples: the outputs of a step and its batch -> positions it learnt from
        enough: the row of an epoch -> whether it is the last
        """
        self.ask, self.examples, self.enough = ask, examples, enough
        self.wall = self.cpu = 0.0
        self.num_examples = 0
        self.epochs: list[Row] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Stopwatch":
        return self  # RecTools trains with a copy of the trainer it is given

    def on_train_epoch_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.start = time.perf_counter(), time.process_time()

    def on_train_batch_end(
        self, trainer: pl.Trainer, task: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.num_examples += self.examples(outputs, batch)

    def on_train_epoch_end(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.wall += time.perf_counter() - self.start[0]
        self.cpu += time.process_time() - self.start[1]
        task.eval()
        with torch.no_grad():
            figure = self.ask(task)
        task.train()
        seconds = {"seconds": self.seconds, "wall_seconds": self.wall, "cpu_seconds": self.cpu}
        rounded = {name: round(value, 1) for name, value in seconds.items()}
        self.epochs.append({**rounded, "ndcg@10": round(figure, 5)})
        console.print(f"  epoch {len(self.epochs):2}  {self.seconds:6.1f} s  NDCG@10 {figure:.4f}", style="dim")
        trainer.should_stop = self.enough(self.epochs[-1])

    @property
    def seconds(self) -> float:
        return self.cpu if SHARED else self.wall

    def reached(self, figure: float) -> Row | None:
        """The first epoch that is at least as good, None if there is none."""
        rows = ({"epoch": place, **one} for place, one in enumerate(self.epochs, start=1) if one["ndcg@10"] >= figure)
        return next(rows, None)

    def row(self, system: str, figure: float) -> Row:
        return {
            "system": system,
            "examples_per_second": round(self.num_examples / self.seconds),
            "reached": self.reached(figure),
            "epochs": self.epochs,
        }


class TimedLoop(Trainer):
    """The loop of a run, under a stopwatch."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__(
            accelerator="cpu",
            precision="32-true",
            compile=False,
            progress=False,
            threads=THREADS,
            checkpoint_steps=None,
            callbacks={},
            options=DEFAULT_OPTIONS,
        )
        self.watch = watch

    def _callbacks(self, folder: Path) -> list[pl.Callback]:
        return [*super()._callbacks(folder), self.watch]


def composed(*overrides: str) -> DictConfig:
    recipe = ("recipe=sequence", f"data.path={toys()}", "retrieval.members=1")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=[*recipe, *overrides])


def toys() -> Path:
    file = Path(os.environ.get("RECSYS_DATA", ROOT.parent / "shared" / "data")) / FILE
    if not file.is_file():
        raise DataError(f"{file} is no file; put {FILE} there, or name the folder above it in RECSYS_DATA")
    return file.resolve()


def read(config: DictConfig) -> tuple[Prepared, EvaluationQueries]:
    """What is trained on, and the validation questions of a run."""
    part = {name: instantiate(config[name], _convert_="all") for name in ("data", "protocol", "features", "content")}
    dataset = part["data"].load()
    prepared = prepare(dataset, part["protocol"].splits(dataset)[0], part["features"], part["content"])
    evaluation = instantiate(config.evaluation, _convert_="all")
    return prepared, evaluation.validation(prepared.split, prepared.replay)


def train_rectools(questions: EvaluationQueries) -> Stopwatch:
    try:
        from benchmarks.lib.peer_rectools import fit, ndcg_at_10, num_examples
    except ModuleNotFoundError as missing:
        raise DataError(
            f"{missing}; run `make setup`, or pip install -c constraints.txt '.[bench]' and --no-deps rectools"
        ) from None
    watch = Stopwatch(lambda task: ndcg_at_10(task, questions), num_examples, lambda epoch: epoch["seconds"] >= BUDGET)
    pl.seed_everything(SEED, verbose=False)
    fit(questions, watch)
    return watch


def train_ours(config: DictConfig, target: float) -> Stopwatch:
    """Until the schedule ends or the target is reached."""
    prepared, questions = read(config)
    known = prepared.split.known(VALIDATION)
    spec, items = prepared.spec(known)
    validation = ValidationQueries.of(questions, spec, items)
    watch = Stopwatch(
        lambda task: ndcg_at_10(task, validation, questions),
        lambda outputs, batch: outputs["examples"],
        lambda epoch: epoch["ndcg@10"] >= target,
    )
    with TemporaryDirectory() as folder:
        instantiate(config.retrieval, _convert_="all").fit(
            spec,
            items,
            RetrievalExamples.of(prepared, spec, known),
            None,
            trainer=TimedLoop(watch),
            folder=Path(folder),
            epochs=None,
            seed=SEED,
            loggers=[],
        )
    return watch


def ndcg_at_10(task: RetrievalTask, validation: ValidationQueries, questions: EvaluationQueries) -> float:
    """Mean over the questions."""
    batches = ({name: torch.from_numpy(array) for name, array in batch.items()} for batch in validation.batches())
    users = np.concatenate([task.towers.users(batch).numpy() for batch in batches])
    items = task.catalogue_vectors().numpy().T
    return float(questions.ndcg_at_10(lambda batch: users[batch] @ items).mean())


def figures(rows: Sequence[Row]) -> dict[str, Figure]:
    """The peer has the time of its best epoch; ours is the recipe as it stands."""
    peer, ours = (one["reached"] for one in rows[:2])
    return {
        "times_faster_to_equal_quality": Figure(
            value=round(peer["seconds"] / ours["seconds"], 2) if ours else 0.0,
            unit=f"times (its {'CPU ' * SHARED}seconds to its best validation NDCG@10 / ours to the same)",
            goal=3.0,
            better="higher",
        )
    }


def table(rows: Sequence[Row]) -> Table:
    shown = Table(
        title=f"Training to equal validation NDCG@10, {THREADS} threads", box=box.SIMPLE_HEAD, title_justify="left"
    )
    for heading in ("system", "examples/s", "seconds", "of the clock", "CPU", "epoch", "NDCG@10", "epochs run"):
        shown.add_column(heading, justify="left" if heading == "system" else "right")
    for one in rows:
        found: Mapping[str, Any] = one["reached"] or {}
        cells = (found.get(name, "-") for name in ("seconds", "wall_seconds", "cpu_seconds", "epoch"))
        figure = found.get("ndcg@10") or max(epoch["ndcg@10"] for epoch in one["epochs"])
        shown.add_row(
            one["system"], f"{one['examples_per_second']:,}", *map(str, cells), f"{figure:.4f}", str(len(one["epochs"]))
        )
    return shown


def measure() -> list[Row]:
    console.rule("RecTools SASRec", align="left")
    peer = train_rectools(read(composed())[1])
    target = max(one["ndcg@10"] for one in peer.epochs)
    rows = [peer.row("RecTools SASRec", target)]
    for name, overrides in SCHEDULES.items():
        console.rule(name, align="left")
        rows.append(train_ours(composed(*overrides), target).row(name, target))
    return rows


def main() -> None:
    start = time.perf_counter()
    torch.set_num_threads(THREADS)
    rows = measure()
    claimed = figures(rows)
    file = write_result("retrieval_training", rows, claimed, time.perf_counter() - start)
    console.print(table(rows))
    print_figures(claimed)
    console.print(f"\nresult   {file}")
    console.print("next     python train.py recipe=sequence data.path=...", style="bold")


if __name__ == "__main__":
    if MEMORY.items() - os.environ.items():  # read when a process starts
        os.execve(
            sys.executable,
            [sys.executable, "-m", "benchmarks.claims.retrieval.retrieval_training", *sys.argv[1:]],
            {**os.environ, **MEMORY},
        )
    with exit_on_error():
        main()
