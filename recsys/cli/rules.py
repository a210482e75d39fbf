"""`python -m recsys rules`: publish rules, see who changed what, go back.

Other commands join by `rules.command("name")(function)` in recsys.cli.main.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from recsys.bundle import Bundle
from recsys.cli.rules_check import catalogue_of
from recsys.cli.versions import From, Key, StorePath, VersionCommands, Who, Why, login, print_line
from recsys.errors import ConfigError
from recsys.policy.rules.lint import check
from recsys.policy.rules.rule_set import RuleSet, read_text
from recsys.policy.rules.store import RuleStore

rules = typer.Typer(no_args_is_help=True, help="Publish rules, see who changed what, go back.")
COMMANDS = VersionCommands(group="rules", file="rules.yaml", store=RuleStore, nothing="bundles serve their own rules")


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
    print_line("version", f"{entry.version} serves, entry {entry.number}")
    print_line(
        "checked", f"fits {bundle}" if bundle else "against no catalogue; --bundle refuses rules that do not fit one"
    )
    COMMANDS.print_next(store, 'rollback --why "..."' if entry.parent else "history")


COMMANDS.register(rules)


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
