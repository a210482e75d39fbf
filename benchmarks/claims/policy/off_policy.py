"""What would another policy have earned: which estimator can be believed, and what does it say of a real shop?

First worlds of known truth: few and many actions and rare clicks, three distances between the policies, a reward model
that can be right and one that cannot; 400 logs of each. The estimator and its interval are chosen there, by one
criterion: intervals of 95% that cover in 90 to 98% of the logs of every world; of those the least error (geometric mean
over worlds of the root mean square error / truth); of its intervals the one that is never far from 95%. The choice is
written into recsys/experiments/off_policy.py as DEFAULT.

Then, with nothing chosen on it, Open Bandit (small): from the log of one policy, what did the other earn in the same
week? 30 bootstrap runs of the log, relative error to the click rate of the other's own log, as in Saito et al., Open
Bandit Dataset and Pipeline, NeurIPS 2021. Thompson sampling sees no context but learns along the week, so its mean
distribution over items at a position is the share of each in its own log (recsys/experiments/logged_policy.py): its
clicks are not looked at, though the chance in its draws is shared with the click rate that is compared with.

Writes benchmarks/results/off_policy.json and .png.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from benchmarks.lib.bandit_world import WORLDS, World
from benchmarks.lib.off_policy_report import coverage_table, draw, shop_table
from benchmarks.lib.result_file import RESULTS, Figure, console, print_figures, write_result
from recsys.data.bandit import BanditLog
from recsys.data.sources.open_bandit import CAMPAIGNS, OpenBandit
from recsys.errors import DataError, exit_on_error
from recsys.experiments.logged_policy import shares
from recsys.experiments.mean_intervals import (
    INTERVALS,
    resamples,
    skew_corrected,
    standard_error,
    studentised_bootstrap,
)
from recsys.experiments.off_policy import DEFAULT, ESTIMATORS, OffPolicyData, evaluate
from recsys.experiments.reward_model import cross_fitted

REPETITIONS = 400
RUNS = 30
INTERVAL = "skew-corrected"
"""the default of evaluate"""
BOOTSTRAP = "studentised bootstrap"
"""only of the default estimator: it costs as much as all others together"""
LEAST, GREATEST = 0.90, 0.98
LOGGED = "mean of the log"
"""as if nothing but the policy changed; what an estimator must beat"""

Row = dict[str, Any]


def simulated(world: World, repetitions: int, advance: Callable[[], None] = lambda: None) -> list[Row]:
    """A row an estimator."""
    counts = resamples(world.rounds, seed=0)
    found: dict[str, list[tuple[float, dict[str, bool], float]]] = {name: [] for name in ESTIMATORS}
    effective = []
    for seed in range(repetitions):
        log, who = world.draw(seed)
        question = OffPolicyData(log=log, policy=world.policy[who], predicted=cross_fitted(log, seed))
        effective.append(evaluate(question).effective_rounds)
        for name, estimator in ESTIMATORS.items():
            contributions = estimator(question)
            within = covered(contributions, world.truth, counts if name == DEFAULT else None)
            found[name].append((float(contributions.mean()), within, standard_error(contributions)))
        advance()
    return [_summary(world, name, answers, float(np.mean(effective))) for name, answers in found.items()]


def covered(contributions: np.ndarray, truth: float, counts: np.ndarray | None) -> dict[str, bool]:
    """interval -> does it hold the truth; the bootstrap only where counts [S, R] are given."""
    ends = {name: interval(contributions) for name, interval in INTERVALS.items() if name != BOOTSTRAP}
    if counts is not None:
        ends[BOOTSTRAP] = studentised_bootstrap(contributions, counts)
    return {name: low <= truth <= high for name, (low, high) in ends.items()}


def _summary(world: World, name: str, answers: Sequence[tuple[float, dict[str, bool], float]], effective: float) -> Row:
    errors = np.array([value for value, _, _ in answers]) / world.truth - 1
    return {
        "part": "simulation",
        "world": world.name,
        "estimator": name,
        "truth": round(world.truth, 6),
        "effective_rounds": round(effective, 1),
        "bias": round(float(errors.mean()), 4),
        "rmse": round(float(np.sqrt(np.mean(errors**2))), 4),
        "coverage": {
            interval: round(float(np.mean([within[interval] for _, within, _ in answers])), 4)
            for interval in answers[0][1]
        },
    }


def spread(rows: Sequence[Row], estimator: str, interval: str) -> tuple[float, float]:
    """Least and greatest coverage over the worlds."""
    found = [row["coverage"][interval] for row in rows if row["estimator"] == estimator]
    return min(found), max(found)


def error(rows: Sequence[Row], estimator: str) -> float:
    """Geometric mean over the worlds of the relative error."""
    found = [row["rmse"] for row in rows if row["estimator"] == estimator]
    return float(np.exp(np.mean(np.log(found))))


def choose(rows: Sequence[Row]) -> tuple[str, str]:
    """Estimator and interval by the criterion; where none covers everywhere, of those that miss it by least."""
    pairs = [(row["estimator"], kind) for row in rows for kind in row["coverage"] if row["world"] == rows[0]["world"]]
    missed = {pair: _missed(*spread(rows, *pair)) for pair in pairs}
    fit = [pair for pair in pairs if missed[pair] == min(missed.values())]
    best = min(error(rows, estimator) for estimator, _ in fit)
    return min(
        (pair for pair in fit if error(rows, pair[0]) == best),
        key=lambda pair: max(abs(end - 0.95) for end in spread(rows, *pair)),
    )


def _missed(low: float, high: float) -> float:
    return max(LEAST - low, high - GREATEST, 0.0)


@dataclass(frozen=True, kw_only=True)
class Direction:
    """From the log of one policy to the value of another."""

    campaign: str
    logged: str
    asked: str
    log: BanditLog
    policy: np.ndarray
    """[P, A] of the policy asked about"""
    clicks: np.ndarray
    """[R] of its own log"""

    @property
    def name(self) -> str:
        return f"{self.logged} -> {self.asked}"

    @property
    def truth(self) -> float:
        return float(self.clicks.mean())

    def question(self, places: np.ndarray, seed: int) -> OffPolicyData:
        """About the rounds at places [N]; copies of a round share a fold."""
        log = self.log.rows(places)
        return OffPolicyData(
            log=log, policy=self.policy[log.positions], predicted=cross_fitted(log, seed, groups=places)
        )


def directions(folder: Path) -> Iterator[Direction]:
    for campaign in CAMPAIGNS:
        logs = {
            policy: OpenBandit(folder=str(folder), policy=policy, campaign=campaign).load()
            for policy in ("random", "bts")
        }
        for logged, asked in (("random", "bts"), ("bts", "random")):
            log, other = logs[logged], logs[asked]
            uniform = np.full((log.num_positions, log.num_actions), 1 / log.num_actions)
            policy = uniform if asked == "random" else shares(other)
            yield Direction(campaign=campaign, logged=logged, asked=asked, log=log, policy=policy, clicks=other.rewards)


def shop(direction: Direction, runs: int, advance: Callable[[], None] = lambda: None) -> list[Row]:
    """A row an estimator: the whole log, and its error over bootstrap runs."""
    rounds = len(direction.log)
    whole = direction.question(np.arange(rounds), seed=0)
    errors: dict[str, list[float]] = {name: [] for name in (*ESTIMATORS, LOGGED)}
    for seed in range(runs):
        places = np.random.default_rng(seed).integers(rounds, size=rounds)
        question = direction.question(places, seed)
        for name in errors:
            errors[name].append(abs(float(_contributions(name, question).mean()) / direction.truth - 1))
        advance()
    return [_shop_row(direction, name, whole, found) for name, found in errors.items()]


def _contributions(name: str, question: OffPolicyData) -> np.ndarray:
    return question.log.rewards if name == LOGGED else ESTIMATORS[name](question)


def _shop_row(direction: Direction, name: str, whole: OffPolicyData, errors: Sequence[float]) -> Row:
    contributions = _contributions(name, whole)
    diagnosed = evaluate(whole)
    return {
        "part": "open bandit",
        "direction": direction.name,
        "campaign": direction.campaign,
        "estimator": name,
        "truth": direction.truth,
        "truth_ci95": [round(end, 6) for end in skew_corrected(direction.clicks)],
        "clicks": int(direction.log.rewards.sum()),
        "clicks_of_truth": int(direction.clicks.sum()),
        "effective_rounds": round(diagnosed.effective_rounds, 1),
        "max_weight": round(diagnosed.max_weight, 1),
        "mean_weight": round(diagnosed.mean_weight, 3),
        "value": round(float(contributions.mean()), 6),
        "ci95": [round(end, 6) for end in skew_corrected(contributions)],
        "relative_error": round(abs(float(contributions.mean()) / direction.truth - 1), 4),
        "relative_errors": [round(one, 4) for one in errors],
    }


def figures(simulation: Sequence[Row], real: Sequence[Row]) -> dict[str, Figure]:
    low, high = spread(simulation, DEFAULT, INTERVAL)
    errors = [
        one
        for row in real
        if row["estimator"] == DEFAULT and row["direction"] == "random -> bts"
        for one in row["relative_errors"]
    ]
    unit = f"share of {REPETITIONS} logs a world whose interval of 95% holds the truth"
    return {
        "worst_coverage": Figure(value=low, unit=unit, goal=LEAST, better="higher"),
        "greatest_coverage": Figure(value=high, unit=unit, goal=GREATEST, better="lower"),
        "default_is_chosen": Figure(
            value=float(choose(simulation) == (DEFAULT, INTERVAL)),
            unit="1 where the simulation chooses what is the default in the code",
            goal=1.0,
            better="higher",
        ),
        "median_relative_error_random_to_bts": Figure(
            value=round(float(np.median(errors)), 4),
            unit="|estimate / truth - 1|, 30 runs of 3 campaigns",
            goal=0.20,
            better="lower",
        ),
    }


def data_folder() -> Path:
    """DataError where the data are not at hand."""
    if not (root := os.environ.get("RECSYS_DATA")):
        raise DataError("RECSYS_DATA is not set; set it to the folder that holds open-bandit-small")
    return Path(root, "open-bandit-small")


def main() -> None:
    start = time.perf_counter()
    asked = list(directions(data_folder()))
    simulation: list[Row] = []
    real: list[Row] = []
    with Progress(console=console) as progress:
        bar = progress.add_task("logs of known truth", total=len(WORLDS) * REPETITIONS)
        for world in WORLDS:
            simulation += simulated(world, REPETITIONS, lambda: progress.advance(bar))
        runs = progress.add_task("runs of Open Bandit", total=len(asked) * RUNS)
        for direction in asked:
            real += shop(direction, RUNS, lambda: progress.advance(runs))
    claimed = figures(simulation, real)
    console.print(coverage_table(simulation, DEFAULT, BOOTSTRAP), shop_table(real, DEFAULT))
    console.print(f"chosen by the criterion: {' with intervals '.join(choose(simulation))}")
    print_figures(claimed)
    picture = draw(simulation, real, INTERVAL, RESULTS / "off_policy.png")
    file = write_result("off_policy", [*simulation, *real], claimed, time.perf_counter() - start)
    console.print(f"\nresult   {file}\npicture  {picture}")


if __name__ == "__main__":
    with exit_on_error():
        main()
