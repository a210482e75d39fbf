"""`python -m serving releases`: list and remove the releases of a serve folder, while stacks run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from recsys.errors import ServingError
from recsys.export.releases import Release, list_releases, prune_releases
from serving.cli.options import Serve, layout_of
from serving.disk import MIB
from serving.gateway.api_keys import utc_text

releases = typer.Typer(no_args_is_help=True, help="List and remove the releases of a serve folder.")
console = Console()


@releases.command("list")
def list_(serve: Serve) -> None:
    """List all releases, newest first: size, time of the export, whether it is the current one or served now."""
    folder = layout_of(serve, None).serve
    with _one_sentence(folder):
        console.print(_table([("", one) for one in list_releases(folder)]))


@releases.command()
def prune(
    serve: Serve,
    keep: Annotated[int, typer.Option(min=1, help="number of the newest releases that stay")],
) -> None:
    """Remove old releases. The current one stays, and so does one that a process of this machine serves."""
    folder = layout_of(serve, None).serve
    with _one_sentence(folder):
        found = list_releases(folder)
        removed = {one.path for one in prune_releases(folder, keep)}
    console.print(_table([("removed" if one.path in removed else "kept", one) for one in found]))


@contextmanager
def _one_sentence(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ServingError(f"the releases of {folder} cannot be read or removed: {error.strerror}") from None


def _table(rows: list[tuple[str, Release]]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for outcome, one in rows:
        marks = [word for word, holds in (("current", one.current), ("served now", one.served)) if holds]
        size = f"{one.num_bytes / MIB:,.1f} MiB"
        table.add_row(*filter(None, [outcome]), one.path.name, size, utc_text(one.exported), ", ".join(marks))
    return table
