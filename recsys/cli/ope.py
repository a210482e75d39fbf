"""`python -m recsys ope`: what another bundle, other rules or another policy would have earned, from the own log."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from recsys.bundle import Bundle
from recsys.cli.data_report import Chapter
from recsys.cli.measure import measured_log, settings_of
from recsys.errors import ConfigError, DataError
from recsys.experiments.slate_off_policy import SlateEstimate, slate_values
from recsys.measurement.candidate_value import AnsweredLog, Candidate
from recsys.policy.overrides import check_overrides
from recsys.policy.rules.rule_set import RuleSet

console = Console()


def ope(
    log: Annotated[Path, typer.Argument(help="folder of the event log, live/events of a deployment")],
    bundle: Annotated[Path, typer.Option(help="folder of the candidate's bundle")],
    outcome: Annotated[str, typer.Option(help="outcome that is added up, such as click")],
    data: Annotated[Path | None, typer.Option(help="description.yaml of the served run: its objectives")] = None,
    settings: Annotated[Path | None, typer.Option(help="YAML file of outcomes, windows and splits instead")] = None,
    rules: Annotated[Path | None, typer.Option(help="rule file of the candidate; else the bundle's own rules")] = None,
    policy: Annotated[
        str, typer.Option(help="overrides of its policy, YAML: '{weights: {buy: 5}, diversity: {trade_off: 0.7}}'")
    ] = "{}",
    requests: Annotated[int, typer.Option(min=1, help="logged requests, at most, always the same of a log")] = 10_000,
    days: Annotated[int | None, typer.Option(min=1, help="newest days of the log alone; else all")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the measurement; else beside the log")] = None,
) -> None:
    """Estimate from logged propensities what a candidate would have earned; exit code 1 where the log cannot say."""
    candidate = Candidate(
        bundle=Bundle.open(bundle),
        rules=None if rules is None else RuleSet.read(rules),
        overrides=_overrides(policy),
    )
    measured, _ = measured_log(log, out, settings_of(data, settings))
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("requests answered by the candidate")
        compared = AnsweredLog.of(
            measured,
            candidate,
            outcome,
            requests=requests,
            days=days,
            progress=lambda done, total, _: progress.update(task, completed=done, total=total),
        ).under(candidate.overrides)
    found = slate_values(compared)
    console.print(_chapter(found, outcome, len(compared.users)).table())
    for assumption, one in found.items():
        console.print(Text(f"{assumption}: {_sentence(one)}"), soft_wrap=True)
    if not any(isinstance(one, SlateEstimate) for one in found.values()):
        measure = f"--data {shlex.quote(str(data))}" if settings is None else f"--settings {shlex.quote(str(settings))}"
        command = f"experiments plan {shlex.quote(str(log))} {measure} --metric {outcome}_per_request --effect 0.01"
        console.print(Text(f"next     python -m recsys {command}"), style="bold", soft_wrap=True)
        raise typer.Exit(1)
    console.print(Text("next     python -m recsys experiments check experiments.yaml"), style="bold", soft_wrap=True)


def _overrides(text: str) -> dict[str, Any]:
    try:
        return check_overrides("--policy", yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--policy is not YAML: {str(error).splitlines()[0]}; write {{weights: {{buy: 5}}}}"
        ) from None


def _chapter(found: Mapping[str, SlateEstimate | DataError], outcome: str, requests: int) -> Chapter:
    return Chapter(
        title=f"{outcome} a request, {requests:,} requests",
        headings=("assumption", "candidate", "95% interval", "logged", "effective", "support"),
        rows=tuple(_row(assumption, one) for assumption, one in found.items()),
    )


def _row(assumption: str, one: SlateEstimate | DataError) -> tuple[str, ...]:
    if isinstance(one, DataError):
        return assumption, "unknown", "", "", "", ""
    interval = f"{one.interval[0]:.4g} to {one.interval[1]:.4g}"
    return assumption, f"{one.value:.4g}", interval, f"{one.logged:.4g}", f"{one.effective:,.0f}", f"{one.support:.0%}"


def _sentence(one: SlateEstimate | DataError) -> str:
    if isinstance(one, DataError):
        return str(one)
    low, high = one.difference
    verdict = "more than what was shown" if low > 0 else "less than what was shown" if high < 0 else "not told apart"
    return f"{verdict}, {one.value - one.logged:+.4g} ({low:+.4g} to {high:+.4g}) a request"
