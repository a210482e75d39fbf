"""Every protocol and every shipped recipe on every tiny world: a bundle that serves, or one sentence.

    python -m benchmarks.claims.data.tiny_worlds                        all, goes on where it stopped
    python -m benchmarks.claims.data.tiny_worlds one_user crawler       some
    python -m benchmarks.claims.data.tiny_worlds --again                anew
    python -m benchmarks.claims.data.tiny_worlds --eager                no exported graphs, no pictures: eight times as fast

A cell of the table is "serves" (the bundle answered a known and an unknown user with finite scores, and no published figure
is NaN), "refused" (one sentence) or "FAILED". Epochs are cut to one, everything else is as the recipes have it.
Writes benchmarks/results/tiny_worlds.json.
"""

import json
import math
import shutil
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.table import Table

from benchmarks.lib.eager_graphs import eager_graphs
from benchmarks.lib.result_file import ROOT, Figure, console, print_figures, write_result
from benchmarks.lib.tiny_world_logs import WORLDS, publish_split
from recsys.bundle import Bundle
from recsys.cli.experiment import build
from recsys.contracts import Query
from recsys.data.dataset import DESCRIPTION_FILE
from recsys.data.sources.tables import Tables
from recsys.data.splits import whole
from recsys.errors import RecsysError, sentence_of
from recsys.pipeline import recommend
from recsys.replay.replay import Replay
from recsys.stages import load_stages

RUNS = ROOT / "runs" / "tiny_worlds"
PROTOCOLS = ("global_time", "leave_one_out", "random", "predefined")
RECIPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "movielens_100k_sets": ("recipe=movielens_100k_sets",),
    "sequence": ("recipe=sequence", "retrieval.members=1"),
    "synthetic": ("recipe=synthetic", "features.leave_out=[]"),
    "movielens_100k": ("ranking.sampling.requests_per_user=1",),
}
"""recipe -> what of it fits own tables; rules over columns of one data set do not"""
CUT = ("retrieval.epochs=1", "trainer.progress=false", "trainer.threads=1", "logger=csv")
SERVES, REFUSED, FAILED = "serves", "refused", "FAILED"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The outcome of one world, protocol and recipe."""

    outcome: str
    reason: str
    seconds: float


def attempt(world: str, protocol: str, recipe: str, folder: Path, cut: Sequence[str] = CUT) -> Cell:
    """Train, load and ask once in this process."""
    started = time.perf_counter()
    try:
        description = WORLDS[world](folder / "tables")
        if protocol == "predefined":
            publish_split(description)
        ranked = () if recipe == "movielens_100k_sets" else ("ranking.epochs=1",)
        overrides = [*RECIPES[recipe], "data=tables", f"data.description={description}", f"protocol={protocol}"]
        bundle = _trained([*overrides, *ranked, *cut], folder / "run")
        outcome, reason = SERVES, _asked(bundle, folder / "run")
        if reason:
            outcome = FAILED
    except Exception as error:
        sentence = sentence_of(error) if _ours(error) else None
        outcome, reason = (FAILED, traceback.format_exc()) if sentence is None else (REFUSED, sentence)
    return Cell(outcome=outcome, reason=reason, seconds=round(time.perf_counter() - started, 1))


def _ours(error: BaseException | None) -> bool:
    """Whether an error, or a cause of it, is one that a person can mend; a misspelt override of this file is not."""
    return error is not None and (isinstance(error, RecsysError) or _ours(error.__cause__ or error.__context__))


def _trained(overrides: Sequence[str], run_dir: Path) -> Bundle:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", overrides=[*overrides, f"run_dir={run_dir}"])
    resolved: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build(config).run(run_dir, resolved, echo=lambda _: None)[1]


def _asked(bundle: Bundle, run: Path) -> str:
    """What is wrong with the answers to a known and an unknown user and with the published figures; "" if nothing is."""
    dataset = Tables(description=str(run / "data" / DESCRIPTION_FILE)).load()
    replay = Replay(dataset, whole(dataset))
    now = float(replay.timestamps.max())
    known = replay.latest(str(replay.names[0]), now, k=5)
    slates = recommend([known, Query(user="nobody", now=now, k=5)], load_stages(bundle))
    scores = [item.utility for slate in slates for item in slate.items]
    if not all(map(math.isfinite, scores)):
        return f"scores of a slate are {scores}"
    if not slates[1].items:
        return "a stranger gets an empty slate"
    document = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    strange = [path for path, value in _numbers(document, "metrics") if not math.isfinite(value)]
    return f"{strange[0]} is no number" if strange else ""


def _numbers(document: Any, path: str) -> Iterable[tuple[str, float]]:
    if isinstance(document, Mapping):
        for name, part in document.items():
            yield from _numbers(part, f"{path}.{name}")
    elif isinstance(document, list):
        for part in document:
            yield from _numbers(part, path)
    elif isinstance(document, float):
        yield path, document


def sweep(worlds: Sequence[str], again: bool, eager: bool) -> dict[str, Cell]:
    """Every cell, from its file where there is one; says how long the rest will take."""
    names = [(world, protocol, recipe) for recipe in RECIPES for world in worlds for protocol in PROTOCOLS]
    found: dict[str, Cell] = {}
    spent, done = 0.0, 0
    for number, (world, protocol, recipe) in enumerate(names):
        folder = RUNS / ("eager" if eager else "graphs") / world / protocol / recipe
        file = folder / "cell.json"
        if again or not file.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            with eager_graphs() if eager else nullcontext():
                cell = attempt(world, protocol, recipe, folder)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            file.write_text(json.dumps(vars(cell)), encoding="utf-8")
            spent, done = spent + cell.seconds, done + 1
            left = spent / done * (len(names) - number - 1) / 60
            last = cell.reason.strip().split("\n")[-1]
            console.print(
                f"{number + 1}/{len(names)}, {left:.0f} min left: {world} {protocol} {recipe}: {cell.outcome} {last}",
                markup=False,
            )
        found[f"{world} {protocol} {recipe}"] = Cell(**json.loads(file.read_text(encoding="utf-8")))
    return found


def table(worlds: Sequence[str], cells: Mapping[str, Cell]) -> Table:
    """Worlds as rows, protocols as columns: how many of the recipes had which outcome."""
    shown = Table(title="Recipes by outcome")
    for heading in ("world", *PROTOCOLS):
        shown.add_column(heading)
    for world in worlds:
        counts = [Counter(cells[f"{world} {one} {recipe}"].outcome for recipe in RECIPES) for one in PROTOCOLS]
        shown.add_row(world, *(", ".join(f"{num} {name}" for name, num in sorted(one.items())) for one in counts))
    return shown


def main() -> None:
    started = time.perf_counter()
    again, eager = "--again" in sys.argv, "--eager" in sys.argv
    worlds = [name for name in sys.argv[1:] if not name.startswith("--")] or list(WORLDS)
    if strange := [name for name in worlds if name not in WORLDS]:
        raise SystemExit(f"there is no world {strange[0]!r}; choose of {', '.join(WORLDS)}")
    cells = sweep(worlds, again, eager)
    console.print(table(worlds, cells))
    for reason, names in _reasons(cells).items():
        console.print(
            f"{len(names)} x {reason}\n    {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}", markup=False
        )
    failed = sum(cell.outcome == FAILED for cell in cells.values())
    figures = {"runs that failed": Figure(value=failed, unit="runs", goal=0, better="lower")}
    figures["runs"] = Figure(value=len(cells), unit="runs", goal=len(cells), better="higher")
    print_figures(figures)
    if len(worlds) == len(WORLDS):
        rows = [
            {
                "run": name,
                "outcome": cell.outcome,
                "reason": cell.reason.strip().split("\n")[-1].replace(f"{ROOT}/", ""),
            }
            for name, cell in cells.items()
        ]
        console.print(write_result("tiny_worlds", rows, figures, time.perf_counter() - started))
    sys.exit(1 if failed else 0)


def _reasons(cells: Mapping[str, Cell]) -> dict[str, list[str]]:
    """Sentence or last line of a traceback -> the runs that ended with it."""
    found: dict[str, list[str]] = {}
    for name, cell in cells.items():
        if cell.outcome != SERVES:
            found.setdefault(f"{cell.outcome}: {cell.reason.strip().splitlines()[-1]}", []).append(name)
    return found


if __name__ == "__main__":
    main()
