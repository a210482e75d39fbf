"""`python -m recsys consistency`: logged requests answered again, and why some slates differ from those that were served."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from recsys.bundle import Bundle
from recsys.measurement.consistency import COMPARED, FALLBACK, RELEASE, Consistency, LogReplay, served_slates
from recsys.stores.atomic_files import atomic_file

console = Console()


def consistency(
    log: Annotated[Path, typer.Argument(help="folder of the event log, live/events of a deployment")],
    bundle: Annotated[Path, typer.Option(help="folder of the bundle that served it")],
    store: Annotated[Path | None, typer.Option(help="folder of published rules; else the bundle's own rules")] = None,
    items: Annotated[Path | None, typer.Option(help="folder of changed items; else the bundle's own items")] = None,
    requests: Annotated[int, typer.Option(min=1, help="logged requests, at most, always the same of a log")] = 1_000,
    days: Annotated[
        int | None, typer.Option(min=1, help="newest days of the log that they come from; else all")
    ] = None,
    limit: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="share of unexplained differences that is accepted")
    ] = 0.0,
    out: Annotated[Path | None, typer.Option(help="JSON file for the result, with examples")] = None,
) -> None:
    """Answer logged requests again in this process; exit code 1 where more slates differ without a cause than accepted."""
    opened = Bundle.open(bundle)
    served = served_slates(log, requests, days, opened.fingerprint)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("requests answered again")
        found = LogReplay(bundle=opened, rules_store=store, items_store=items).of(
            served, lambda done, total, _: progress.update(task, completed=done, total=total)
        )
    console.print(table(found))
    console.print(
        f"{found.compared:,} of {len(served):,} slates compared, {found.unexplained:.2%} differ without a known cause, "
        f"utilities by {found.largest:.1e} at most",
        soft_wrap=True,
    )
    if out is not None:
        with atomic_file(out) as draft:
            draft.write_text(json.dumps(found.to_document(), indent=1), encoding="utf-8")
        console.print(Text(f"result   {out}"), soft_wrap=True)
    if found.unexplained > limit:
        first = next(one["id"] for one in found.examples if one["cause"] == "unexplained")
        console.print(Text(f"not consistent, for example request {first}"), style="bold red", soft_wrap=True)
        raise typer.Exit(1)
    command = f"python -m recsys measure {shlex.quote(str(log))} --data description.yaml"
    console.print(Text(f"next     {command}"), style="bold", soft_wrap=True)


def table(found: Consistency) -> Table:
    """Number of slates by cause."""
    shown = Table(title="Served slates answered again", box=box.SIMPLE_HEAD, title_justify="left")
    shown.add_column("cause")
    shown.add_column("slates", justify="right")
    shown.add_column("share", justify="right")
    total = max(1, sum(found.causes.values()))
    for cause in (*COMPARED, RELEASE, FALLBACK):
        if number := found.causes.get(cause, 0):
            shown.add_row(cause, f"{number:,}", f"{number / total:.2%}")
    return shown
