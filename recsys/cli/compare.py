"""`recsys compare`: the configurations of a sweep in one table, by their figures on VALIDATION."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recsys.cli.best import write_best
from recsys.commands import command_of
from recsys.errors import DataError
from recsys.evaluation.comparison import Comparison
from recsys.evaluation.wide_table import WideTable
from recsys.stores.atomic_files import atomic_file, write_atomically
from recsys.training.sweeps import command_for_test, compare_jobs

TABLE, PICTURE, FRONT = "comparison.json", "comparison.png", "pareto.png"


def compare(
    folder: Annotated[Path, typer.Argument(help="folder of a sweep, also of one that is running")],
) -> Comparison:
    """Compare the jobs of a sweep as far as they have ended, and name the command that evaluates the best one on TEST."""
    comparison, console = compare_jobs(folder), Console()
    if not (comparison.configurations or comparison.failures or comparison.pruned):
        raise DataError(f"{folder} holds no job of a sweep; give the folder that train.py -m printed (hydra.sweep.dir)")
    write_atomically(folder / TABLE, json.dumps(comparison.to_document(), indent=1, allow_nan=False).encode())
    console.print(WideTable(comparison.table()))
    console.print(f"table    {folder / TABLE}", soft_wrap=True)
    if comparison.configurations:
        _draw(console, folder / PICTURE, comparison.draw)
    if comparison.comparable and comparison.configurations and len(comparison.configurations[0].goals) > 1:
        _draw(console, folder / FRONT, comparison.draw_front)
    if comparison.failures:
        finished = sum(len(one.jobs) for one in comparison.configurations)
        total = len(comparison.failures) + len(comparison.pruned) + finished
        console.print(f"{len(comparison.failures)} of {total} jobs failed", style="bold red")
    _print_choice(console, comparison, folder)
    return comparison


def _print_choice(console: Console, comparison: Comparison, folder: Path) -> None:
    """Print the commands for the best configuration, and write its file."""
    if comparison.best is None:
        if comparison.comparable and comparison.configurations:
            console.print("no configuration is within the budget: none is chosen", style="bold red")
        return
    for job in comparison.best.jobs:
        _print_command(console, "next", f"{command_of('train')} {shlex.join(command_for_test(folder / job))}")
    title = f"{comparison.best.label}: {comparison.metric} {comparison.best.mean:.4f} on {comparison.protocol}"
    _print_command(console, "best", write_best(folder / comparison.best.jobs[0], folder, title))


def _draw(console: Console, picture: Path, draw: Callable[[Path], None]) -> None:
    with atomic_file(picture) as draft:
        draw(draft)
    console.print(f"picture  {picture}", soft_wrap=True)


def _print_command(console: Console, use: str, command: str) -> None:
    console.print(f"{use:<9}{command}", style="bold", soft_wrap=True, markup=False, highlight=False)
