"""`recsys`, or `python -m recsys`: train, export, serve, ask a bundle, publish rules, change items."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.text import Text

from recsys.bundle import Bundle
from recsys.cli.cache import cache
from recsys.cli.compare import compare
from recsys.cli.consistency import consistency
from recsys.cli.data import data
from recsys.cli.drift import drift
from recsys.cli.encryption import encryption_key
from recsys.cli.experiments import experiments
from recsys.cli.explain import explain_absence, reasons_table
from recsys.cli.items import items, names_now
from recsys.cli.lists import write_lists
from recsys.cli.log import read_log
from recsys.cli.measure import measure
from recsys.cli.ope import ope
from recsys.cli.pareto import pareto_table, sweep_weight
from recsys.cli.rules import rules
from recsys.cli.rules_check import check_rules, dry_run_rules
from recsys.cli.score import score
from recsys.cli.show import slate_table
from recsys.cli.sign import sign, signing_key
from recsys.cli.wandb_files import wandb_report, wandb_sweep
from recsys.commands import command_of
from recsys.contracts import Query
from recsys.data.splits import whole
from recsys.errors import QueryError, exit_on_error
from recsys.evaluation.chart import draw_pareto_front
from recsys.index import AS_TRAINED, IndexChoice
from recsys.pipeline import recommend as run
from recsys.pipeline import through
from recsys.replay.replay import Replay
from recsys.stages import RANKER, Stages, load_explain, load_stages, read_spec
from recsys.stores.atomic_files import atomic_file

BATCH = 64
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(data, name="data")
app.add_typer(rules, name="rules")
app.add_typer(experiments, name="experiments")
app.add_typer(items, name="items")
app.add_typer(cache, name="cache")
rules.command("check")(check_rules)
rules.command("dry-run")(dry_run_rules)
console = Console()

BundlePath = Annotated[Path, typer.Option(help="folder of a bundle, as train.py printed it")]
DataPath = Annotated[Path | None, typer.Option(help="description.yaml of the log; else the run's own data folder")]


PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""every argument goes to the command behind, --help as well"""


@app.command(context_settings=PASSED_ON)
def train(context: typer.Context) -> None:
    """Train, evaluate and save a cascade; as python train.py."""
    from recsys.cli.train import main as run_training

    _as_program("recsys train", context.args)
    run_training()


@app.command(context_settings=PASSED_ON)
def export(context: typer.Context) -> None:
    """Turn a bundle into a Triton model repository; as python export.py."""
    from recsys.cli.export import main as run_export

    _as_program("recsys export", context.args)
    run_export()


@app.command(context_settings=PASSED_ON)
def serve(context: typer.Context) -> None:
    """Serve what export wrote, everything on this machine; as python -m serving up."""
    os.execv(sys.executable, [sys.executable, "-m", "serving", "up", *context.args])


@app.command(context_settings=PASSED_ON)
def demo(context: typer.Context) -> None:
    """Train, export, serve and query on MovieLens 100K; as python -m serving demo."""
    os.execv(sys.executable, [sys.executable, "-m", "serving", "demo", *context.args])


def _as_program(name: str, arguments: Sequence[str]) -> None:
    """Let what parses the command line see only its own arguments."""
    sys.argv = [name, *arguments]


@app.callback()
def about() -> None:
    """Train, export and serve a recommender; ask a bundle for slates; publish rules and change items."""


@app.command()
def recommend(
    bundle: BundlePath,
    user: Annotated[str | None, typer.Option(help="one user: prints a table")] = None,
    out: Annotated[Path | None, typer.Option(help="all users: writes this Parquet file")] = None,
    k: Annotated[int, typer.Option(min=1, max=1_000, help="items a slate")] = 10,
    why: Annotated[
        bool, typer.Option("--why", help="with --user: what each part of the input adds to a utility")
    ] = False,
    why_not: Annotated[str | None, typer.Option("--why-not", help="with --user: why this item is not shown")] = None,
    now: Annotated[float | None, typer.Option(help="unix seconds; else the end of the log")] = None,
    data: DataPath = None,
    store: Annotated[Path | None, typer.Option(help="folder of published rules; else the bundle's own rules")] = None,
    items_store: Annotated[
        Path | None, typer.Option("--items", help="folder of changed items; else the bundle's own items")
    ] = None,
    exposure: Annotated[
        Path | None, typer.Option(help="folder of what was shown to everybody; else exposure rules know of nothing")
    ] = None,
    index: Annotated[str, typer.Option(help="faiss as trained, exact, device, or auto")] = AS_TRAINED.kind,
    device: Annotated[str, typer.Option(help="of an index on a device: cuda, cuda:1, cpu")] = AS_TRAINED.device,
) -> None:
    """Recommend to one user (--user) or to all of the log (--out), in this process."""
    if (user is None) == (out is None):
        raise QueryError("give either --user for one user or --out for all of them")
    if (why or why_not) and user is None:
        raise QueryError("--why and --why-not explain the slate of one user; give --user")
    if now is not None and not math.isfinite(now):
        raise QueryError(f"--now is {now}; give unix seconds")
    if out is not None and out.is_dir():
        raise QueryError(f"--out {out} is a folder; give the name of a Parquet file")
    opened = Bundle.open(bundle)
    stages = load_stages(
        opened,
        rules_store=store,
        items_store=items_store,
        shares_folder=exposure,
        index=IndexChoice(kind=index, device=device),
    )
    dataset = read_log(bundle, data)
    replay = Replay(dataset, whole(dataset))
    moment = float(replay.timestamps.max()) if now is None else now
    if user is not None:
        names = names_now(opened, items_store, dataset.description.title)
        tensors = through({"QUERY": [replay.latest(user, moment, k)]}, stages)
        slate = tensors["SLATE"][0]
        console.print(slate_table(slate, names))
        if why:
            (explained,) = load_explain(opened, items_store)(tensors)["SLATE"]
            console.print(reasons_table(explained, names))
        if why_not is not None:
            console.print(Text(explain_absence(stages, tensors, why_not)))
        return
    assert out is not None
    num_users = _write_all(
        dataset.users["user"].to_list(), lambda name: replay.latest(name, moment, k), stages, opened, out
    )
    console.print(f"wrote {out}: {num_users:,} users, at most {k} items each")


app.command()(compare)
app.command(name="signing-key")(signing_key)
app.command()(sign)
app.command(name="encryption-key")(encryption_key)
app.command()(score)
app.command()(measure)
app.command()(consistency)
app.command()(drift)
app.command()(ope)
app.command(name="wandb-sweep")(wandb_sweep)
app.command(name="wandb-report")(wandb_report)


@app.command()
def pareto(
    bundle: BundlePath,
    weight: Annotated[str, typer.Option(help="a weight of the value formula in the bundle's policy.yaml")],
    objectives: Annotated[tuple[str, str], typer.Option(help="two objectives to weigh against each other")],
    out: Annotated[Path, typer.Option(help="picture to write")] = Path("pareto.png"),
) -> None:
    """Evaluate every value of a weight on two objectives, on the requests that calibrated the ranker.

    Candidates are ranked by utility alone, before rules and diversity.
    """
    if out.is_dir():
        raise QueryError(f"--out {out} is a folder; give the name of a picture")
    points = sweep_weight(Bundle.open(bundle), weight, objectives)
    with atomic_file(out) as draft:
        draw_pareto_front(draft, points, objectives, weight)
    console.print(pareto_table(points, objectives, weight))
    console.print(f"picture  {out}")
    console.print(f"next     {command_of('train')} policy.value.weights.{weight}=...", style="bold")


def _write_all(
    users: Sequence[str], query_of: Callable[[str], Query], stages: Stages, bundle: Bundle, out: Path
) -> int:
    """Write the slates of all users; return their number."""
    slates = (
        slate for batch in track(_batches(users), "users") for slate in run([query_of(name) for name in batch], stages)
    )
    objectives = tuple(read_spec(bundle).objectives) if bundle.has(RANKER) else ()
    return write_lists(slates, objectives, out)


def _batches(users: Sequence[str]) -> list[Sequence[str]]:
    return [users[start : start + BATCH] for start in range(0, len(users), BATCH)]


def main() -> None:
    """Run the app; expected errors end with one sentence and exit code 2."""
    with exit_on_error():
        app()
