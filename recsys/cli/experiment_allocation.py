"""`python -m recsys experiments allocate`: move the shares of the arms of an experiment to those that earn most."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.text import Text

from recsys.cli.data_report import Chapter
from recsys.cli.experiment_days import days_of, published_now
from recsys.cli.measure import measured_log, settings_of
from recsys.cli.versions import Key, StorePath, Who, login, print_line
from recsys.errors import ConfigError
from recsys.experiments.allocation import (
    ArmMean,
    allocated_shares,
    arm_mean,
    best_probabilities,
    period_weights,
)
from recsys.experiments.experiment_set import OnlineExperiment
from recsys.experiments.experiment_store import ExperimentStore
from recsys.measurement.arm_periods import share_periods, users_by_period
from recsys.strict_yaml import load

console = Console()


def allocate(
    name: Annotated[str, typer.Argument(help="name of the experiment, which has a least_share")],
    log: Annotated[Path, typer.Argument(help="folder of the event log, live/events of a deployment")],
    store: StorePath,
    data: Annotated[
        Path | None, typer.Option(help="description.yaml of the served run: its objectives are measured")
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="YAML file of outcomes, windows and splits instead")] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of results; else `experiments/<name>` beside the log")
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish", help="publish the next shares; else they are only shown")
    ] = False,
    who: Who = None,
    key: Key = None,
) -> None:
    """Give each arm a share by its probability to be the best in the primary metric, at least `least_share` (Thompson)."""
    opened = ExperimentStore(store)
    experiment = published_now(opened, name)
    if experiment.least_share is None:
        raise ConfigError(
            f"the experiment {name!r} has no least_share, so its shares are fixed; publish it with one, such as 0.1"
        )
    split = f"arms.{name}"
    folder = log.parent / "experiments" / name if out is None else out
    measured, _ = measured_log(log, folder, replace(settings_of(data, settings), by=(split,)))
    during, _ = days_of(experiment, measured)
    periods = share_periods(opened, name, during, measured)
    users = users_by_period(measured, split, list(experiment.arms), periods, experiment.primary)
    weights = period_weights(users)
    means = {arm: arm_mean(own, weights) for arm, own in users.items()}
    best = best_probabilities(means, less=experiment.primary in experiment.less)
    shares = allocated_shares(best, experiment.least_share)
    console.print(_chapter(experiment, means, best, shares).table())
    print_line("periods", f"{len(periods)} of fixed shares, {sum(len(one.days) for one in periods)} whole days")
    if not publish:
        command = (
            f"python -m recsys experiments allocate {name} {shlex.quote(str(log))} --store {shlex.quote(str(store))}"
        )
        console.print(Text(f"next     {command} --publish"), style="bold", soft_wrap=True)
        return
    _publish(opened, experiment, shares, best, who, key)
    command = f"python -m recsys experiments history --store {shlex.quote(str(store))}"
    console.print(Text(f"next     {command}"), style="bold", soft_wrap=True)


def _publish(
    store: ExperimentStore,
    experiment: OnlineExperiment,
    shares: Mapping[str, float],
    best: Mapping[str, float],
    who: str | None,
    key: Path | None,
) -> None:
    """Publish the serving set of experiments with other shares; comments of its text are lost."""
    current = store.current()
    assert current is not None
    document = load(store.text(current.text))
    (own,) = (one for one in document["experiments"] if one["name"] == experiment.name)
    for arm, share in shares.items():
        own["arms"][arm]["share"] = share
    leader = max(best, key=lambda arm: best[arm])
    why = f"{experiment.name}: shares by {experiment.primary}, {leader} is the best with {best[leader]:.0%}"
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    entry = store.publish(text, who=who or login(), why=why, expected=current.version, key=key)
    print_line("version", f"{entry.version} serves, entry {entry.number}")


def _chapter(
    experiment: OnlineExperiment, means: Mapping[str, ArmMean], best: Mapping[str, float], shares: Mapping[str, float]
) -> Chapter:
    rows = tuple(
        (
            arm,
            f"{means[arm].users:,}",
            f"{means[arm].value:.4g} ±{1.96 * means[arm].error:.2g}",
            f"{best[arm]:.1%}",
            f"{own.share:.1%}",
            f"{shares[arm]:.1%}",
        )
        for arm, own in experiment.arms.items()
    )
    headings = ("arm", "users", experiment.primary, "is the best", "share", "next")
    return Chapter(title=f"{experiment.name}: shares by what the arms earn", headings=headings, rows=rows)
