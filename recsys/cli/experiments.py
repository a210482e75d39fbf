"""`python -m recsys experiments`: check and publish experiments, plan their size, read their effects."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.bundle import Bundle
from recsys.cli.data_report import Chapter
from recsys.cli.experiment_allocation import allocate
from recsys.cli.experiment_days import days_of, published_last
from recsys.cli.experiment_page import effects_by_cohort, effects_of, page
from recsys.cli.experiment_proposal import propose
from recsys.cli.measure import measured_log, settings_of
from recsys.cli.versions import From, Key, StorePath, VersionCommands, Who, Why, login, print_line
from recsys.errors import ConfigError, DataError, QueryError, check_ranges
from recsys.experiments.allocation import batched_effect
from recsys.experiments.analysis import CONTROL, TREATMENT, VERDICTS, ExperimentPlan, ExperimentResult, analyse, judged
from recsys.experiments.cohorts import MIN_COHORTS
from recsys.experiments.design import a_a_false_positives, days_needed, deviation, users_needed
from recsys.experiments.experiment_set import PER_REQUEST, ExperimentSet, OnlineExperiment
from recsys.experiments.experiment_store import ExperimentStore
from recsys.expressions import suggestion
from recsys.measurement.arm_periods import SharePeriod, share_periods, shares_over_periods, users_by_period
from recsys.measurement.arms import FEWEST_USERS, arm_users, cohort_effects, user_values
from recsys.measurement.kpis import Period, metrics_of
from recsys.measurement.outcomes import USERS, MeasuredLog
from recsys.measurement.preferences import preference
from recsys.measurement.user_sums import splits_of
from recsys.policy.overrides import overridden
from recsys.policy.rules.rule_set import RuleSet
from recsys.policy.rules.store import RuleStore
from recsys.stages import load_rules, read_spec, request_types
from recsys.stores.atomic_files import atomic_file

experiments = typer.Typer(no_args_is_help=True, help="Publish experiments, plan their size, read their effects.")
console = Console()
COMMANDS = VersionCommands(
    group="experiments", file="experiments.yaml", store=ExperimentStore, nothing="no request has an arm"
)
A_A_SPLITS, A_A_SEED = 200, 0

Log = Annotated[Path, typer.Argument(help="folder of the event log, live/events of a deployment")]
Data = Annotated[Path | None, typer.Option(help="description.yaml of the served run: its objectives are measured")]
Settings = Annotated[Path | None, typer.Option(help="YAML file of outcomes, windows and splits instead")]
BundlePath = Annotated[Path | None, typer.Option(help="refuse conditions and overrides that do not fit this bundle")]
RulesPath = Annotated[
    Path | None, typer.Option(help="folder of published rules that serve with it; else the bundle's own rules")
]


@experiments.command()
def check(
    file: Annotated[Path, typer.Argument(help="experiments, YAML")], bundle: BundlePath = None, rules: RulesPath = None
) -> None:
    """Check a file of experiments, and whether it fits a bundle, and list what it says."""
    found = _checked(file, bundle, rules)
    console.print(_table(found))
    print_line("version", f"{found.hash}, not published; experiments: {len(found.experiments)}")
    against = "" if bundle is None else f" --bundle {shlex.quote(str(bundle))}"
    command = f'python -m recsys experiments publish {shlex.quote(str(file))} --store STORE --why "..."{against}'
    console.print(Text(f"next     {command}"), style="bold", soft_wrap=True)


@experiments.command()
def publish(
    file: Annotated[Path, typer.Argument(help="experiments, YAML")],
    store: StorePath,
    why: Why,
    who: Who = None,
    started: From = None,
    bundle: BundlePath = None,
    rules: RulesPath = None,
    key: Key = None,
) -> None:
    """Publish a file of experiments as the current version; gateways follow within a second."""
    _checked(file, bundle, rules)
    text = file.read_bytes().decode()
    entry = ExperimentStore(store).publish(text, who=who or login(), why=why, expected=started, key=key)
    print_line("version", f"{entry.version} serves, entry {entry.number}")
    print_line("checked", f"fits {bundle}" if bundle else "against no bundle; --bundle refuses what does not fit one")
    COMMANDS.print_next(store, 'rollback --why "..."' if entry.parent else "history")


COMMANDS.register(experiments)
experiments.command()(allocate)
experiments.command()(propose)


@experiments.command()
def plan(
    log: Log,
    metric: Annotated[str, typer.Option(help="primary metric, such as click_per_request")],
    effect: Annotated[float, typer.Option(help="smallest difference that would change a decision, absolute")],
    data: Data = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="folder of results; else `measurement` beside the log")] = None,
    days: Annotated[int, typer.Option(min=1, max=3_660, help="days of the log that are looked at")] = 14,
    share: Annotated[float, typer.Option(help="of the users in the experiment who get the treatment")] = 0.5,
    users: Annotated[float, typer.Option(help="share of all users who take part")] = 1.0,
    power: Annotated[float, typer.Option(help="chance to find an effect of this size")] = 0.8,
) -> None:
    """Compute how many users and days an experiment needs, from the users of a log, and whether its metric can be trusted."""
    check_ranges("plan", users=(users, 1e-6, 1.0))
    measured, _ = measured_log(log, out, settings_of(data, settings))
    period = _last_days(measured, days)
    found = user_values(measured, metric, period)
    spread = deviation(found.x, found.y)
    needed = users_needed(spread, effect, share=share, power=power)
    a_day = len(found.x) / len(period.days(measured))
    false = a_a_false_positives(found.x, found.y, splits=A_A_SPLITS, seed=A_A_SEED)
    print_line("metric", f"{metric} {found.x.sum() / found.y.sum():.4g}, deviation of a user {spread:.4g}")
    print_line("users", f"{needed:,} in both arms find {effect:g} with a chance of {power:.0%} at one look of 95%")
    print_line(
        "days", f"{days_needed(needed, a_day, users)} at {a_day:,.0f} new users a day, of whom {users:.0%} take part"
    )
    sound = "sound" if false < 0.1 else "it finds effects where none are: look at its outliers before anything else"
    print_line("A/A", f"{false:.1%} of {A_A_SPLITS} random halvings differ at 5%: {sound}")
    console.print(Text("next     python -m recsys experiments check experiments.yaml"), style="bold", soft_wrap=True)


@experiments.command()
def report(
    name: Annotated[str, typer.Argument(help="name of the experiment")],
    log: Log,
    store: StorePath,
    data: Data = None,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of results; else `experiments/<name>` beside the log")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="split of `measure` whose values are cohorts, profile.segment; repeat it for more"),
    ] = None,
    one_look: Annotated[
        bool, typer.Option("--one-look", help="intervals for one look at the planned end; else they hold at any time")
    ] = False,
) -> None:
    """Report the effects of an experiment on its metrics, and what to do; looking at any time is allowed."""
    experiment = published_last(ExperimentStore(store), name)
    split = f"arms.{name}"
    # a folder is measured by one choice of splits
    folder = log.parent / "experiments" / "-by-".join([name, *(by or ())]) if out is None else out
    own = tuple(dict.fromkeys((split, *(column for column in by or () if "." in column))))
    chosen = replace(settings_of(data, settings), by=own)
    if unknown := [column for column in by or () if column not in splits_of(chosen)]:
        raise ConfigError(f"--by names {unknown[0]!r}; {suggestion(unknown[0], splits_of(chosen))}")
    measured, _ = measured_log(log, folder, chosen)
    during, _ = days_of(experiment, measured)
    if experiment.interleave:
        periods, results = [], _preferences(experiment, measured, split, during, peeking=not one_look)
    else:
        periods = share_periods(ExperimentStore(store), name, during, measured)
        results = _results(experiment, measured, split, periods, peeking=not one_look)
    for arm, result in results.items():
        console.print(effects_of(experiment, arm, result).table())
        print_line(result.verdict, VERDICTS[result.verdict])
        if experiment.effect is not None and result.excludes(experiment.primary, experiment.effect):
            print_line(
                "small", f"an effect of {experiment.effect:g} or more on {experiment.primary} is excluded: it may end"
            )
        console.print()
    if by and len(periods) > 1:
        print_line("cohorts", "shares were changed: pooled figures of cohorts would be biased, none are shown")
        by = None
    if by and experiment.interleave:
        print_line("cohorts", "none are shown of interleaved arms")
        by = None
    cohorts = [chapter for column in by or () for chapter in _cohorts(experiment, measured, column)]
    for chapter in cohorts:
        console.print(chapter.table())
    file = measured.folder / "page.html"
    with atomic_file(file) as draft:
        draft.write_text(page(experiment, results, cohorts), encoding="utf-8")
    print_line("page", str(file))
    done = any(one.verdict in ("ship", "stop") for one in results.values())
    version = COMMANDS.named(ExperimentStore(store), None)
    COMMANDS.print_next(store, f'publish experiments.yaml --from {version} --why "..."' if done else "history")


def _results(
    experiment: OnlineExperiment, log: MeasuredLog, split: str, periods: Sequence[SharePeriod], *, peeking: bool
) -> dict[str, ExperimentResult]:
    """Compare each arm with the control."""
    during, before = days_of(experiment, log)
    judged_metrics = (experiment.primary, *experiment.guardrails)
    if missing := [metric for metric in judged_metrics if metric not in metrics_of(log.settings)]:
        raise ConfigError(
            f"the experiment names {missing[0]!r}, which is not measured; known: {', '.join(metrics_of(log.settings))}"
        )
    found = {}
    for arm, share in ((name, one.share) for name, one in experiment.arms.items() if name != experiment.control):
        both = {CONTROL: experiment.arms[experiment.control].share, TREATMENT: share}
        plan = ExperimentPlan(
            primary=experiment.primary,
            guardrails=experiment.guardrails,
            less=experiment.less,
            shares={role: one / sum(both.values()) for role, one in both.items()},
            users=experiment.planned_users,
            peeking=peeking,
        )
        if len(periods) > 1:
            found[arm] = _over_periods(plan, log, split, (experiment.control, arm), periods)
            continue
        names = {CONTROL: experiment.control, TREATMENT: arm}
        metrics = arm_users(log, split, names, during, before)
        found[arm] = analyse(plan, {metric: metrics[metric] for metric in judged_metrics})
    return found


def _preferences(
    experiment: OnlineExperiment, log: MeasuredLog, split: str, during: Period, *, peeking: bool
) -> dict[str, ExperimentResult]:
    """Compare the credit of the items that either arm picked for the same slates."""
    outcome = experiment.primary.removesuffix(PER_REQUEST)
    if outcome not in log.settings.outcomes:
        raise ConfigError(
            f"the experiment names {experiment.primary!r}, which is not measured; {suggestion(outcome, log.settings.outcomes)}"
        )
    (arm,) = (name for name in experiment.arms if name != experiment.control)
    found = preference(log, split, (experiment.control, arm), outcome, during)
    plan = ExperimentPlan(
        primary=experiment.primary,
        less=experiment.less,
        shares={CONTROL: 0.5, TREATMENT: 0.5},
        users=experiment.planned_users,
        peeking=peeking,
    )
    return {arm: judged(plan, {experiment.primary: found}, {CONTROL: found.users, TREATMENT: found.users})}


def _over_periods(
    plan: ExperimentPlan, log: MeasuredLog, split: str, arms: tuple[str, str], periods: Sequence[SharePeriod]
) -> ExperimentResult:
    """Compare an arm with the control where shares were changed: a period of fixed shares counts by its users."""
    effects, expected = {}, {}
    for metric in (plan.primary, *plan.guardrails):
        users = users_by_period(log, split, arms, periods, metric)
        effects[metric] = batched_effect(*(users[arm] for arm in arms))
        if metric == plan.primary:
            counts = {
                role: sum(len(one.users) for one in users[arm])
                for role, arm in zip((CONTROL, TREATMENT), arms, strict=True)
            }
            expected = shares_over_periods(users, arms, periods)
    return judged(replace(plan, shares=expected), effects, counts)


def _cohorts(experiment: OnlineExperiment, log: MeasuredLog, by: str) -> Iterator[Chapter]:
    """Yield the effects of each arm on the primary metric by cohort; says so where there are too few cohorts."""
    during, before = days_of(experiment, log)
    for arm in (name for name in experiment.arms if name != experiment.control):
        names = {CONTROL: experiment.control, TREATMENT: arm}
        try:
            found, shrunk = cohort_effects(
                log, f"arms.{experiment.name}", names, during, before, experiment.primary, by
            )
        except DataError:
            few = f"by {by}: fewer than {MIN_COHORTS} have {FEWEST_USERS} users in both arms, no effects"
            print_line("cohorts", few)
            return
        yield effects_by_cohort(arm, experiment.primary, by, found, shrunk)


def _checked(file: Path, bundle: Path | None, rules: Path | None) -> ExperimentSet:
    """Read a file; ConfigError where it does not fit a bundle and its rules."""
    found = ExperimentSet.read(file)
    if bundle is None:
        return found
    opened = Bundle.open(bundle)
    found.compile(request_types(read_spec(opened)))
    policy = load_rules(opened, rules=None if rules is None else _published_rules(RuleStore(rules))).policy
    for one in found.experiments:
        for name, arm in one.arms.items():
            overridden(policy, arm.policy, f"the experiment {one.name!r}: arms.{name}.policy")
    return found


def _published_rules(store: RuleStore) -> RuleSet:
    if (serving := store.current()) is None:
        raise ConfigError(f"--rules {store.folder} holds no published rules; leave it out to take the bundle's own")
    return RuleSet.parse(store.text(serving.text))


def _last_days(log: MeasuredLog, days: int) -> Period:
    if not (found := log.days(USERS)):
        raise QueryError("nothing was measured yet; the log has no user")
    last: date = max(found)
    return Period(first=last - timedelta(days=days - 1), last=last)


def _table(found: ExperimentSet) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("experiment", "layer", "users", "arms", "from", "until", "primary"):
        table.add_column(heading, overflow="fold")
    for one in found.experiments:
        arms = ", ".join(f"{name} {arm.share:.0%}" for name, arm in one.arms.items())
        part = f"{one.users[0]:.0%} to {one.users[1]:.0%}"
        cells = (one.name, one.layer or "own", part, arms, one.start[:10], one.end[:10], one.primary)
        table.add_row(*map(Text, cells))
    return table
