"""The ranker on a CUDA device: requests a second with a hundred million items, and whether bfloat16 learns as much.

Speed: the default ranker of conf/ranking, a table of 100M rows of 32 numbers for the ids of items, 64 requests of 200
candidates and 50 events, all ids drawn anew in every step; rows moved by row-wise Adagrad as they are met, in float32 and
bfloat16, as written and by torch.compile, beside a dense table under AdamW. Parity: the planted world, where the truth is
known, learnt in float32 and in bfloat16. Without a device it says that it measured nothing. Writes
benchmarks/results/ranker_device.json.

`python ranker_device.py small` has a table of 100,000 rows, which a CPU can move too.
"""

import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from rich import box
from rich.table import Table as Shown
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.claims.ranking.ranker_truth import CONFIG
from benchmarks.lib.ranker_peers import DEFAULT, model_of
from benchmarks.lib.ranker_world import Examples, log_loss, trained
from benchmarks.lib.result_file import ROOT, Figure, console, print_figures, write_result
from recsys.data.sources.planted import EFFECTS, Planted
from recsys.errors import ConfigError, exit_on_error
from recsys.features.spec import MISSING, TIME_NUMBERS, Column, FeatureSpec, TableSpec
from recsys.graphs.export import random_inputs
from recsys.nn import sparse_embedding as sparse
from recsys.nn.sparse_embedding import dense_parameters, sparse_tables
from recsys.ranking.losses import BinaryCrossEntropy, ListNet, masked_bce
from recsys.ranking.model import RankerModel, RankerSizes
from recsys.stages import ranker_inputs
from recsys.training.fit_callbacks import matmul_flops
from recsys.training.optimizers import DEFAULT_OPTIMIZER
from recsys.training.ranking import RankerTrainerConfig
from recsys.training.ranking_examples import ExampleSampling
from recsys.training.schedules import DEFAULT_SCHEDULE
from recsys.training.trainer import cpu_trainer

ITEMS, FEW_ITEMS = 100_000_000, 100_000
REQUESTS, CANDIDATES, HISTORY, SOURCES = 64, 200, 50, 5
WARM, STEPS = 5, 30
RATE = 1e-3
PARITY = 1.001
SEEDS = range(5)
PRECISIONS = ("32-true", "bf16-mixed")
ROW_WISE, DENSE = "row-wise Adagrad", "dense AdamW"
OWN_CHOICES = ("defaults", "_target_", "model", "pointwise", "loss", "sizes", "sampling", "optimizer", "scheduler")
"""keys of ranking that are objects of their own"""
WAYS = (
    (ROW_WISE, "32-true", False),
    (ROW_WISE, "bf16-mixed", False),
    (ROW_WISE, "bf16-mixed", True),
    (DENSE, "bf16-mixed", False),
)
"""optimiser of the table, precision, compiled"""
NO_DEVICE = "no CUDA device"

Row = dict[str, Any]
Batch = dict[str, torch.Tensor]


def spec_of(num_items: int) -> FeatureSpec:
    """An id, a category and a price; one objective more than one."""
    ids: Any = range(num_items)
    category = tuple(map(str, range(1_000)))
    return FeatureSpec(
        items=TableSpec(
            name="items",
            columns=(
                Column(name="item", kind="category", vocabulary=ids),
                Column(name="category", kind="category", vocabulary=category),
                Column(name="price", kind="number"),
            ),
        ),
        profile=TableSpec(name="profile", columns=(Column(name="segment", kind="category", vocabulary=category),)),
        context=TableSpec(name="context", columns=(), extra_numbers=TIME_NUMBERS),
        history_length=HISTORY,
        actions={"click": "number", "buy": "number"},
        objectives={"click": "click", "buy": "buy"},
        target="click",
    )


class Drawn:
    """Batches of nothing but chance, made on the device."""

    def __init__(self, spec: FeatureSpec, device: str) -> None:
        self.fixed = {
            name: torch.from_numpy(array).to(device)
            for name, array in random_inputs(ranker_inputs(spec, SOURCES), REQUESTS, CANDIDATES).items()
        }
        self.num_ids = [column.num_ids for column in spec.items.of_kind("category")]
        self.labels = (torch.rand(REQUESTS, CANDIDATES, spec.num_objectives, device=device) < 0.1).float()
        self.mask = torch.ones(REQUESTS, CANDIDATES, dtype=torch.bool, device=device)

    def batch(self) -> Batch:
        return {**self.fixed, **{name: self._ids(self.fixed[name]) for name in ("candidate_ids", "history_ids")}}

    def _ids(self, like: torch.Tensor) -> torch.Tensor:
        columns = [torch.randint(MISSING + 1, num, like.shape[:-1], device=like.device) for num in self.num_ids]
        return torch.stack(columns, dim=-1)


def steps_of(ranker: RankerModel, drawn: Drawn, precision: str, *, compiled: bool) -> Callable[[], object]:
    """One training step."""
    device = drawn.mask.device.type
    optimiser = torch.optim.AdamW(dense_parameters(ranker), lr=RATE, fused=True)
    for table in sparse_tables(ranker):
        table.rate = RATE  # type: ignore[assignment]
    bf16 = "bf16" in precision

    def loss_of(batch: Batch) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16) if bf16 else nullcontext():
            return masked_bce(ranker(batch), drawn.labels, drawn.mask).sum()

    forward = torch.compile(loss_of) if compiled else loss_of

    def step() -> None:
        forward(drawn.batch()).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def _keys(called: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in called.items() if key != "_target_"}


def speed(num_items: int, device: str) -> Iterator[Row]:
    """One row for every way to train."""
    conf: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / "ranking" / "multi_objective.yaml"))
    settings = RankerTrainerConfig(
        **{key: value for key, value in conf.items() if key not in OWN_CHOICES},
        sizes=RankerSizes(**_keys(conf["sizes"])),
        sampling=ExampleSampling(**_keys(conf["sampling"])),
        pointwise=BinaryCrossEntropy(),
        loss=ListNet(),
        model=model_of(DEFAULT),
        optimizer=DEFAULT_OPTIMIZER,
        scheduler=DEFAULT_SCHEDULE,
    )
    spec = spec_of(num_items)
    drawn = Drawn(spec, device)
    for name, precision, compiled in WAYS:
        if device == "cpu" and compiled:
            continue
        system = f"{name}, {precision}{', compiled' if compiled else ''}"
        sparse.SPARSE_THRESHOLD_ROWS = FEW_ITEMS if name == ROW_WISE else sys.maxsize
        with torch.device(device):
            ranker = settings.ranker(spec, drawn.fixed["candidate_scores"].shape[-1], (None, None))
        with FlopCounterMode(display=False) as counter:
            steps_of(ranker.train(), drawn, precision, compiled=False)()
        seconds, peak = timed(steps_of(ranker, drawn, precision, compiled=compiled), device)
        used = counter.get_total_flops() / seconds / matmul_flops(torch.device(device), precision)
        console.print(f"{system}: {seconds * 1e3:.1f} ms a step")
        yield {
            "system": system,
            "items": num_items,
            "step_ms": round(seconds * 1e3, 2),
            "requests_per_second": round(REQUESTS / seconds),
            "candidates_per_second": round(REQUESTS * CANDIDATES / seconds),
            "mfu": float(f"{used:.2g}"),
            "peak_gib": round(peak / 2**30, 1),
        }
        del ranker
        gc.collect()  # its hooks hold the table, which hold its hooks


def timed(step: Callable[[], object], device: str) -> tuple[float, int]:
    """Seconds a step, and bytes at the peak."""
    for _ in range(WARM):
        step()
    _wait(device)
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    _wait(device)
    seconds = (time.perf_counter() - start) / STEPS
    if device == "cpu":
        return seconds, 0
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return seconds, peak


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def parity(accelerator: str) -> list[Row]:
    """Expected log loss on the planted test after training in either precision, means over seeds."""
    jobs = list(product(PRECISIONS, SEEDS))
    workers = min(os.cpu_count() or 1, len(jobs))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        learnt = np.stack(list(pool.map(partial(learnt_in, accelerator), *zip(*jobs, strict=True))))
    losses = learnt.reshape(len(PRECISIONS), len(SEEDS), -1)
    exact, rough = losses.mean(1)
    return [
        {
            "system": f"planted world, {name}",
            "log_loss": own.mean(0).round(5).tolist(),
            "standard_error": (own.std(0, ddof=1) / len(SEEDS) ** 0.5).round(5).tolist(),
            "over_float32": round(float((rough / exact).max()), 5),
        }
        for name, own in zip(PRECISIONS, losses, strict=True)
    ]


def learnt_in(accelerator: str, precision: str, seed: int) -> np.ndarray:
    """[T] expected log loss that training ends with."""
    world = Planted(users=2_000, items=500, rounds=25, slate=10, seed=0, strength=2.0, effects=tuple(EFFECTS))
    examples = Examples.of(world)
    loop = cpu_trainer(accelerator=accelerator, precision=precision, threads=1)
    fitted = trained(CONFIG, examples.spec, examples.items, examples.train, examples.valid, seed=seed, loop=loop)
    return log_loss(examples.probabilities, fitted.probabilities(examples.items, examples.test).astype(float))


def figures(rows: list[Row]) -> dict[str, Figure]:
    own = [one for one in rows if one["system"].startswith(ROW_WISE)]
    ratios = [one["over_float32"] for one in rows if "over_float32" in one]
    return {
        "requests_per_second_100m_rows": Figure(
            value=max((one["requests_per_second"] for one in own), default=None),
            unit=f"requests of {CANDIDATES} candidates a second in training",
            goal=1_000,
            better="higher",
        ),
        "bf16_loss_over_float32": Figure(
            value=max(ratios, default=None), unit="expected log loss, worst objective", goal=PARITY, better="lower"
        ),
    }


def table(rows: list[Row]) -> Shown:
    shown = Shown(title="The ranker on a device", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("", "ms a step", "requests/s", "MFU", "peak GiB", "loss over float32"):
        shown.add_column(heading, justify="right" if heading else "left")
    for row in rows:
        cells = [row.get(name, "") for name in ("step_ms", "requests_per_second", "mfu", "peak_gib", "over_float32")]
        shown.add_row(row["system"], *map(str, cells))
    return shown


def main() -> None:
    start, small = time.perf_counter(), sys.argv[1:] == ["small"]
    if sys.argv[1:] and not small:
        raise ConfigError(f"ranker_device.py knows no {' '.join(sys.argv[1:])!r}; give small or nothing")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not small:
        rows: list[Row] = [{"system": "ranker on CUDA", "skipped": NO_DEVICE}]
        claimed = figures([])
    else:
        rows = [*speed(FEW_ITEMS if small else ITEMS, device), *parity(device)]
        claimed = figures(rows)
    console.print(table(rows))
    print_figures(claimed)
    if not small:
        console.print(f"\nresult   {write_result('ranker_device', rows, claimed, time.perf_counter() - start)}")
    console.print("next     python -m benchmarks.claims.ranking.ranker_serving", style="bold")


if __name__ == "__main__":
    with exit_on_error():
        main()
