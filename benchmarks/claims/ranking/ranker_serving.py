"""Cost and quality of the ranker by size: milliseconds of 500 candidates, and the loss.

Rankers of rising size learn one planted world, where the truth is known, and are exported as they are served. Time is CPU
time of one thread under ONNX Runtime, one request with a full history of 50 events, the same number of repetitions of
every size in turn; beside it that of the eager module. Quality is the expected log loss under the known probabilities.

`python ranker_serving.py seed=7` plants another world. Writes benchmarks/results/ranker_serving.json and .png.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import numpy as np
import torch
from omegaconf import OmegaConf
from rich import box
from rich.progress import track
from rich.table import Table

from benchmarks.claims.ranking.ranker_truth import CONFIG, read
from benchmarks.lib.ranker_world import Examples, log_loss, trained, truth_metrics
from benchmarks.lib.result_file import RESULTS, ROOT, Figure, console, print_figures, write_result
from recsys.data.sources.planted import EFFECTS, Planted
from recsys.errors import exit_on_error
from recsys.graphs.export import export_ranker, random_inputs
from recsys.ranking.model import logits_and_request
from recsys.stages import OnnxModel, ranker_inputs
from recsys.training.ranking import RankerTrainerConfig, TrainedRanker

matplotlib.use("Agg")
from matplotlib import pyplot

CANDIDATES, HISTORY = 500, 50
ROUNDS, REPEATS = 20, 5
"""turns of every system, and calls a turn"""
DEFAULT, LARGE = "default", "large"


@dataclass(frozen=True, kw_only=True)
class Served:
    """A trained ranker of one size, and its graph."""

    name: str
    parameters: int
    loss: np.ndarray
    """[T] expected log loss on the test"""
    share: float
    """of the explainable loss, the worst objective"""
    graph: Callable[[], object]
    eager: Callable[[], object]
    """one request each"""
    difference: float
    """the largest between the two"""


def sizes() -> dict[str, RankerTrainerConfig]:
    """The default of conf/ranking as it is shaped, smaller and larger ones; all trained alike."""
    shaped: Any = OmegaConf.load(ROOT / "conf" / "ranking" / "multi_objective.yaml")
    names = ("dim", "num_heads", "cross_rank", "num_cross_layers", "num_experts", "expert_dim")
    default = replace(CONFIG.sizes, **{name: shaped.sizes[name] for name in names})
    found = {
        "tiny": replace(default, dim=8, cross_rank=8, num_cross_layers=1, num_experts=1, expert_dim=16),
        "small": replace(default, dim=16, cross_rank=16, num_cross_layers=1, num_experts=1, expert_dim=32),
        "medium": replace(default, num_cross_layers=1, num_experts=2, expert_dim=32),
        DEFAULT: default,
        LARGE: replace(default, dim=64, cross_rank=64, num_cross_layers=2, num_experts=4, expert_dim=128),
    }
    return {name: replace(CONFIG, sizes=one) for name, one in found.items()}


def served(name: str, config: RankerTrainerConfig, examples: Examples, folder: Path) -> Served:
    fitted = trained(config, examples.spec, examples.items, examples.train, examples.valid, seed=0)
    predicted = fitted.probabilities(examples.items, examples.test).astype(float)
    found = truth_metrics(examples.probabilities, predicted)
    graph, eager = _calls(fitted, examples, folder / f"{name}.onnx")
    return Served(
        name=name,
        parameters=sum(one.numel() for one in fitted.ranker.parameters()),
        loss=log_loss(examples.probabilities, predicted),
        share=min(one["share"] for one in found.values()),
        graph=graph,
        eager=eager,
        difference=float(np.abs(graph() - eager()).max()),
    )


def _calls(
    fitted: TrainedRanker, examples: Examples, file: Path
) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]:
    """The exported and the eager ranker on one request of random values."""
    inputs = ranker_inputs(replace(examples.spec, history_length=HISTORY), 0)
    inputs = tuple(replace(one, shape=(-1, 0)) if one.name == "candidate_scores" else one for one in inputs)
    export_ranker(fitted.ranker, fitted.calibrator, None, inputs, file)
    model, arrays = OnnxModel(file, inputs), random_inputs(inputs, 1, CANDIDATES)
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}

    @torch.inference_mode()
    def eager() -> np.ndarray:
        return fitted.calibrator(*logits_and_request(fitted.ranker, fitted.calibrator.parents, batch)).numpy()

    return lambda: model(arrays), eager


def milliseconds(calls: Sequence[Callable[[], object]]) -> list[float]:
    """Median CPU time of a call of each; they take turns, so that a busy machine is busy for all of them."""
    spent = np.zeros((ROUNDS, len(calls)))
    for turn in range(ROUNDS):
        for column, call in enumerate(calls):
            call()
            start = time.process_time()
            for _ in range(REPEATS):
                call()
            spent[turn, column] = (time.process_time() - start) / REPEATS * 1e3
    return np.median(spent, axis=0).round(3).tolist()


def world(seed: int) -> Planted:
    return Planted(users=4_000, items=500, rounds=25, slate=10, seed=seed, strength=2.0, effects=tuple(EFFECTS))


def measured(world: Planted, sizes: Mapping[str, RankerTrainerConfig]) -> list[dict[str, Any]]:
    """One row a size; one of them is LARGE."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        examples = Examples.of(world)
        systems = [
            served(name, config, examples, Path(folder))
            for name, config in track(sizes.items(), description="training", console=console)
        ]
        graphs = milliseconds([one.graph for one in systems])
        eagers = milliseconds([one.eager for one in systems])
    large = next(one for one in systems if one.name == LARGE)
    return [
        {
            "system": one.name,
            "parameters": one.parameters,
            "milliseconds": graph,
            "candidates_per_second": round(CANDIDATES / graph * 1e3),
            "eager_milliseconds": eager,
            "eager_candidates_per_second": round(CANDIDATES / eager * 1e3),
            "worst_share": one.share,
            "loss_over_large": round(float((one.loss / large.loss).max()), 5),
            "difference_to_eager": float(f"{one.difference:.2g}"),
        }
        for one, graph, eager in zip(systems, graphs, eagers, strict=True)
    ]


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    default = next(row for row in rows if row["system"] == DEFAULT)
    return {
        "default_cpu_ms_500_candidates": Figure(
            value=default["milliseconds"], unit="ms CPU, one thread", goal=6.0, better="lower"
        ),
        "default_loss_over_large": Figure(
            value=default["loss_over_large"], unit="expected log loss, worst objective", goal=1.005, better="lower"
        ),
        "worst_difference_to_eager": Figure(
            value=max(row["difference_to_eager"] for row in rows), unit="probability", goal=1e-5, better="lower"
        ),
    }


def table(rows: Sequence[dict[str, Any]]) -> Table:
    shown = Table(
        title=f"{CANDIDATES} candidates, one thread: what a size costs and what it is worth",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    for heading in ("ranker", "weights", "ms", "1,000/s", "eager ms", "1,000/s", "share", "loss / large"):
        shown.add_column(heading, justify="left" if heading == "ranker" else "right")
    for row in rows:
        shown.add_row(
            row["system"],
            f"{row['parameters']:,}",
            f"{row['milliseconds']:.2f}",
            f"{row['candidates_per_second'] / 1000:.0f}",
            f"{row['eager_milliseconds']:.2f}",
            f"{row['eager_candidates_per_second'] / 1000:.0f}",
            f"{row['worst_share']:.4f}",
            f"{row['loss_over_large']:.4f}",
        )
    return shown


def draw(rows: Sequence[dict[str, Any]], file: Path) -> Path:
    """The front: milliseconds against the loss."""
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.plot([row["milliseconds"] for row in rows], [row["loss_over_large"] for row in rows], "o-")
    for row in rows:
        axes.annotate(
            row["system"], (row["milliseconds"], row["loss_over_large"]), xytext=(6, 4), textcoords="offset points"
        )
    axes.axhline(1.005, linestyle=":", color="grey")
    axes.axvline(6.0, linestyle=":", color="grey")
    axes.set(xlabel=f"ms CPU for {CANDIDATES} candidates, one thread", ylabel="expected log loss / that of large")
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
    return file


def main() -> None:
    start, (seed, _) = time.perf_counter(), read(sys.argv[1:])
    rows = measured(world(seed), sizes())
    claimed = figures(rows)
    console.print(table(rows))
    print_figures(claimed)
    file = write_result("ranker_serving", rows, claimed, time.perf_counter() - start)
    console.print(f"\nresult   {file}\npicture  {draw(rows, RESULTS / 'ranker_serving.png')}")
    console.print(f"next     python -m benchmarks.claims.ranking.ranker_serving seed={seed + 1}", style="bold")


if __name__ == "__main__":
    with exit_on_error():
        main()
