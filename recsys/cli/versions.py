"""Commands of a store of published versions: see who changed what, go back, sign; of rules and of experiments.

A command-line group makes an instance and registers its methods.
"""

import getpass
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.errors import ConfigError
from recsys.policy.rules.audit import RuleVersion
from recsys.policy.rules.rule_diff import RuleDiff
from recsys.policy.rules.store import RuleStore

console = Console()
COLOURS = {"+": "green", "-": "red", "@": "cyan"}

StorePath = Annotated[Path, typer.Option(help="folder of published versions; a server reads the one beside its bundle")]
Who = Annotated[str | None, typer.Option(help="who does it; else the login name")]
Why = Annotated[str, typer.Option(help="one line for the audit log")]
Key = Annotated[Path | None, typer.Option(help="file of the Ed25519 private key that signs it")]
From = Annotated[str | None, typer.Option("--from", help="version that you started from; refused if it serves no more")]


@dataclass(frozen=True, kw_only=True)
class VersionCommands:
    """Commands of one kind of store."""

    group: str
    """`python -m recsys <group>`"""
    file: str
    """usual name of a file that is published"""
    store: type[RuleStore]
    nothing: str
    """what serves while nothing was published"""

    def register(self, app: typer.Typer) -> None:
        """Add the commands that all stores have."""
        for command in (self.history, self.show, self.diff, self.rollback, self.sign, self.verify):
            app.command()(command)

    def history(self, store: StorePath) -> None:
        """List every change, newest first; * marks the current version."""
        entries = self.store(store).history()
        if not entries:
            print_line("empty", f"nothing was published in {store}: {self.nothing}")
            self.print_next(store, f'publish {self.file} --why "..."')
            return
        console.print(_history_table(entries))
        parent, current = entries[-1].parent, entries[-1].version
        self.print_next(store, f"diff {parent} {current}" if parent else "show")

    def diff(
        self,
        store: StorePath,
        before: Annotated[str, typer.Argument(help="version, or the beginning of its hash")],
        after: Annotated[str | None, typer.Argument(help="another one; else the version that serves")] = None,
    ) -> None:
        """Print the difference of two versions: what it lists by name, then lines."""
        opened = self.store(store)
        _print_difference(opened.diff(before, self.named(opened, after)))
        self.print_next(store, f'rollback --to {before} --why "..."')

    def show(
        self,
        store: StorePath,
        version: Annotated[
            str | None, typer.Argument(help="beginning of its hash; else the version that serves")
        ] = None,
    ) -> None:
        """Print the text of a version as it was published, and nothing else: > file.yaml makes a file of it."""
        opened = self.store(store)
        sys.stdout.write(opened.read(self.named(opened, version)))
        sys.stdout.flush()
        command = self.command(store, f'publish {self.file} --from {self.named(opened, None)} --why "..."')
        print(f"next     {command}", file=sys.stderr)

    def rollback(
        self,
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
        entry = self.store(store).rollback(to, who=who or login(), why=why, expected=started, key=key)
        print_line(
            "version", f"{entry.version} serves again, entry {entry.number}; it took the place of {entry.parent}"
        )
        self.print_next(store, "history")

    def sign(
        self, store: StorePath, key: Annotated[Path, typer.Option(help="file of the Ed25519 private key")]
    ) -> None:
        """Sign the version that serves, as it was published."""
        entry = self.store(store).sign(key)
        print_line("signed", f"{entry.version}, entry {entry.number}")
        self.print_next(store, "verify")

    def verify(self, store: StorePath) -> None:
        """Compare audit log, HEAD, texts, reports and signature; exit code 2 names the first that was altered."""
        entries = self.store(store).verify()
        if entries:
            last = entries[-1]
            print_line(
                "whole", f"{len(entries)} entries; the last is {last.sha256}, keep it elsewhere to see a forged log too"
            )
        else:
            print_line("empty", f"nothing was published in {store}")
        self.print_next(store, "history")

    def named(self, store: RuleStore, version: str | None) -> str:
        """Return a version, the one that serves for None; ConfigError where nothing was published."""
        if version is not None:
            return version
        if (current := store.current()) is None:
            raise ConfigError(f"nothing was published in {store.folder}; publish a {store.subject} first")
        return current.version

    def command(self, store: Path, command: str) -> str:
        """Return a command of this group on a store."""
        return f"python -m recsys {self.group} {command} --store {shlex.quote(str(store))}"

    def print_next(self, store: Path, command: str) -> None:
        console.print(Text(f"next     {self.command(store, command)}"), style="bold", soft_wrap=True)


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
            print_line(name, ", ".join(names))
    if found.reordered:
        print_line("order", "they follow each other otherwise")
    if not any((found.added, found.removed, found.changed, found.settings, found.reordered)):
        print_line("same", "nothing differs but layout")
    for line in found.lines.splitlines():
        console.print(Text(line, style=COLOURS.get(line[:1], "")), soft_wrap=True)


def login() -> str:
    """Return the login name; ConfigError where the machine has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise ConfigError("this machine knows no login name; give --who") from None


def print_line(word: str, sentence: str) -> None:
    """Print a sentence behind its keyword."""
    console.print(Text(f"{word:<9}{sentence}"), soft_wrap=True)
