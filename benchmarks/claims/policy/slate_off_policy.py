"""Are off-policy intervals of slates true on a log of one's own, and are logs without overlap refused? On simulated worlds.

    python -m benchmarks.claims.policy.slate_off_policy

* WORLDS worlds, half of them with clicks by position and half by cascade: how often the 95% interval of the estimator of that
  assumption holds the truth, over LOGS logs each of REQUESTS requests; the truth is the mean over the users of all logs.
* A log of a greedy policy, and one that could never show half of what the evaluated policy shows: both have to be refused.

Writes benchmarks/results/slate_off_policy.json.
"""

import time
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks.lib.result_file import Figure, console, print_figures, write_result
from benchmarks.lib.slate_world import ITEMS, SlateWorld
from recsys.errors import DataError
from recsys.experiments.slate_off_policy import CASCADE, POSITION, SlateLog, slate_value, slate_values

WORLDS, LOGS, REQUESTS = 10, 400, 6_000
COVERAGE = (0.90, 0.98)


def main() -> None:
    begun = time.perf_counter()
    rows = [row_of(seed) for seed in track(range(WORLDS), "worlds", console=console)]
    coverage = [row["coverage"] for row in rows]
    refused = sum(refuses(log) for log in logs_without_overlap())
    figures = {
        "least_coverage": Figure(
            value=min(coverage), unit=f"of {LOGS} logs, the worst of {WORLDS} worlds", goal=COVERAGE[0], better="higher"
        ),
        "greatest_coverage": Figure(value=max(coverage), unit=f"of {LOGS} logs", goal=COVERAGE[1], better="lower"),
        "largest_bias": Figure(
            value=max(abs(row["bias"]) for row in rows),
            unit="of the truth, mean of the logs",
            goal=0.01,
            better="lower",
        ),
        "refused": Figure(value=refused, unit="of 2 logs without overlap", goal=2, better="higher"),
    }
    print_figures(figures)
    console.print(f"result   {write_result('slate_off_policy', rows, figures, time.perf_counter() - begun)}")


def row_of(seed: int) -> dict[str, Any]:
    """Coverage and bias in one world; a log that is refused counts as not covered."""
    cascade = seed % 2 == 1
    world, assumption = SlateWorld(seed=seed, cascade=cascade), CASCADE if cascade else POSITION
    found, truths = [], []
    for number in range(LOGS):
        log, truth = world.log(number, REQUESTS)
        truths.append(truth)
        try:
            one = slate_value(log, assumption)
        except DataError:
            continue
        found.append((one.value, *one.interval))
    truth = float(np.mean(truths))
    values, low, high = np.array(found).T
    inside = (low <= truth) & (truth <= high)
    return {
        "world": seed,
        "assumption": assumption,
        "truth": round(truth, 4),
        "coverage": round(float(inside.sum()) / LOGS, 4),
        "bias": round(float(values.mean() / truth - 1), 4),
        "half_width": round(float((high - low).mean() / 2), 4),
        "refused": LOGS - len(found),
    }


def logs_without_overlap() -> list[SlateLog]:
    """Return the log of a greedy policy, and one that never shows what the evaluated policy shows for half of the requests."""
    log, _ = SlateWorld(seed=0, cascade=False).log(0, REQUESTS)
    greedy = {**vars(log), "propensities": np.ones_like(log.rewards), "evaluated": (log.shown + 1) % ITEMS}
    never = np.random.default_rng(0).random((REQUESTS, 1)) < 0.5
    half = {**vars(log), "evaluated": np.where(never, ITEMS + 1, log.evaluated)}
    return [SlateLog(**greedy), SlateLog(**half)]


def refuses(log: SlateLog) -> bool:
    """Return whether neither assumption has an estimate."""
    return all(isinstance(one, DataError) for one in slate_values(log).values())


if __name__ == "__main__":
    main()
