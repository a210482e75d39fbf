"""`python -m recsys data`: propose a description of files, and check a described log before training."""

import json
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from recsys.cli.data_page import page
from recsys.cli.data_report import Chapter, chapters
from recsys.data.inspection.advice import Advice, advise, next_command
from recsys.data.inspection.findings import Findings, find
from recsys.data.inspection.proposal import propose
from recsys.data.inspection.written import written
from recsys.data.sources.tables import Tables
from recsys.errors import DataError
from recsys.stores.atomic_files import atomic_file
from recsys.training.footprint import GIB, Footprint, LogSize, estimate, machine_gib

data = typer.Typer(no_args_is_help=True, help="Describe the files of a shop, and look at them before training.")
console = Console()


@data.command()
def init(
    files: Annotated[list[Path], typer.Argument(help="one to three files: interactions, items, users, in any order")],
    out: Annotated[Path, typer.Option(help="the YAML file to write")] = Path("shop.yaml"),
    force: Annotated[bool, typer.Option("--force", help="write over a file that is there")] = False,
) -> None:
    """Propose a description of files by inspecting them; comments give reasons and uncertainties."""
    if out.exists() and not force:
        raise DataError(f"{out} is there already; name another file by --out, or write over it by --force")
    proposal = propose(files, out.parent)
    command = f"python -m recsys data init {shlex.join(map(str, files))}"
    with atomic_file(out) as draft:
        draft.write_text(written(proposal, command), encoding="utf-8")
    text = out.read_text(encoding="utf-8")
    console.print(Text(text), soft_wrap=True)
    console.print(Text(f"wrote    {out}; lines that say UNSURE: {text.count('UNSURE') - 1}"), soft_wrap=True)
    if (mistake := _mistake(out)) is not None:
        console.print(Text(f"mend     {mistake}"), style="yellow", soft_wrap=True)
    _next(f"python -m recsys data check {shlex.quote(str(out))}")


def _mistake(description: Path) -> str | None:
    """Return the error that refuses the log as described, None where it is valid."""
    try:
        Tables(description=str(description)).load()
    except DataError as error:
        return str(error)
    return None


@data.command()
def check(
    description: Annotated[Path, typer.Argument(help="the YAML file that describes the log")],
    html: Annotated[Path | None, typer.Option(help="also write one HTML page with plots")] = None,
    figures: Annotated[Path | None, typer.Option("--json", help="also write all figures and warnings as JSON")] = None,
) -> None:
    """Report what a training on this log will meet, and what to correct before it."""
    for option, file in (("--html", html), ("--json", figures)):
        if file is not None and file.is_dir():
            raise DataError(f"{option} {file} is a folder; give the name of a file")
    findings = find(*Tables(description=str(description)).read(), now=time.time())
    footprint = footprint_of(findings)
    found, advice = tuple(chapters(findings, footprint)), (*_too_large(footprint), *advise(findings))
    command = next_command(findings, str(description))
    _print(findings, found, advice)
    if html is not None:
        _write("page", html, page(findings.name, found, advice, command))
    if figures is not None:
        document = asdict(findings) | {"advice": [asdict(one) for one in advice], "next": command}
        _write("figures", figures, json.dumps(document, indent=1, ensure_ascii=False))
    _next(command)


def _write(name: str, file: Path, text: str) -> None:
    with atomic_file(file) as draft:
        draft.write_text(text, encoding="utf-8")
    console.print(Text(f"{name:8} {file}"), soft_wrap=True)


def footprint_of(findings: Findings) -> Footprint:
    """Return the resource estimate of a training with the defaults."""
    users, items = (findings.activity_of(key) for key in ("user", "item"))
    return estimate(
        LogSize(
            events=findings.events,
            users=users.count,
            items=items.count,
            longest=users.quantiles[1.0],
            objectives=len(findings.objectives),
        )
    )


def _too_large(footprint: Footprint) -> Iterator[Advice]:
    if footprint.peak_bytes > machine_gib() * GIB:
        yield Advice(
            level="warning",
            text=f"a training is estimated to take {footprint}, this machine has {machine_gib():.1f} GiB: it is refused before "
            f"it begins; take a larger machine, newer events, or set {footprint.heaviest} smaller",
        )


def _print(findings: Findings, found: tuple[Chapter, ...], advice: tuple[Advice, ...]) -> None:
    for chapter in found:
        console.print(chapter.table())
        for chart in chapter.charts:
            console.print(Text(f"  {chart.title}, at most {max(chart.counts):,}"), style="dim")
            console.print(Text(f"  {chart.line()}"), no_wrap=True)
            console.print(Text(f"  {chart.labels[0]} to {chart.labels[-1]}\n"), style="dim")
    for note in findings.notes:
        console.print(Text(f"read     {note}"))
    for one in advice:
        console.print(Text(f"{one.level:8} {one.text}"), style="yellow" if one.level == "warning" else "")
    if not advice:
        console.print("no problem was found")


def _next(command: str) -> None:
    console.print(Text(f"next     {command}"), style="bold", soft_wrap=True)
