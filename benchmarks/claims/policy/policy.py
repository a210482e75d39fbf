"""What does the policy cost, and does it keep its word?

Timed: 500 candidates, 50 rules with caps and floors, a determinantal slate of 50, exploration, explanations; beside CEL
(cel-python) and JsonLogic (json-logic-qubit) that evaluate nothing but the conditions of the same rules, item by item.
Compared with the exact optimum: greedy determinants and quotas on 1,000 small instances each. Fuzzed: a million slates.

Shapes: B queries, C candidates, K places.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import celpy
import numpy as np
from json_logic import jsonLogic
from rich import box
from rich.progress import track
from rich.table import Table

from benchmarks.claims.policy.policy_fuzz import Fuzzed, fuzzed
from benchmarks.lib.policy_world import CANDIDATES, catalogue, conditions, requests, timed_policies
from benchmarks.lib.result_file import Figure, console, print_figures, write_result
from recsys.contracts import CandidateBatch, Query
from recsys.errors import exit_on_error
from recsys.policy.compose import CompiledPolicy
from recsys.policy.diversity import Determinantal, MaximalMarginalRelevance
from recsys.policy.diversity.diversity import ItemSimilarity
from recsys.policy.diversity.item_vectors import normalize_rows
from recsys.policy.exploration import NoExploration
from recsys.policy.exploration.exploration import ExplorationDraws
from recsys.policy.pool import EligiblePool
from recsys.policy.slate.selection import QuotaLimits, select

NUM_REQUESTS = 1_000
WHOLE = "the whole policy"
NUM_INSTANCES = 1_000
NUM_LOGIC, NUM_CEL = 5, 1
"""requests that the other languages answer"""
SMALL, CHOSEN = 12, 4
Request = tuple[Query, CandidateBatch]
Row = dict[str, Any]


def timed(what: str, policy: CompiledPolicy, asked: Sequence[Request]) -> Row:
    """Milliseconds by the clock and of CPU, one request after the other."""
    policy.compose([asked[0][0]], asked[0][1])
    clock, cpu = [], []
    for query, candidates in track(asked, what):
        began, used = time.perf_counter(), time.process_time()
        policy.compose([query], candidates)
        clock.append(1e3 * (time.perf_counter() - began))
        cpu.append(1e3 * (time.process_time() - used))
    return {
        "what": what,
        "requests": len(asked),
        **{f"p{share}_ms": round(float(np.percentile(clock, share)), 3) for share in (50, 99)},
        "cpu_ms": round(float(np.mean(cpu)), 3),
    }


def conditions_of_ours(policy: CompiledPolicy, asked: Sequence[Request]) -> tuple[Row, list[np.ndarray]]:
    """All rules of all candidates, without the selection; and where each condition holds."""
    clock, held = [], []
    for query, candidates in asked:
        began = time.perf_counter()
        applied = policy.rules([query], candidates.rows)
        clock.append(1e3 * (time.perf_counter() - began))
        held.append(applied.holds[0])
    return {"what": "conditions alone, ours", "requests": len(asked), "p50_ms": round(float(np.median(clock)), 3)}, held


def conditions_of(
    name: str, holds: Callable[[int, dict[str, Any]], bool], rows: Sequence[dict[str, Any]], asked: Sequence[Request]
) -> tuple[Row, list[np.ndarray]]:
    """The same by another language, one item and one condition after the other."""
    num, clock, held = len(conditions()), [], []
    for query, candidates in track(asked, name):
        items = [{**rows[row], "user": dict(query.profile)} for row in candidates.rows[0]]
        began = time.perf_counter()
        held.append(np.array([[holds(place, item) for place in range(num)] for item in items]))
        clock.append(1e3 * (time.perf_counter() - began))
    return {
        "what": f"conditions alone, {name}",
        "requests": len(asked),
        "p50_ms": round(float(np.median(clock)), 1),
    }, held


def cel() -> Callable[[int, dict[str, Any]], bool]:
    environment = celpy.Environment()
    programs = [environment.program(environment.compile(condition.cel)) for condition in conditions()]
    return lambda place, item: bool(
        programs[place].evaluate({key: celpy.json_to_cel(one) for key, one in item.items()})
    )


def logic() -> Callable[[int, dict[str, Any]], bool]:
    listed = [condition.logic for condition in conditions()]
    return lambda place, item: bool(jsonLogic(listed[place], item))


def determinants(rng: np.random.Generator) -> np.ndarray:
    """Greedy over best log det(I + L) of 4 of 12 items, [1,000]."""
    sets = np.array(list(itertools.combinations(range(SMALL), CHOSEN)))
    shares = []
    for _ in track(range(NUM_INSTANCES), "determinants"):
        units = normalize_rows(rng.normal(size=(SMALL, 6)).astype(np.float32))
        utility = np.sort(rng.random(SMALL))[::-1]
        trade_off = rng.uniform(0, 0.9)
        diversity = Determinantal(trade_off=trade_off, window=CHOSEN, span=None, content=0.0)
        pool = small_pool(utility, CHOSEN)
        scoring = diversity.scoring(
            pool, ItemSimilarity(units=units, shares=np.empty((SMALL, 0), dtype=np.float32)), [[]], ranked=True
        )
        found = select(
            pool,
            QuotaLimits.none(1, SMALL),
            diversity,
            scoring,
            NoExploration(),
            ExplorationDraws.none(1, CHOSEN),
        ).columns[0]
        relevance = (utility - utility.min()) / (utility.max() - utility.min())
        quality = np.exp(0.5 * relevance * trade_off / (1 - trade_off))
        kernel = np.eye(SMALL) + quality[:, None] * quality * (units @ units.T)
        values = np.linalg.slogdet(kernel[sets[:, :, None], sets[:, None, :]])[1]
        own = np.sort(found)
        shares.append(np.linalg.slogdet(kernel[np.ix_(own, own)])[1] / values.max())
    return np.array(shares)


def small_pool(utility: np.ndarray, places: int) -> EligiblePool:
    num = len(utility)
    return EligiblePool(
        rows=np.arange(num)[None],
        utility=utility[None],
        eligible=np.ones((1, num), dtype=bool),
        pinned=np.full((1, places), -1),
        sizes=np.array([places]),
    )


def quotas(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Utility over the best that keeps a cap of a column and two floors, 5 of 12; and how often one yielded in vain."""
    places, shares, in_vain = 5, [], 0
    sets = np.array(list(itertools.combinations(range(SMALL), places)))
    diversity = MaximalMarginalRelevance(trade_off=1.0, window=0, span=None, content=0.0)
    for _ in track(range(NUM_INSTANCES), "quotas"):
        utility = np.sort(rng.random(SMALL))[::-1]
        groups, floors = rng.integers(0, 4, SMALL), rng.random((2, SMALL)) < 0.35
        cap, least = int(rng.integers(2, 4)), rng.integers(1, 3, 2)
        limits = QuotaLimits(
            bits=np.array([4, 2, 1]),
            numbers=np.array([cap, *least]),
            tops=np.full(3, places),
            active=np.ones((1, 3), dtype=bool),
            group_quota=np.zeros(4, dtype=np.int32),
            groups=groups[None, :, None].astype(np.int32),
            floors=np.array([1, 2]),
            satisfies=np.ascontiguousarray(floors.T)[None],
            item_violations=np.zeros((1, SMALL), dtype=np.int64),
        )
        pool = small_pool(utility, places)
        scoring = diversity.scoring(
            pool,
            ItemSimilarity(units=np.eye(SMALL, 1, dtype=np.float32), shares=np.empty((SMALL, 0))),
            [[]],
            ranked=True,
        )
        selection = select(pool, limits, diversity, scoring, NoExploration(), ExplorationDraws.none(1, places))
        counts = np.stack([(groups[sets] == group).sum(1) for group in range(4)])
        kept = (counts <= cap).all(0) & (floors[0][sets].sum(1) >= least[0]) & (floors[1][sets].sum(1) >= least[1])
        if kept.any():
            in_vain += int(selection.relaxed[0] != 0)
            shares.append(utility[selection.columns[0]].sum() / utility[sets[kept]].sum(1).max())
    return np.array(shares), in_vain


def figures(rows: Sequence[Row], fuzz: Fuzzed) -> dict[str, Figure]:
    by = {row["what"]: row for row in rows}
    whole, ours = by[WHOLE], by["conditions alone, ours"]["p50_ms"]
    determinant, quota = by["greedy determinant"], by["greedy quotas"]
    return {
        "policy_p50_ms": Figure(value=whole["p50_ms"], unit="ms a request, one thread", goal=1.5, better="lower"),
        "policy_p99_ms": Figure(value=whole["p99_ms"], unit="ms a request, one thread", goal=3.0, better="lower"),
        "times_faster_than_cel": _faster(by["conditions alone, CEL"]["p50_ms"], ours),
        "times_faster_than_json_logic": _faster(by["conditions alone, JsonLogic"]["p50_ms"], ours),
        "determinant_share_of_optimum": _share(determinant["mean"], "mean log det(I + L), greedy / best"),
        "quota_share_of_optimum": _share(quota["mean"], "mean utility, greedy / best that keeps all quotas"),
        **{
            name: Figure(value=value, unit=f"of {fuzz.slates:,} slates", goal=0, better="lower")
            for name, value in fuzz.broken.items()
        },
    }


def _faster(theirs: float, ours: float) -> Figure:
    return Figure(value=round(theirs / ours, 1), unit="times, conditions of 500 candidates", goal=50, better="higher")


def _broken(value: int, slates: int) -> Figure:
    return Figure(value=value, unit=f"of {slates:,} slates", goal=0, better="lower")


def _share(value: float, unit: str) -> Figure:
    return Figure(value=round(value, 4), unit=unit, goal=0.99, better="higher")


def table(rows: Sequence[Row]) -> Table:
    shown = Table(title="What the policy costs and what greedy choice loses", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("what", "figures"):
        shown.add_column(heading)
    for row in rows:
        shown.add_row(row["what"], ", ".join(f"{key} {value}" for key, value in row.items() if key != "what"))
    return shown


def measured() -> tuple[list[Row], Fuzzed]:
    rng = np.random.default_rng(0)
    columns = catalogue(rng)
    policies = timed_policies(columns, rng)
    policy, plain_requests = policies["epsilon"], list(requests(NUM_REQUESTS, rng))
    deviations = rng.random((1, CANDIDATES, 2)).astype(np.float32)
    asked = [(query, replace(candidates, logit_std=deviations)) for query, candidates in plain_requests]
    plain = [
        dict(zip(columns, one, strict=True)) for one in zip(*(part.tolist() for part in columns.values()), strict=True)
    ]
    plain = [{**row, "tags": list(row["tags"])} for row in plain]
    rows = [
        timed(WHOLE, policy, asked),
        timed("the same, Thompson sampling", policies["thompson"], asked),
    ]
    ours, held = conditions_of_ours(policy, asked[:100])
    rows.append(ours)
    own = [
        place for place, rule in enumerate(policy.rules.rules) if hasattr(rule, "must") or getattr(rule, "where", None)
    ]
    for name, language, num in (("JsonLogic", logic(), NUM_LOGIC), ("CEL", cel(), NUM_CEL)):
        row, theirs = conditions_of(name, language, plain, asked[:num])
        row["same answers"] = all(np.array_equal(one[:, own], two) for one, two in zip(held, theirs, strict=False))
        rows.append(row)
    rows.append(_shares("greedy determinant", determinants(rng)))
    shares, in_vain = quotas(rng)
    rows.append({**_shares("greedy quotas", shares), "yielded though all could be kept": in_vain})
    fuzz = fuzzed(rng)
    return [*rows, {"what": "fuzz", "slates": fuzz.slates, **fuzz.broken, **fuzz.seen}], fuzz


def _shares(what: str, shares: np.ndarray) -> Row:
    return {
        "what": what,
        "instances": len(shares),
        "mean": round(float(shares.mean()), 5),
        "worst": round(float(shares.min()), 4),
    }


def main() -> None:
    start = time.perf_counter()
    rows, fuzz = measured()
    claimed = figures(rows, fuzz)
    console.print(table(rows))
    print_figures(claimed)
    console.print(f"\nresult   {write_result('policy', rows, claimed, time.perf_counter() - start)}")
    console.print("next     python -m benchmarks.claims.policy.diversity", style="bold")


if __name__ == "__main__":
    with exit_on_error():
        main()
