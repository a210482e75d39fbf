"""Are the verdicts of an analysed experiment true? On simulated experiments with known effects.

    python -m benchmarks.claims.measurement.experiments

RUNS populations of USERS users each visit a shop for BEFORE days without and DURING days with two arms, halves of the users.
The true effect is that on BIG users, by their probabilities.

* Coverage of the 95% intervals of two metrics for one look, plain and by CUPED, and how much CUPED narrows.
* A/A: how often an always-valid interval leaves 0 at any of the looks, four a day; the interval for one look beside it. Sums of
  users still grow between the looks, which the theory of the sequence does not cover: this is what is tested here.
* An arm that is worse: how often a verdict at any look says that it can be rolled out.
* An arm that is better by what `users_needed` was asked for: how often one look finds it.
* A split of 52 to 48 of 20,000 users: how often the sample-ratio test finds it, and an even one.

Writes benchmarks/results/experiments.json.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks.lib.result_file import Figure, console, print_figures, write_result
from recsys.data.simulation.shop import SimulatedShop
from recsys.data.simulation.visits import reactions, visits
from recsys.data.sources.planted import DAY, START
from recsys.experiments.analysis import CONTROL, TREATMENT, ExperimentPlan, analyse
from recsys.experiments.design import POWER, RATIO_ALARM, deviation, sample_ratio_p_value, users_needed
from recsys.experiments.effects import ArmUsers, Effect, effect

RUNS, USERS, BIG = 1_000, 1_000, 60_000
BEFORE, DURING, LOOKS = 3, 5, 20
FIRST_LOOK = 4
"""the first day passes before anybody looks: few users have come by then"""
BETTER, WORSE = 0.15, -0.15
"""shifts of the click logit"""
PLANNED_FROM = 10
"""populations whose users the power is planned from"""
METRICS = ("click_per_request", "revenue_per_user")
SHOP = SimulatedShop(users=USERS, items=500, days=BEFORE + DURING, slate=5, seed=0, arms_from=BEFORE)
PLAN = ExperimentPlan(primary=METRICS[0], guardrails=METRICS[1:], shares={CONTROL: 0.5, TREATMENT: 0.5}, users=USERS)
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """Numerator and denominator of each metric and user [metrics, U], up to each look, and those of before."""

    arm: np.ndarray
    looks: list[tuple[np.ndarray, np.ndarray]]
    before: tuple[np.ndarray, np.ndarray]

    def arms(self, metric: int, look: int = -1, cuped: bool = False) -> dict[str, ArmUsers]:
        (x, y), (earlier_x, earlier_y) = self.looks[look], self.before
        found = {}
        for index, name in enumerate((CONTROL, TREATMENT)):
            own = (self.arm == index) & (y[metric] > 0)
            before = (earlier_x[metric][own], earlier_y[metric][own]) if cuped else None
            found[name] = ArmUsers(x=x[metric][own], y=y[metric][own], before=before)
        return found

    def effect(self, metric: int, look: int = -1, cuped: bool = False) -> Effect:
        arms = self.arms(metric, look, cuped)
        return effect(arms[CONTROL], arms[TREATMENT])


def simulated(population: int, shift: float) -> Sums:
    shop = replace(SHOP, population=population, arms={CONTROL: 0.0, TREATMENT: shift})
    shown = visits(shop)
    done = reactions(shop, shown)
    paid = (done.bought * shop.world.price[shown.items]).sum(axis=1)
    values = np.stack([done.clicked.sum(axis=1).astype(float), paid])
    day = (shown.now - START) / DAY
    ends = BEFORE + DURING * np.arange(FIRST_LOOK, LOOKS + 1) / LOOKS
    looks = [_sums(shop.users, shown.user, values, (day >= BEFORE) & (day < end)) for end in ends]
    return Sums(arm=shop.arm, looks=looks, before=_sums(shop.users, shown.user, values, day < BEFORE))


def _sums(users: int, user: np.ndarray, values: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the chosen requests by user: clicks over requests, and payments over 1 for whoever came."""
    x = np.stack([np.bincount(user[chosen], one[chosen], users) for one in values])
    requests = np.bincount(user[chosen], minlength=users).astype(float)
    return x, np.stack([requests, (requests > 0).astype(float)])


def true_effects(shift: float) -> list[float]:
    """Of both metrics, by the probabilities of the days with arms, every user in both arms."""
    figures = []
    for arm in (0.0, shift):
        shop = replace(SHOP, users=BIG, population=1_000_000, arms={"one": arm})
        shown = visits(shop)
        during = (shown.now - START) / DAY >= BEFORE
        users = len(np.unique(shown.user[during]))
        figures.append((shown.click[during].sum() / during.sum(), shown.paid[during].sum() / users))
    return [float(b - a) for a, b in zip(*figures, strict=True)]


def covered(runs: int) -> list[Row]:
    truth, rows = true_effects(BETTER), []
    found = [simulated(run, BETTER) for run in track(range(runs), "effects")]
    for number, metric in enumerate(METRICS):
        plain, adjusted = ([one.effect(number, cuped=cuped) for one in found] for cuped in (False, True))
        errors = [np.median([one.error for one in part]) for part in (plain, adjusted)]
        for name, part in (("one look", plain), ("one look, CUPED", adjusted)):
            inside = [one.interval[0] <= truth[number] <= one.interval[1] for one in part]
            rows.append({"part": "coverage", "metric": metric, "interval": name, "share": float(np.mean(inside))})
        rows.append({"part": "CUPED", "metric": metric, "error_to_plain": round(float(errors[1] / errors[0]), 4)})
        rows[-1]["theory"] = round(float(np.median([_theory(one, number) for one in found])), 4)
    return rows


def _theory(sums: Sums, metric: int) -> float:
    """sqrt(1 - correlation^2) of the contributions of during and before, of users who came during."""
    (x, y), (earlier_x, earlier_y) = sums.looks[-1], sums.before
    own = y[metric] > 0
    parts = []
    for one, other in ((x, y), (earlier_x, earlier_y)):
        a, b = one[metric][own], other[metric][own]
        parts.append(a - a.sum() / b.sum() * b)
    return float(np.sqrt(1 - np.corrcoef(*parts)[0, 1] ** 2))


def a_a(runs: int) -> Row:
    always = once = 0
    for run in track(range(runs), "A/A"):
        sums = simulated(100_000 + run, 0.0)
        effects = [sums.effect(0, look) for look in range(len(sums.looks))]
        always += any(_leaves(one.always_valid(USERS)) for one in effects)
        once += any(_leaves(one.interval) for one in effects)
    return {"part": "A/A, any look", "always_valid": always / runs, "interval_of_one_look": once / runs}


def _leaves(interval: tuple[float, float]) -> bool:
    return interval[0] > 0 or interval[1] < 0


def worse(runs: int) -> Row:
    verdicts = {"ship": 0, "stop": 0}
    for run in track(range(runs), "worse arm"):
        sums = simulated(200_000 + run, WORSE)
        for look in range(len(sums.looks)):
            metrics = {name: sums.arms(number, look) for number, name in enumerate(METRICS)}
            verdict = analyse(PLAN, metrics).verdict
            if verdict in verdicts:
                verdicts[verdict] += 1
                break
    return {"part": "worse arm", **{name: count / runs for name, count in verdicts.items()}}


def power(runs: int) -> Row:
    """Users of SHOP suffice for some effect by the formula; how often is it found, added to the sums of A/A runs?"""
    some = [arm for run in range(PLANNED_FROM) for arm in simulated(400_000 + run, 0.0).arms(0).values()]
    spread = deviation(*(np.concatenate([getattr(arm, part) for arm in some]) for part in ("x", "y")))
    num = sum(len(arm.x) for arm in some) // PLANNED_FROM
    target = next(size for size in np.geomspace(0.5, 0.001, 2_000) if users_needed(spread, size) > num)
    found = 0
    for run in track(range(runs), "power"):
        arms = simulated(300_000 + run, 0.0).arms(0)
        treated = arms[TREATMENT]
        found += effect(arms[CONTROL], ArmUsers(x=treated.x + target * treated.y, y=treated.y)).p_value < 0.05
    return {"part": "power", "effect": round(float(target), 5), "planned": POWER, "found": found / runs}


def ratios(runs: int) -> Row:
    rng = np.random.default_rng(0)
    share = {}
    for name, first in (("planted", 0.52), ("even", 0.5)):
        counts = rng.binomial(20_000, first, runs)
        values = [sample_ratio_p_value({CONTROL: one, TREATMENT: 20_000 - one}, PLAN.shares) for one in counts.tolist()]
        share[name] = float(np.mean(np.array(values) < RATIO_ALARM))
    return {"part": "sample ratio", **share}


def figures(rows: list[Row]) -> dict[str, Figure]:
    shares = [row["share"] for row in rows if row["part"] == "coverage"]
    part = {row["part"]: row for row in rows}
    off = max(abs(row["error_to_plain"] / row["theory"] - 1) for row in rows if row["part"] == "CUPED")
    return {
        "least_coverage": Figure(value=min(shares), unit=f"of {RUNS} runs", goal=0.93, better="higher"),
        "greatest_coverage": Figure(value=max(shares), unit=f"of {RUNS} runs", goal=0.97, better="lower"),
        "a_a_always_valid": Figure(
            value=part["A/A, any look"]["always_valid"], unit="of runs, any look", goal=0.05, better="lower"
        ),
        "cuped_from_theory": Figure(value=round(off, 4), unit="relative deviation", goal=0.03, better="lower"),
        "worse_arm_shipped": Figure(value=part["worse arm"]["ship"], unit="of runs", goal=0.0, better="lower"),
        "power_found": Figure(value=part["power"]["found"], unit=f"planned {POWER}", goal=0.75, better="higher"),
        "planted_ratio_found": Figure(
            value=part["sample ratio"]["planted"], unit="of runs", goal=0.95, better="higher"
        ),
        "even_ratio_alarms": Figure(value=part["sample ratio"]["even"], unit="of runs", goal=0.005, better="lower"),
    }


def main(runs: int = RUNS) -> None:
    start = time.perf_counter()
    rows = [*covered(runs), a_a(runs), worse(runs), power(runs), ratios(10 * runs)]
    for row in rows:
        console.print(row)
    claimed = figures(rows)
    print_figures(claimed)
    console.print(f"wrote {write_result('experiments', rows, claimed, time.perf_counter() - start)}")


if __name__ == "__main__":
    main()
