"""`python -m recsys rules check | dry-run`: lint a rule file, and measure its effect."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from recsys.bundle import Bundle
from recsys.cli.log import read_log
from recsys.data.dataset import Dataset
from recsys.data.splits import whole
from recsys.evaluation.chart import draw_dry_run
from recsys.pipeline import through
from recsys.policy.category_values import category_values
from recsys.policy.rules.dry_run import DryRun, dry_run
from recsys.policy.rules.lint import CheckedCatalogue, Finding, check
from recsys.policy.rules.rule_set import RuleSet, read_text
from recsys.policy.rules.store import RuleStore
from recsys.replay.replay import Replay
from recsys.stages import Offered, Stages, load_stages, read_rule_items, read_spec, request_types, rules_maker
from recsys.stores.atomic_files import atomic_file

QUERIES_PER_BATCH = 64
MAX_VALUES = 500
"""maximum number of values of a column whose exposure is compared"""
console = Console()

BundlePath = Annotated[Path, typer.Option(help="folder of the bundle whose catalogue and models the rules meet")]
RuleFile = Annotated[Path, typer.Argument(help="rule set, YAML")]


def check_rules(file: RuleFile, bundle: BundlePath) -> None:
    """List the findings in a rule file with line and remedy; exit code 1 if one of them is an error."""
    found = check(read_text(file), catalogue_of(Bundle.open(bundle)), now=time.time())
    for one in found:
        colour = "bold red" if one.level == "error" else "yellow"
        console.print(
            Text.assemble((f"{file}:{one.line}:{one.column} ", "dim"), (one.level, colour), f" {_finding_text(one)}")
        )
    errors = sum(one.level == "error" for one in found)
    console.print(f"{errors} errors, {len(found) - errors} warnings", style="bold")
    if errors:
        raise typer.Exit(1)
    console.print(f"next     python -m recsys rules dry-run {file} --bundle {bundle}", style="bold")


def _finding_text(finding: Finding) -> str:
    return f"{finding.rule}: {finding.message}"


def catalogue_of(bundle: Bundle) -> CheckedCatalogue:
    """Return the catalogue that rules are checked against."""
    items = read_rule_items(bundle)
    types = items.overlay.schema.rule_types
    return CheckedCatalogue(columns=items.columns, item_types=types, request_types=request_types(read_spec(bundle)))


def dry_run_rules(
    file: RuleFile,
    bundle: BundlePath,
    out: Annotated[Path, typer.Option(help="folder for dry_run.json and dry_run.png")],
    old: Annotated[Path | None, typer.Option(help="rule set to compare with; else the bundle's own")] = None,
    store: Annotated[Path | None, typer.Option(help="compare with what this folder of published rules serves")] = None,
    users: Annotated[int, typer.Option(min=1, help="requests that are replayed, at most, drawn from the log")] = 500,
    k: Annotated[int, typer.Option(min=1, max=1_000, help="items a slate")] = 10,
    data: Annotated[
        Path | None, typer.Option(help="description.yaml of the log; else the run's own data folder")
    ] = None,
) -> None:
    """Report what the rules would have changed; exit code 1 beyond the limits in the file."""
    opened, new = Bundle.open(bundle), RuleSet.read(file)
    stages, make = load_stages(opened), rules_maker(opened)
    dataset = read_log(bundle, data)
    without = {rule.name: make(new.without(rule.name)) for rule in new.rules}
    run = dry_run(
        make(_before(old, store)).policy,
        make(new).policy,
        {name: stage.policy for name, stage in without.items()},
        track(list(_replayed_requests(stages, dataset, users, k)), "replayed"),
        _groups(opened),
        new.limits,
    )
    _save(run, out)
    _print(run)
    console.print(f"report   {out / 'dry_run.json'}\npicture  {out / 'dry_run.png'}")
    if run.exceeded:
        for sentence in run.exceeded:
            console.print(Text(f"refused: {sentence}", style="bold red"))
        raise typer.Exit(1)
    command = f'publish {file} --store rules --bundle {bundle} --report {out / "dry_run.json"} --why "..."'
    console.print(f"next     python -m recsys rules {command}", style="bold")


def _before(old: Path | None, store: Path | None) -> RuleSet | None:
    """Return the rules before, None for the bundle's own."""
    if old is not None:
        return RuleSet.read(old)
    head = None if store is None else RuleStore(store).head()
    return None if head is None or store is None else RuleSet.parse(RuleStore(store).text(head.text))


def _replayed_requests(stages: Stages, dataset: Dataset, users: int, k: int) -> Iterator[Offered]:
    """Yield the latest requests of a fixed sample of users, after all stages but the last."""
    replay = Replay(dataset, whole(dataset))
    now = float(replay.timestamps.max())
    names = sorted(dataset.users["user"].sample(min(users, dataset.num_users), seed=0))
    queries = [replay.latest(name, now, k) for name in names]
    for start in range(0, len(queries), QUERIES_PER_BATCH):
        batch = queries[start : start + QUERIES_PER_BATCH]
        yield stages[-1].offered(through({"QUERY": batch}, stages[:-1]))


def _groups(bundle: Bundle) -> dict[str, list[tuple[str, ...]]]:
    """Return column -> values of each item, for the columns whose exposure is compared."""
    catalogue = catalogue_of(bundle)
    columns = [name for name, kind in catalogue.item_types.items() if kind in ("category", "categories")]
    grouped = {name: category_values("dry run", name, catalogue.columns, catalogue.item_types) for name in columns}
    return {name: rows for name, rows in grouped.items() if len({one for row in rows for one in row}) <= MAX_VALUES}


def _save(run: DryRun, out: Path) -> None:
    document = run.to_document()
    with atomic_file(out / "dry_run.json") as draft:
        draft.write_text(json.dumps(document, indent=1), encoding="utf-8")
    with atomic_file(out / "dry_run.png") as draft:
        draw_dry_run(draft, document, f"{run.old} -> {run.new}, {run.num_slates:,} slates")


def _print(run: DryRun) -> None:
    console.print(
        f"{run.num_slates:,} slates, rules {run.old} -> {run.new}: {run.slates_changed:.1%} changed, "
        f"{run.items_changed:.1%} of the items are new, value {-run.value_lost:+.2%}"
    )
    console.print(_table("each rule against the same rules without it", _rule_rows(run)))
    console.print(_table("exposure that changes hands", _shift_rows(run)))
    if run.worst:
        console.print(_table("slates that lose most", _worst_rows(run)))


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for heading in rows[0] if rows else ("nothing",):
        table.add_column(heading)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row.values()))
    return table


def _rule_rows(run: DryRun) -> list[dict[str, str]]:
    return [
        {
            "rule": rule.name,
            "slates changed": f"{rule.slates_changed:.1%}",
            "items removed a slate": f"{rule.items_removed:.2f}",
            "value": f"{-rule.value_lost:+.2%}",
        }
        for rule in run.rules
    ]


def _shift_rows(run: DryRun) -> list[dict[str, str]]:
    return [
        {
            "column": shift.column,
            "moved": f"{shift.moved:.1%}",
            "most": ", ".join(f"{value} {before:.1%} -> {after:.1%}" for value, before, after in shift.largest[:3]),
        }
        for shift in run.shifts
    ]


def _worst_rows(run: DryRun) -> list[dict[str, str]]:
    return [
        {
            "user": one.user,
            "value": f"{one.value_before:.3f} -> {one.value_after:.3f}",
            "gone": ", ".join(item for item in one.items_before if item not in one.items_after),
            "came": ", ".join(item for item in one.items_after if item not in one.items_before),
        }
        for one in run.worst
    ]
