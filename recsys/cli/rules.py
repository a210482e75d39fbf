"""`python -m recsys rules`: publish rules, see who changed what, go back.

Other commands join by `rules.command("name")(function)` in recsys.cli.main.
"""

import getpass
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.bundle import Bundle
from recsys.cli.rules_check import catalogue_of
from recsys.errors import ConfigError
from recsys.policy.rules.audit import RuleVersion
from recsys.policy.rules.lint import check
from recsys.policy.rules.rule_diff import RuleDiff
from recsys.policy.rules.rule_set import RuleSet, read_text
from recsys.policy.rules.store import RuleStore

rules = typer.Typer(no_args_is_help=True, help="Publish rules, see who changed what, go back.")
console = Console()
COLOURS = {"+": "green", "-": "red", "@": "cyan"}

StorePath = Annotated[Path, typer.Option(help="folder of published rules; a server reads the one beside its bundle")]
Who = Annotated[str | None, typer.Option(help="who does it; else the login name")]
Why = Annotated[str, typer.Option(help="one line for the audit log")]
Key = Annotated[Path | None, typer.Option(help="file of the Ed25519 private key that signs it")]
From = Annotated[str | None, typer.Option("--from", help="version that you started from; refused if it serves no more")]


@rules.command()
def publish(
    file: Annotated[Path, typer.Argument(help="rule set, YAML")],
    store: StorePath,
    why: Why,
    who: Who = None,
    started: From = None,
    bundle: Annotated[
        Path | None, typer.Option(help="refuse rules that do not fit the catalogue of this bundle")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="what the dry run said, JSON; kept beside the rules")] = None,
    key: Key = None,
) -> None:
    """Publish a rule file as the current version."""
    rule_set = RuleSet.read(file)
    if bundle is not None:
        _refuse_errors(file, Bundle.open(bundle))
    attached = None if report is None else _report(report, rule_set)
    text = file.read_bytes().decode()
    entry = RuleStore(store).publish(text, who=who or login(), why=why, expected=started, report=attached, key=key)
    _print_line("version", f"{entry.version} serves, entry {entry.number}")
    _print_line(
        "checked", f"fits {bundle}" if bundle else "against no catalogue; --bundle refuses rules that do not fit one"
    )
    _next(store, 'rollback --why "..."' if entry.parent else "history")


@rules.command()
def history(store: StorePath) -> None:
    """List every change, newest first; * marks the current version."""
    entries = RuleStore(store).history()
    if not entries:
        _print_line("empty", f"nothing was published in {store}: bundles serve their own rules")
        _next(store, 'publish rules.yaml --why "..."')
        return
    console.print(_history_table(entries))
    parent, current = entries[-1].parent, entries[-1].version
    _next(store, f"diff {parent} {current}" if parent else "show")


@rules.command()
def show(
    store: StorePath,
    version: Annotated[str | None, typer.Argument(help="beginning of its hash; else the version that serves")] = None,
) -> None:
    """Print the text of a version as it was published, and nothing else: > rules.yaml makes a file of it."""
    opened = RuleStore(store)
    version = _named(opened, version)
    sys.stdout.write(opened.read(version))
    sys.stdout.flush()
    command = _command(store, f'publish rules.yaml --from {_named(opened, None)} --why "..."')
    print(f"next     {command}", file=sys.stderr)


@rules.command()
def diff(
    store: StorePath,
    before: Annotated[str, typer.Argument(help="version, or the beginning of its hash")],
    after: Annotated[str | None, typer.Argument(help="another one; else the version that serves")] = None,
) -> None:
    """Print the difference of two versions: rules by name, then lines."""
    opened = RuleStore(store)
    _print_difference(opened.diff(before, _named(opened, after)))
    _next(store, f'rollback --to {before} --why "..."')


@rules.command()
def rollback(
    store: StorePath,
    why: Why,
    to: Annotated[
        str | None, typer.Option(help="version; else the one that the current version was published on")
    ] = None,
    who: Who = None,
    started: From = None,
    key: Key = None,
) -> None:
    """Make an older version current again; servers that read the store reload by themselves."""
    entry = RuleStore(store).rollback(to, who=who or login(), why=why, expected=started, key=key)
    _print_line("version", f"{entry.version} serves again, entry {entry.number}; it took the place of {entry.parent}")
    _next(store, "history")


@rules.command()
def sign(store: StorePath, key: Annotated[Path, typer.Option(help="file of the Ed25519 private key")]) -> None:
    """Sign the version that serves, as it was published."""
    entry = RuleStore(store).sign(key)
    _print_line("signed", f"{entry.version}, entry {entry.number}")
    _next(store, "verify")


@rules.command()
def verify(store: StorePath) -> None:
    """Compare audit log, HEAD, texts, reports and signature; exit code 2 names the first that was altered."""
    entries = RuleStore(store).verify()
    if entries:
        last = entries[-1]
        _print_line(
            "whole", f"{len(entries)} entries; the last is {last.sha256}, keep it elsewhere to see a forged log too"
        )
    else:
        _print_line("empty", f"nothing was published in {store}")
    _next(store, "history")


def _history_table(entries: tuple[RuleVersion, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("", "version", "when (UTC)", "who", "why", "action", "report"):
        table.add_column(heading, no_wrap=heading not in ("who", "why"), overflow="fold")
    for entry in reversed(entries):
        mark = "*" if entry is entries[-1] else ""
        when = entry.when.replace("T", " ")[:16]
        report = "no" if entry.report is None else "yes"
        cells = (mark, entry.version, when, entry.who, entry.why, entry.action, report)
        table.add_row(*map(Text, cells), style="bold" if mark else None)
    return table


def _print_difference(found: RuleDiff) -> None:
    for name in ("added", "removed", "changed", "settings"):
        if names := getattr(found, name):
            _print_line(name, ", ".join(names))
    if found.reordered:
        _print_line("order", "the rules follow each other otherwise")
    if not any((found.added, found.removed, found.changed, found.settings, found.reordered)):
        _print_line("same", "no rule differs")
    for line in found.lines.splitlines():
        console.print(Text(line, style=COLOURS.get(line[:1], "")), soft_wrap=True)


def _named(store: RuleStore, version: str | None) -> str:
    if version is not None:
        return version
    if (current := store.current()) is None:
        raise ConfigError(f"nothing was published in {store.folder}; publish a rule file first")
    return current.version


def _refuse_errors(file: Path, bundle: Bundle) -> None:
    """Raise ConfigError for the first error that `check` finds."""
    found = [one for one in check(read_text(file), catalogue_of(bundle), now=time.time()) if one.level == "error"]
    if found:
        first = found[0]
        raise ConfigError(f"{file}, line {first.line}, rule {first.rule!r}: {first.message}; rules check lists all")


def _report(file: Path, rule_set: RuleSet) -> dict[str, Any]:
    """Read the dry-run report of exactly these rules; ConfigError where it exceeded limits."""
    report = _document(file)
    if (of := report.get("new")) != rule_set.hash:
        whose = "does not say which rules it is about" if of is None else f"is the report of the rules {of}"
        raise ConfigError(f"{file} {whose}, these are {rule_set.hash}; dry-run them again")
    if exceeded := report.get("exceeded"):
        raise ConfigError(f"{file}: its dry run refuses it: {exceeded[0]}; change the rules or their limits")
    return report


def _document(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the report {file} cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"the report {file} is a {type(document).__name__}; give a JSON object")
    return document


def login() -> str:
    """Return the login name; ConfigError where the machine has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise ConfigError("this machine knows no login name; give --who") from None


def _print_line(word: str, sentence: str) -> None:
    console.print(Text(f"{word:<9}{sentence}"), soft_wrap=True)


def _command(store: Path, command: str) -> str:
    return f"python -m recsys rules {command} --store {store}"


def _next(store: Path, command: str) -> None:
    console.print(Text(f"next     {_command(store, command)}"), style="bold", soft_wrap=True)
