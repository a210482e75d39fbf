"""`python -m recsys items`: change an item between trainings, show its columns and its history."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.bundle import Bundle
from recsys.cli.versions import login
from recsys.errors import DataError
from recsys.items.catalogue_overlay import CatalogueOverlay
from recsys.items.schema import ItemSchema
from recsys.items.store import Change, Edit, ItemStore, Position
from recsys.stages import item_names, read_overlay

items = typer.Typer(no_args_is_help=True, help="Change items between trainings, see who changed what.")
console = Console()

StorePath = Annotated[Path, typer.Option(help="folder of changed items; a server reads the one beside its bundle")]
BundlePath = Annotated[Path, typer.Option(help="folder of the bundle that says which columns there are")]
Item = Annotated[str, typer.Argument(help="id of the item, known or new")]


@items.command()
def put(
    item: Item,
    store: StorePath,
    bundle: BundlePath,
    columns: Annotated[
        list[str] | None,
        typer.Argument(
            help="column=value, read as the column's kind: a word, a number, a list in JSON; null for missing"
        ),
    ] = None,
    withdrawn: Annotated[
        bool | None, typer.Option("--withdraw/--restore", help="take it out of everything, or bring it back")
    ] = None,
    who: Annotated[str | None, typer.Option(help="who does it; else the login name")] = None,
) -> None:
    """Change columns of an item or add a new one; servers reload by themselves."""
    overlay = read_overlay(Bundle.open(bundle))
    edit = Edit(item=item, columns=dict(_column(text, overlay.schema) for text in columns or []), withdrawn=withdrawn)
    (change,) = ItemStore(store).put(overlay.schema, [edit], who=who or login())
    known = _followed(overlay, store).row_of[item] < len(overlay)
    _print_line("change", f"{change.number}: {item}, {'an item of the bundle' if known else 'a new item'}")
    _next(f"show {item} --bundle {bundle}", store)


@items.command()
def show(item: Item, store: StorePath, bundle: BundlePath) -> None:
    """Show all columns of an item with their current values."""
    overlay = _followed(read_overlay(Bundle.open(bundle)), store)
    if (row := overlay.row_of.get(item)) is None:
        raise DataError(f"neither {bundle} nor {store} has an item {item!r}; correct the id, or put it")
    for name, value in overlay.record(row).items():
        _print_line(name, json.dumps(value, ensure_ascii=False))
    _print_line("withdrawn", json.dumps(row in overlay.withdrawn))
    _next(f"history --item {item}", store)


@items.command()
def history(
    store: StorePath, item: Annotated[str | None, typer.Option(help="of one item; else of all")] = None
) -> None:
    """List the changes, newest first; older ones are merged, one per item."""
    changes = ItemStore(store).history(item)
    if not changes:
        _print_line("empty", f"nothing was changed in {store}")
        return
    console.print(_table(changes))


def names_now(bundle: Bundle, store: Path | None, title: str | None) -> dict[str, str]:
    """Return item id -> display name, for the bundle's items and later changes."""
    overlay = read_overlay(bundle)
    names = item_names(overlay.catalogue, title)
    if store is None:
        return names
    now = _followed(overlay, store)
    changed = {item: now.record(row) for item, row in now.row_of.items() if row in now.changed}
    return names | {item: record.get(title or "") or item for item, record in changed.items()}


def _followed(overlay: CatalogueOverlay, store: Path) -> CatalogueOverlay:
    changes, _ = ItemStore(store).read(Position())
    return overlay.after(changes)[0]


def _column(text: str, schema: ItemSchema) -> tuple[str, Any]:
    """Parse column=value by the kind of the column: 1984 is a word in a category column."""
    name, equals, value = text.partition("=")
    if not equals:
        raise DataError(f"{text!r} is no column=value; write for instance price=9.5")
    return name, VALUES.get(schema.kinds.get(name, ""), _from_json)(value)


def _from_json(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _word(value: str) -> str | None:
    """Read a word as typed, or as a JSON string; null is none."""
    read = _from_json(value)
    return read if read is None or isinstance(read, str) else value


def _words(value: str) -> Any:
    """Read a JSON list, numbers kept as typed, or a single word."""
    try:
        read = json.loads(value, parse_int=str, parse_float=str, parse_constant=str)
    except ValueError:
        return [value]
    return read if read is None or isinstance(read, list) else [_word(value)]


VALUES: dict[str, Callable[[str], Any]] = {"category": _word, "categories": _words}
"""kind of a column -> parser of its values; other kinds are JSON"""


def _table(changes: Sequence[Change]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("number", "item", "when (UTC)", "who", "what"):
        table.add_column(heading, no_wrap=heading in ("number", "when (UTC)"), overflow="fold")
    for change in reversed(changes):
        when = change.when.replace("T", " ")[:16]
        table.add_row(*map(Text, (str(change.number), change.item, when, change.who, _change_text(change))))
    return table


def _change_text(change: Change) -> str:
    parts = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in change.columns.items()]
    if change.withdrawn is not None:
        parts.append("withdrawn" if change.withdrawn else "restored")
    return ", ".join(parts) or "named"


def _print_line(word: str, sentence: str) -> None:
    console.print(Text(f"{word:<9}{'' if len(word) < 9 else ' '}{sentence}"), soft_wrap=True)


def _next(command: str, store: Path) -> None:
    console.print(Text(f"next     python -m recsys items {command} --store {store}"), style="bold", soft_wrap=True)
