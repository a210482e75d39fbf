"""Do limits on exposure hold over a stream of requests, and what do they cost?

    python -m benchmarks.claims.policy.exposure [run folder, runs/demo if none is given]

Reads a finished run of train.py. Every question of the test period is retrieved and ranked once and then asked in the order
of time, PASSES times over; after each page its items are counted, and the next request carries the counters in
Query.exposure (recsys/evaluation/stream.py). Rules and dials are set here, none is chosen: the table shows the price of each.
Figures are those of the pages behind the first pass, in which the counters fill.

Worst over cap and worst under floor: share of the worst value over `most`, of the worst value under `least`; 1 is kept exactly.

Shapes: B questions, K places, N items.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.progress import track
from rich.table import Table

from benchmarks.claims.policy.diversity import Finished, countable, finished
from benchmarks.lib.exposure_chart import draw_prices
from benchmarks.lib.result_file import RESULTS, Figure, console, print_figures, write_result
from recsys.data.splits import TEST
from recsys.errors import exit_on_error
from recsys.evaluation.exposure import exposure, gini, intra_list_distance, top_share
from recsys.evaluation.stream import ITEM, ExposureCounters, StreamedSlates, stream_slates
from recsys.metrics import hits, ndcg
from recsys.policy.compose import Policy
from recsys.policy.diversity import MaximalMarginalRelevance
from recsys.policy.exploration import NoExploration
from recsys.policy.popularity import EVENTS, EXPOSURE, PopularityDial
from recsys.policy.repeat import Repeat
from recsys.policy.rules import RuleSet
from recsys.policy.value import ValueFormula
from recsys.stages import Rules, rules_maker

PLACES, PASSES = 10, 3
MOST = 1_000
"""questions, at most"""
STRENGTH = 30
TOP, TOP_LIMIT = 0.01, 0.05
"""the most shown hundredth of the items is to have at most a twentieth of the exposure"""
TOLERANCE = 1.25
"""of a limit, what a rule of this strength may miss it by"""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is tried."""

    name: str
    rules: tuple[dict[str, Any], ...] = ()
    dial: PopularityDial


def settings(run: Finished) -> Iterator[Setting]:
    """Nothing, the dial on both counts, a limit on groups where there are some, limits on every item."""
    off = PopularityDial.off()
    yield Setting(name="nothing", dial=off)
    for discount in (0.05, 0.1) if EVENTS in countable(run.bundle) else ():
        yield Setting(name=f"dial on events {discount}", dial=PopularityDial(discount=discount, of=EVENTS))
    for discount in (0.1, 0.2, 0.3, 0.4):
        yield Setting(name=f"dial on exposure {discount}", dial=PopularityDial(discount=discount, of=EXPOSURE))
    for column, held in run.attributes.columns.items():
        if len(held.values) <= 50:
            yield Setting(name=f"{column}: 2% to 20%", rules=(limit(column, 0.02, 0.2),), dial=off)
    for most in (0.05, 0.02, 0.01, top_item_share(run)):
        yield Setting(name=f"item: at most {most:.2%}", rules=(limit(ITEM, 0.0, most),), dial=off)


def limit(column: str, least: float, most: float) -> dict[str, Any]:
    return {"name": f"fair-{column}", "exposure": column, "least": least, "most": most, "strength": STRENGTH}


def top_item_share(run: Finished) -> float:
    """What every item may have so that the TOP of them stay below TOP_LIMIT."""
    return TOP_LIMIT / max(1, int(TOP * run.num_items))


def stage_of(run: Finished, setting: Setting) -> Rules:
    own = ValueFormula(**run.bundle.document("policy.yaml")["value"])
    policy = Policy(
        value=own,
        popularity=setting.dial,
        diversity=MaximalMarginalRelevance(trade_off=1.0, window=0, span=None, content=0.0),
        exploration=NoExploration(),
        repeat=Repeat.never(),
    )
    return rules_maker(run.bundle, policy=policy)(RuleSet.parse({"rules": list(setting.rules)}))


def measured(run: Finished, setting: Setting) -> Row:
    asked = run.asked
    num = len(asked.questions)
    counters = ExposureCounters(run.attributes.columns, run.items, half_life=num * PLACES)
    shown = stream_slates(stage_of(run, setting), asked.singles() * PASSES, counters, PLACES)
    rows = shown.rows[num:]
    targets = asked.questions.targets
    found = [ndcg(hits(part, targets), targets.num_targets, PLACES) for part in np.split(rows, PASSES - 1)]
    weights = exposure(rows, run.num_items, PLACES, discounted=False)
    return {
        "setting": setting.name,
        "ndcg@10": float(np.mean(found)),
        "gini": gini(weights),
        "coverage": float((weights > 0).mean()),
        "top_1_percent": top_share(weights, 0.01),
        "top_5_percent": top_share(weights, 0.05),
        "distance": float(intra_list_distance(rows, run.attributes.units, PLACES).mean()),
        **kept(run, setting, shown, num),
    }


def kept(run: Finished, setting: Setting, shown: StreamedSlates, first: int) -> dict[str, float | None]:
    """How far the worst value lies over the cap and under the floor of the rule, as a share of them."""
    if not setting.rules:
        return {"over_cap": None, "under_floor": None}
    (rule,) = setting.rules
    column = rule["exposure"]
    shares = (
        shown.item_shares(run.num_items, first)
        if column == ITEM
        else shown.shares(run.attributes.columns[column], first)
    )
    return {
        "over_cap": float(shares.max() / rule["most"]),
        "under_floor": float(shares.min() / rule["least"]) if rule["least"] else None,
    }


def table(rows: Sequence[Row], name: str) -> Table:
    shown = Table(
        title=f"{name}, TEST asked {PASSES} times one after the other", box=box.SIMPLE_HEAD, title_justify="left"
    )
    measures = {
        "ndcg@10": "NDCG@10",
        "gini": "Gini",
        "coverage": "coverage",
        "top_1_percent": "top 1%",
        "top_5_percent": "top 5%",
        "distance": "distance",
    }
    for heading in ("setting", *measures.values(), "worst over cap", "worst under floor"):
        shown.add_column(heading, justify="left" if heading == "setting" else "right")
    for row in rows:
        cells = [f"{row[key]:.4f} ({row[key] / rows[0][key] - 1:+.1%})" for key in measures]
        limits = ["" if row[key] is None else f"{row[key]:.2f}" for key in ("over_cap", "under_floor")]
        shown.add_row(row["setting"], *cells, *limits)
    return shown


def figures(rows: Sequence[Row]) -> dict[str, Figure]:
    """The worst miss of a cap on groups and items that the catalogue can keep, and what the dial reaches for 1%."""
    plain = rows[0]
    cheap = [row for row in rows if row["ndcg@10"] >= 0.99 * plain["ndcg@10"]]
    best = min(cheap, key=lambda row: row["gini"])
    caps = [row["over_cap"] for row in rows if row["over_cap"] is not None]
    floors = [row["under_floor"] for row in rows if row["under_floor"] is not None]
    top = rows[-1]
    claimed = {
        "worst_over_cap": Figure(value=round(max(caps), 3), unit="of the cap", goal=TOLERANCE, better="lower"),
        "top_1_percent_limited": Figure(
            value=round(top["top_1_percent"], 4),
            unit=f"{top['setting']}, NDCG@10 {top['ndcg@10'] / plain['ndcg@10'] - 1:+.1%}",
            goal=TOP_LIMIT * TOLERANCE,
            better="lower",
        ),
        "gini_change": Figure(
            value=round(best["gini"] / plain["gini"] - 1, 4),
            unit=f"{best['setting']}, NDCG@10 {best['ndcg@10'] / plain['ndcg@10'] - 1:+.1%}",
            goal=-0.2,
            better="lower",
        ),
    }
    if floors:
        claimed["worst_under_floor"] = Figure(
            value=round(min(floors), 3), unit="of the floor", goal=1 / TOLERANCE, better="higher"
        )
    return claimed


def main() -> None:
    start, folder = time.perf_counter(), Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
    run = finished(folder, period=TEST, most=MOST)
    rows = [measured(run, setting) for setting in track(list(settings(run)), run.name)]
    console.print(table(rows, run.name))
    claimed = figures(rows)
    print_figures(claimed)
    draw_prices(RESULTS / "exposure.png", rows, run.name)
    console.print(f"\nresult   {write_result('exposure', rows, claimed, time.perf_counter() - start)}")
    console.print(f"picture  {RESULTS / 'exposure.png'}")
    console.print("next     python train.py policy.popularity.discount=... policy.popularity.of=exposure", style="bold")


if __name__ == "__main__":
    with exit_on_error():
        main()
