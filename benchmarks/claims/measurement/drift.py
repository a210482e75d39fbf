"""Does a monitor of drift find what is planted, how soon, and how often does it cry wolf? On simulated shops.

    python -m benchmarks.claims.measurement.drift

* Quiet: 30 days after a warm-up, with a weekend season and a day of tenfold traffic, looked at every hour: alarms, each column
  and figure once, of QUIET populations.
* One fault a world, from day FROM on: hours until the first alarm of the figure that is about it, against the stated delay.
* A feed of items that stops: hours until its age is an alarm, by the limit that a file of thresholds sets.
* CPU seconds of counting a day of a million items shown.

The reference is that of another population of the same shop. Writes benchmarks/results/drift.json.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.lib.drift_world import WARM_UP, WatchedShop, counts_of_log, population, reference_of, write_log
from benchmarks.lib.result_file import Figure, console, print_figures, write_result
from recsys.data.simulation.faults import Faults
from recsys.data.simulation.shop import SimulatedShop
from recsys.measurement.drift.figures import moment_figure
from recsys.measurement.drift.reference import Reference
from recsys.measurement.drift.thresholds import Thresholds

SHOP = SimulatedShop(users=3_000, items=500, days=WARM_UP + 30, slate=10, seed=3, season=0.3)
BURST = replace(SHOP, burst=(WARM_UP + 16.0, 10.0))
QUIET = 5
FROM = WARM_UP + 10
ITEMS_LIMIT_H = 24.0
NEVER_H = 9_999.0
"""hours of a fault that no figure found"""


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A fault, the figure that is about it, and the delay that is stated for it."""

    name: str
    faults: Faults
    figures: tuple[tuple[str, str], ...]
    """(figure, column or metric), any of which finds it"""
    within_h: int


PLANTED = (
    Planted(
        name="a column missing for 2%",
        faults=Faults(missing=(FROM, 0.02)),
        figures=(("missing", "context.device"),),
        within_h=24,
    ),
    Planted(
        name="a category renamed",
        faults=Faults(renamed=(FROM, 1.0)),
        figures=(("unknown", "context.device"), ("psi", "context.device")),
        within_h=12,
    ),
    Planted(
        name="a shift of .2 standard deviations",
        faults=Faults(shifted=(FROM, 0.2)),
        figures=(("wasserstein", "profile.age"),),
        within_h=72,
    ),
    Planted(
        name="5% of NDCG lost",
        faults=Faults(lost=(FROM, 0.05)),
        figures=(("drop", "click_ndcg@10"),),
        within_h=7 * 24,
    ),
    Planted(
        name="one item at 9% of exposure",
        faults=Faults(favoured=(FROM, 0.9)),
        figures=(("top_item", str(SHOP.item_names[0])),),
        within_h=24,
    ),
    Planted(
        name="states that lack two days",
        faults=Faults(stale=(FROM, 0.2)),
        figures=(("stale_state", ""),),
        within_h=24,
    ),
)


def main() -> None:
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_log(root / "reference", population(SHOP, 1), Faults())
        reference = reference_of(root / "reference", WARM_UP)
        seeds = track(range(2, 2 + QUIET), "quiet populations", console=console)
        quiet = [_quiet(root / f"quiet_{seed}", seed, reference) for seed in seeds]
        rows = [_planted(root, one, reference) for one in track(PLANTED, "faults", console=console)]
        speed = _speed(root / "speed", reference)
    missed = [row["hours"] is None for row in rows]
    figures = {
        "30 quiet days, one of them tenfold": Figure(
            value=max(len(one["alarms"]) for one in quiet),
            unit="alarms of the worst population",
            goal=1,
            better="lower",
        ),
        **{
            row["name"]: Figure(
                value=NEVER_H if never else row["hours"], unit="hours until found", goal=row["within_h"], better="lower"
            )
            for row, never in zip(rows, missed, strict=True)
        },
        "a feed of items that stops": Figure(
            value=stale_feed_h(), unit="hours until found", goal=ITEMS_LIMIT_H + 1, better="lower"
        ),
        "a day of a million items": Figure(value=round(speed, 1), unit="CPU s to count", goal=60, better="lower"),
    }
    print_figures(figures)
    rows = [*quiet, *rows]
    console.print(f"result   {write_result('drift', rows, figures, time.perf_counter() - begun)}")


def _quiet(folder: Path, seed: int, reference: Reference) -> dict[str, Any]:
    watched = WatchedShop.of(folder, population(BURST, seed), reference, Faults())
    alarms: dict[tuple[str, str], int] = {}
    for hour, figure in watched.alarms():
        alarms.setdefault((figure.figure, figure.of), hour)
    shown = [{"figure": figure, "of": of, "hour": hour} for (figure, of), hour in alarms.items()]
    return {"name": f"quiet population {seed}", "days": 30, "burst": 10, "alarms": shown}


def _planted(root: Path, planted: Planted, reference: Reference) -> dict[str, Any]:
    """First alarm of the figures of a fault after it began; alarms of them before it are counted."""
    watched = WatchedShop.of(root / planted.name, population(SHOP, 2), reference, planted.faults)
    found = [hour - FROM * 24 for hour, one in watched.alarms() if (one.figure, one.of) in planted.figures]
    after = min((hour for hour in found if hour > 0), default=None)
    return {
        "name": planted.name,
        "hours": after,
        "within_h": planted.within_h,
        "before": sum(hour <= 0 for hour in found),
        "found": after is not None and after <= planted.within_h,
    }


def stale_feed_h() -> float:
    """Hours after the last change of an item at which its age is an alarm, looked at every hour."""
    thresholds = Thresholds(limits={"items_age_h": ITEMS_LIMIT_H})
    return next(float(age) for age in range(1_000) if moment_figure("items_age_h", float(age), thresholds).alarm)


def _speed(folder: Path, reference: Reference) -> float:
    """CPU seconds of counting the log of one day with 100,000 requests of ten items."""
    day = replace(SHOP, users=97_000, days=1, population=4)
    write_log(folder / "events", day, Faults())
    counts = counts_of_log(folder, reference)
    begun = time.process_time()
    counts.update()
    return time.process_time() - begun


if __name__ == "__main__":
    main()
