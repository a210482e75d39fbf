"""`python -m recsys experiments propose`: numbers of the policy that the log speaks for, as an experiment against today's."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
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
from recsys.cli.versions import print_line
from recsys.errors import ConfigError, DataError, check_ranges
from recsys.experiments.experiment_set import ExperimentSet
from recsys.experiments.policy_search import Bounds, Gain, Numbers, PolicyProposal, search
from recsys.experiments.slate_off_policy import SlateEstimate
from recsys.expressions import suggestion
from recsys.measurement.candidate_value import AnsweredLog, Candidate
from recsys.policy.compose import CompiledPolicy
from recsys.policy.diversity import DIVERSITIES
from recsys.policy.kind_documents import to_document
from recsys.policy.overrides import OF_RANKING, SOURCES, overridden
from recsys.policy.rules.rule_set import RuleSet
from recsys.stores.atomic_files import write_atomically

console = Console()
DAYS = 14
"""of the proposed experiment"""


def propose(
    log: Annotated[Path, typer.Argument(help="folder of the event log, live/events of a deployment")],
    bundle: Annotated[Path, typer.Option(help="folder of the bundle that serves")],
    outcome: Annotated[str, typer.Option(help="outcome that is earned, such as click")],
    within: Annotated[
        list[str], typer.Option(help="number of the policy and its bounds, weights.buy=0.1:10; once for each")
    ],
    data: Annotated[Path | None, typer.Option(help="description.yaml of the served run: its objectives")] = None,
    settings: Annotated[Path | None, typer.Option(help="YAML file of outcomes, windows and splits instead")] = None,
    rules: Annotated[Path | None, typer.Option(help="rule file that serves; else the bundle's own rules")] = None,
    requests: Annotated[int, typer.Option(min=1, help="logged requests, at most, always the same of a log")] = 4_000,
    days: Annotated[int | None, typer.Option(min=1, help="newest days of the log alone; else all")] = None,
    least_share: Annotated[float, typer.Option(help="of the users, whom today's policy never loses")] = 0.2,
    name: Annotated[str, typer.Option(help="of the proposed experiment")] = "proposed",
    write: Annotated[Path | None, typer.Option(help="file for the proposed experiment; else it is only shown")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the measurement; else beside the log")] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of the search")] = 0,
) -> None:
    """Search numbers of the policy within bounds, by what logged propensities say they earn, and propose an experiment."""
    check_ranges("propose", least_share=(least_share, 0.01, 0.5))
    bounds = _bounds(within)
    candidate = Candidate(bundle=Bundle.open(bundle), rules=None if rules is None else RuleSet.read(rules))
    now = _numbers_of(candidate.policy(), bounds)
    _experiment(name, now, now, outcome, least_share)  # refused here, before all requests are answered
    measured, _ = measured_log(log, out, settings_of(data, settings))
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("requests answered by the bundle")

        def show(done: int, total: int, _: str = "") -> None:
            progress.update(task, completed=done, total=total)

        answered = AnsweredLog.of(measured, candidate, outcome, requests=requests, days=days, progress=show)
        progress.update(task, description="policies tried", completed=0)
        found = search(lambda numbers: answered.under(overrides_of(numbers)), bounds, now, seed=seed, progress=show)
    console.print(_chapter(bounds, now, found.numbers, outcome, len(answered.served)).table())
    _print_estimates(found)
    text = _experiment(name, found.numbers, now, outcome, least_share)
    if write is None:
        print_line("experiment", "only shown, --write FILE keeps it\n" + text)
        return
    write_atomically(write, text.encode())
    command = f"python -m recsys experiments check {shlex.quote(str(write))} --bundle {shlex.quote(str(bundle))}"
    console.print(Text(f"next     {command}"), style="bold", soft_wrap=True)


def overrides_of(numbers: Numbers) -> dict[str, Any]:
    """Return numbers by their keys as overrides of a policy: {weights.buy: 2} is {weights: {buy: 2}}."""
    found: dict[str, Any] = {}
    for key, value in numbers.items():
        section, _, own = key.partition(".")
        if own:
            found.setdefault(section, {})[own] = value
        else:
            found[section] = value
    return found


def _bounds(within: Sequence[str]) -> dict[str, Bounds]:
    found: dict[str, Bounds] = {}
    for text in within:
        key, equals, ends = text.partition("=")
        low, colon, high = ends.partition(":")
        try:
            found[key] = Bounds(low=float(low), high=float(high))
        except ValueError:
            raise ConfigError(f"--within is {text!r}; write a number and its bounds, weights.buy=0.1:10") from None
        except ConfigError as error:
            raise ConfigError(f"--within {key}: {error}") from None
        if not (key and equals and colon):
            raise ConfigError(f"--within is {text!r}; write a number and its bounds, weights.buy=0.1:10")
    return found


def _numbers_of(policy: CompiledPolicy, bounds: Mapping[str, Bounds]) -> dict[str, float]:
    """Return today's values of the bounded numbers; ConfigError for one that the policy has not, or bounds that do not fit."""
    own = {f"weights.{name}": float(one) for name, one in policy.value.weights.items()}
    own |= {f"{SOURCES}.{name}": 1.0 for name in policy.sources}
    own["discount"] = policy.popularity.discount
    diversity = to_document(policy.diversity, DIVERSITIES)
    own |= {f"diversity.{key}": float(diversity[key]) for key in OF_RANKING if isinstance(diversity.get(key), float)}
    for key, one in bounds.items():
        if key not in own:
            raise ConfigError(f"--within names {key!r}, which the policy does not have; {suggestion(key, own)}")
        for end in (one.low, one.high):
            overridden(policy, overrides_of({key: end}), where="--within")
    return {key: own[key] for key in bounds}


def _chapter(bounds: Mapping[str, Bounds], now: Numbers, proposed: Numbers, outcome: str, requests: int) -> Chapter:
    rows = [(key, f"{one.low:g} to {one.high:g}", f"{now[key]:g}", f"{proposed[key]:g}") for key, one in bounds.items()]
    return Chapter(
        title=f"{outcome} a request, {requests:,} requests",
        headings=("number", "bounds", "today", "proposed"),
        rows=tuple(rows),
    )


def _print_estimates(found: PolicyProposal) -> None:
    print_line("tried", f"{found.tried} policies; of {found.refused} the log says too little")
    print_line("chosen by", f"half of the users: {_difference(found.chosen)}")
    print_line("judged by", f"the other half: {_difference(found.judged)}")
    print_line("over today", f"by the other half: {_gain(found.gain)}")


def _gain(gain: Gain | DataError) -> str:
    if isinstance(gain, DataError):
        return str(gain)
    mean, (low, high) = gain
    verdict = "earns more" if low > 0 else "earns less" if high < 0 else "not told apart: the experiment decides"
    return f"{mean:+.4g} ({low:+.4g} to {high:+.4g}) a request, {verdict}"


def _difference(one: SlateEstimate | DataError) -> str:
    if isinstance(one, DataError):
        return str(one)
    low, high = one.difference
    return f"{one.value - one.logged:+.4g} ({low:+.4g} to {high:+.4g}) a request against what was shown"


def _experiment(name: str, numbers: Numbers, now: Numbers, outcome: str, least_share: float) -> str:
    """Return the experiment as YAML: today's policy is the control, and `allocate` never takes more from it than allowed."""
    start = datetime.now(UTC).date() + timedelta(days=1)
    changed = ", ".join(f"{key} {now[key]:g} to {one:g}" for key, one in numbers.items())
    experiment = {
        "name": name,
        "hypothesis": f"{changed}: more {outcome} a request, as logged propensities say",
        "start": start.isoformat(),
        "end": (start + timedelta(days=DAYS)).isoformat(),
        "arms": {"control": {"share": 0.5}, "proposed": {"share": 0.5, "policy": overrides_of(numbers)}},
        "primary": f"{outcome}_per_request",
        "least_share": least_share,
    }
    text = yaml.safe_dump({"experiments": [experiment]}, sort_keys=False, allow_unicode=True)
    ExperimentSet.parse(text)
    return text
