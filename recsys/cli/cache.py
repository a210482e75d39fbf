"""`recsys cache`: list the results of training stages that are kept between runs, and remove them."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from recsys.cache.stage_cache import GIB, Entry, StageCache, remove
from recsys.errors import DataError

cache = typer.Typer(no_args_is_help=True, help="Results of training stages that runs and jobs of a sweep share.")
console = Console()
DAY_S = 86_400.0
Folder = Annotated[
    Path, typer.Option(help="folder of the results, cache.folder of the runs", envvar="RECSYS_CACHE", show_envvar=True)
]
DEFAULT_FOLDER = Path("runs/stages")


@cache.command("list")
def list_results(folder: Folder = DEFAULT_FOLDER) -> None:
    """List how many results of each stage are kept, their size, their age and the seconds that computing them took."""
    entries = _entries(folder)
    table = Table(box=box.SIMPLE_HEAD, title=str(folder), title_justify="left")
    for name in ("stage", "results", "MiB", "seconds", "unused for days"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in sorted({one.stage for one in entries}):
        of_stage = [one for one in entries if one.stage == stage]
        table.add_row(stage, *_figures(of_stage))
    table.add_row("all", *_figures(entries), style="bold")
    console.print(table)
    console.print("next     python -m recsys cache prune --days 30", style="bold")


@cache.command()
def prune(
    folder: Folder = DEFAULT_FOLDER,
    days: Annotated[float, typer.Option(min=0.0, help="remove results that were not used for so many days")] = 30.0,
    stage: Annotated[str | None, typer.Option(help="of this stage alone")] = None,
) -> None:
    """Remove results that were not used for some days; --days 0 removes all. Runs compute them again."""
    entries, now = _entries(folder), time.time()
    stages = {one.stage for one in entries}
    if stage is not None and stage not in stages:
        raise DataError(f"{folder} holds no results of a stage {stage!r}; choose one of {', '.join(sorted(stages))}")
    old = [one for one in entries if stage in (None, one.stage) and now - one.used >= days * DAY_S]
    for one in old:
        remove(one)
    console.print(f"removed {len(old)} of {len(entries)} results, {_mib(old)} MiB")


def _entries(folder: Path) -> list[Entry]:
    if not (entries := StageCache(folder=os.fspath(folder), max_gib=1.0).entries()):
        raise DataError(f"{folder} holds no results of stages; give --folder, the cache.folder of your runs")
    return entries


def _figures(entries: list[Entry]) -> tuple[str, ...]:
    unused = min((time.time() - one.used) / DAY_S for one in entries)
    return f"{len(entries):,}", _mib(entries), f"{sum(one.seconds for one in entries):,.0f}", f"{unused:.1f}"


def _mib(entries: list[Entry]) -> str:
    return f"{sum(one.num_bytes for one in entries) / GIB * 1024:,.1f}"
