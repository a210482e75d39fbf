"""`recsys compare`: the configurations of a sweep in one table, by their figures on VALIDATION."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recsys.commands import command_of
from recsys.errors import DataError
from recsys.evaluation.comparison import Comparison
from recsys.evaluation.wide_table import WideTable
from recsys.stores.atomic_files import atomic_file, write_atomically
from recsys.training.sweeps import command_for_test, compare_jobs

TABLE, PICTURE = "comparison.json", "comparison.png"


def compare(
    folder: Annotated[Path, typer.Argument(help="folder of a sweep, also of one that is running")],
) -> Comparison:
    """Compare the jobs of a sweep as far as they have ended, and name the command that evaluates the best one on TEST."""
    comparison, console = compare_jobs(folder), Console()
    if not comparison.configurations and not comparison.failures:
        raise DataError(f"{folder} holds no job of a sweep; give the folder that train.py -m printed (hydra.sweep.dir)")
    write_atomically(folder / TABLE, json.dumps(comparison.to_document(), indent=1, allow_nan=False).encode())
    console.print(WideTable(comparison.table()))
    console.print(f"table    {folder / TABLE}", soft_wrap=True)
    if comparison.configurations:
        with atomic_file(folder / PICTURE) as draft:
            comparison.draw(draft)
        console.print(f"picture  {folder / PICTURE}", soft_wrap=True)
    if comparison.failures:
        total = len(comparison.failures) + sum(len(one.jobs) for one in comparison.configurations)
        console.print(f"{len(comparison.failures)} of {total} jobs failed", style="bold red")
    if comparison.best is not None:
        for job in comparison.best.jobs:
            command = f"{command_of('train')} {shlex.join(command_for_test(folder / job))}"
            console.print(f"next     {command}", style="bold", soft_wrap=True, markup=False, highlight=False)
    return comparison
