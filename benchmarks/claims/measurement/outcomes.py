"""Are the figures of a measurement true, is it fast, and does a crash change them? On a simulated shop.

    python -m benchmarks.claims.measurement.outcomes

* A day of a million items shown: `python -m recsys measure` as a process of its own; queries have up to 20 events.
* The same, killed in the middle and run again: the bytes of all tables against those of the first.
* Five days of a million items shown: each figure against its truth, the mean of the probabilities of what was shown.
* SHOPS populations of 300 users: how often a 95% interval holds the truth of all users, which is the mean of the probabilities
  over BIG users; for retention, that of the beta distribution that activity is drawn from.

Writes benchmarks/results/outcomes.json.
"""

import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.progress import track

from benchmarks.lib.measured_process import run_measured
from benchmarks.lib.result_file import ROOT, Figure, console, print_figures, write_result
from recsys.data.simulation.shop import SimulatedShop
from recsys.data.simulation.simulated_log import SimulatedLog
from recsys.data.simulation.visits import Visits, reactions, visits
from recsys.measurement.kpis import Period, kpis
from recsys.measurement.outcomes import MeasuredLog
from recsys.measurement.settings import MeasurementSettings
from recsys.measurement.user_sums import ALL

MILLION_A_DAY = SimulatedShop(users=97_000, items=5_000, days=1, slate=10, seed=0)
MILLION = SimulatedShop(users=19_400, items=5_000, days=5, slate=10, seed=0)
SMALL = SimulatedShop(users=300, items=500, days=3, slate=10, seed=0)
SHOPS, BIG = 200, 100_000
EVER = Period(first=date(2000, 1, 1), last=date(2100, 1, 1))
GOAL_S = 60.0
YAML = """
actions: {kind: word, amount: number, seconds: number}
outcomes:
  click: {value: "kind == 'click'", window_s: 3600}
  buy: {value: "kind == 'buy'", window_s: 86400}
  revenue: {value: "where(kind == 'buy', amount)", window_s: 86400, credit: linear}
  watch: {value: "where(kind == 'click', seconds)", window_s: 3600}
k: [1, 10]
by: [profile.segment]
return_days: [1]
"""
Row = dict[str, Any]


def simulate(shop: SimulatedShop, log: Path, history: int = 20) -> Visits:
    shown = visits(shop)
    SimulatedLog(history=history).write(log, shop, shown, reactions(shop, shown))
    return shown


def measured(log: Path, settings: Path, out: Path) -> MeasuredLog:
    one = MeasuredLog(log=log, folder=out, settings=MeasurementSettings.read(settings))
    one.update()
    return one


def truths(shop: SimulatedShop, shown: Visits) -> dict[str, float]:
    """Figure -> its truth: the mean of the probabilities of the visits."""
    return {
        "click@1": float(shown.click[:, 0].mean()),
        "click@10": float(shown.click.mean()),
        "click_per_request": float(shown.click.sum(axis=1).mean()),
        "buy@10": float(shown.buy.mean()),
        "buy_per_request": float(shown.buy.sum(axis=1).mean()),
        "revenue_per_request": float(shown.paid.sum(axis=1).mean()),
        "watch_per_request": float(shown.watched.sum(axis=1).mean()),
        "retention_1d": shop.retained(),
        "return_1d": shop.returned(1),
    }


def compared(figures: pl.DataFrame, truth: Mapping[str, float]) -> dict[str, Row]:
    rows = figures.filter(pl.col("split") == ALL).iter_rows(named=True)
    found = {row["metric"]: row for row in rows}
    return {
        name: {
            "truth": round(wanted, 5),
            **{key: round(found[name][key], 5) for key in ("estimate", "low", "high")},
            "inside": found[name]["low"] <= wanted <= found[name]["high"],
        }
        for name, wanted in truth.items()
    }


def timed(folder: Path, settings: Path) -> Row:
    """One day through the command; then again, killed in the middle."""
    shown = simulate(MILLION_A_DAY, folder / "events")
    command = ["-m", "recsys", "measure", str(folder / "events"), "--settings", str(settings), "--out"]
    done = run_measured([*command, str(folder / "whole")], ROOT)
    if done.code:
        raise SystemExit(done.output)
    for share in (0.35, 0.6):
        run_measured([*command, str(folder / "crashed")], ROOT, limit_s=share * done.seconds)
    run_measured([*command, str(folder / "crashed")], ROOT)
    same = tables(folder / "whole") == tables(folder / "crashed")
    console.print(done.output)
    return {
        "part": "a day",
        "items_shown": int(shown.items.size),
        "seconds": round(done.seconds, 1),
        "cpu_s": round(done.cpu_s, 1),
        "peak_mib": round(done.peak_mib),
        "same_bytes_after_two_kills": same,
    }


def tables(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.glob("*/*.parquet"))}


def coverage(folder: Path, settings: Path, shops: int = SHOPS, big: int = BIG) -> dict[str, float]:
    """Share of populations whose interval holds the truth, by figure."""
    everybody = replace(SMALL, users=big, population=1_000_000)
    truth, inside = truths(everybody, visits(everybody)), defaultdict(list)
    for population in track(range(shops), "populations"):
        place = folder / str(population)
        simulate(replace(SMALL, population=population), place / "events", history=0)
        figures = kpis(measured(place / "events", settings, place / "measured"), EVER, splits=(ALL,))
        for name, row in compared(figures, truth).items():
            inside[name].append(row["inside"])
    return {name: float(np.mean(one)) for name, one in inside.items()}


def claimed(day: Row, five: Mapping[str, Row], covered: Mapping[str, float]) -> dict[str, Figure]:
    inside = float(np.mean([row["inside"] for row in five.values()]))
    return {
        "day_of_a_million_s": Figure(value=day["seconds"], unit="s", goal=GOAL_S, better="lower"),
        "same_bytes_after_two_kills": Figure(
            value=float(day["same_bytes_after_two_kills"]), unit="1 is yes", goal=1.0, better="higher"
        ),
        "figures_of_a_million_inside": Figure(value=inside, unit=f"of {len(five)} figures", goal=1.0, better="higher"),
        "least_coverage": Figure(
            value=min(covered.values()), unit=f"of {SHOPS} populations", goal=0.93, better="higher"
        ),
        "greatest_coverage": Figure(
            value=max(covered.values()), unit=f"of {SHOPS} populations", goal=0.97, better="lower"
        ),
    }


def main() -> None:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder, settings = Path(scratch), Path(scratch, "settings.yaml")
        settings.write_text(YAML, encoding="utf-8")
        day = timed(folder / "day", settings)
        shown = simulate(MILLION, folder / "five" / "events")
        five = compared(
            kpis(measured(folder / "five" / "events", settings, folder / "five" / "measured"), EVER),
            truths(MILLION, shown),
        )
        covered = coverage(folder / "small", settings)
    rows = [day, *({"part": "five days", "figure": name, **row} for name, row in five.items())]
    rows += [{"part": "coverage", "figure": name, "share": share} for name, share in covered.items()]
    for row in rows:
        console.print(row)
    figures = claimed(day, five, covered)
    print_figures(figures)
    console.print(f"wrote {write_result('outcomes', rows, figures, time.perf_counter() - start)}")


if __name__ == "__main__":
    main()
