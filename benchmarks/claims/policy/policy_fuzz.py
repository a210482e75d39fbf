"""A million random slates, and which promises of the policy they break.

Shapes: B queries, C candidates, K places.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from rich.progress import track
from scipy.optimize import LinearConstraint, milp

from benchmarks.lib.policy_world import catalogue, compiled
from recsys.contracts import PAD, CandidateBatch, Query
from recsys.policy.compose import CompiledPolicy
from recsys.policy.diversity import Determinantal, Diversity, MaximalMarginalRelevance, MaxSum, Proportions
from recsys.policy.exploration import EpsilonGreedy, NoExploration, Softmax, Thompson
from recsys.policy.rules import RuleSet

BATCHES, BATCH, OFFERED, PLACES, ITEMS = 1_000, 1_000, 24, 8, 300
WORTH = (-1.0, -0.25, 0.0, 0.0, 0.1, 0.5, 0.5, 0.9, np.nan)
"""negative, tied and unknown utilities among them"""
MUST = {"name": "must", "must": "price < 80 and year >= 1955"}
BY_AGE = {"name": "by-age", "must": "min_age <= user.age", "when": "user.age < 18"}
CAP = {"name": "cap", "cap": 2, "of": "genre", "top": 6}
TAGS = {"name": "tags", "cap": 3, "of": "tags", "top": 8}
FLOOR = {"name": "floor", "floor": 2, "where": "year >= 1990", "top": 5}
OTHERS = (
    {"name": "boost", "boost": 2, "where": "year > 1980"},
    {"name": "bury", "bury": 3, "where": "genre == 'g1'"},
    {"name": "pin", "pin": 1, "where": "price < 30"},
)
DIVERSITIES: tuple[Diversity, ...] = (
    MaximalMarginalRelevance(trade_off=1.0, window=0, span=None, content=0.0),
    MaximalMarginalRelevance(trade_off=0.6, window=6, span=None, content=0.5),
    Determinantal(trade_off=0.6, window=8, span=None, content=0.5),
    MaxSum(trade_off=0.6, window=6, span=0.3, content=0.5),
    Proportions(trade_off=0.6, window=8, span=None, of="genre"),
)
EXPLORATIONS = (
    NoExploration(),
    EpsilonGreedy(rate=0.3, first=1),
    Softmax(rate=0.3, first=0),
    Thompson(rate=1.0, first=0),
)


@dataclass(frozen=True, kw_only=True)
class Fuzzed:
    slates: int
    broken: dict[str, int]
    seen: dict[str, int]
    """how often there was something to break"""


def fuzzed(rng: np.random.Generator) -> Fuzzed:
    columns = catalogue(rng, ITEMS)
    broken = dict.fromkeys(
        ("must_violations", "cap_violations", "pages_not_full", "not_repeatable", "inverted_orders", "batch_differs"), 0
    )
    seen = {"capped": 0, "caps that did not hold": 0, "caps that could have been kept, but for chance": 0}
    policies = list(_policies(columns, rng))
    for number in track(range(BATCHES), "fuzz"):
        rules, policy = policies[number % len(policies)]
        queries, offered = _requests(rng, number)
        rows = policy.rows(queries, offered)
        showable = _showable(columns, rules, queries, offered.rows)
        shown = _shown(offered.rows, rows)
        broken["must_violations"] += int((shown & ~showable).any(1).sum())
        full = np.minimum(PLACES, showable.sum(1))
        broken["pages_not_full"] += int(((rows != PAD).sum(1) != full).sum())
        for rule in (rule for rule in rules if "cap" in rule):
            over = _over(columns, rule, rows)
            seen["capped"] += BATCH
            seen["caps that did not hold"] += int(over.sum())
            explores = policy.exploration.explores
            kept = sum(
                _could_keep(columns, rules, offered.rows[row][showable[row]], _pinned(columns, rules, rows[row]))
                for row in np.flatnonzero(over)
            )
            broken["cap_violations"] += 0 if explores else kept
            seen["caps that could have been kept, but for chance"] += kept if explores else 0
        if policy.diversity.trade_off == 1 and not policy.exploration.explores and not rules:
            broken["inverted_orders"] += _inverted(policy, offered, rows)
        if number % 20 == 0:
            broken["not_repeatable"] += int((policy.rows(queries, offered) != rows).any())
            alone = partial(_alone, policy, queries, offered, rows)
            broken["batch_differs"] += sum(map(alone, (0, 17, 500)))
    return Fuzzed(slates=BATCHES * BATCH, broken=broken, seen=seen)


def _policies(columns: dict[str, np.ndarray], rng: np.random.Generator) -> Iterator[tuple[list[dict], CompiledPolicy]]:
    vectors = rng.normal(size=(ITEMS, 8)).astype(np.float32)
    choices: tuple[list[dict], ...] = (
        [],
        [MUST, CAP],
        [MUST, BY_AGE, CAP, *OTHERS],
        [MUST, BY_AGE, TAGS, FLOOR, CAP, *OTHERS],
    )
    for rules in choices:
        for diversity in DIVERSITIES:
            for exploration in EXPLORATIONS:
                yield rules, compiled(columns, RuleSet.parse({"rules": rules}), diversity, exploration, vectors)


def _requests(rng: np.random.Generator, number: int) -> tuple[list[Query], CandidateBatch]:
    queries = [
        Query(user="u", now=0.0, k=PLACES, request_id=f"{number} {one}", profile={"age": float(age)})
        for one, age in enumerate(rng.integers(5, 30, BATCH))
    ]
    rows = rng.random((BATCH, ITEMS)).argpartition(OFFERED, axis=1)[:, :OFFERED]
    scores = np.where(rng.random(rows.shape) < 0.1, -np.inf, 0).astype(np.float32)
    items = np.where(np.isneginf(scores), PAD, rows)
    order = np.argsort(items == PAD, axis=1, kind="stable")
    items, scores = (np.take_along_axis(one, order, axis=1) for one in (items, scores))
    values = rng.choice(np.array(WORTH, dtype=np.float32), (*items.shape, 2))
    deviations = np.where(rng.random(values.shape) < 0.2, 0, rng.random(values.shape)).astype(np.float32)
    return queries, CandidateBatch(
        rows=items,
        scores=scores,
        source_scores=np.repeat(scores[..., None], 2, axis=2),
        degraded=((),) * BATCH,
        probabilities=values,
        logit_std=deviations,
    )


def _showable(columns: dict[str, np.ndarray], rules: list[dict], queries: list[Query], items: np.ndarray) -> np.ndarray:
    """[B, C] by the musts, written out by hand."""
    names, showable = {rule["name"] for rule in rules}, items != PAD
    if "must" in names:
        showable = showable & (columns["price"][items] < 80) & (columns["year"][items] >= 1955)
    if "by-age" in names:
        ages = np.array([[query.profile["age"]] for query in queries])
        showable = showable & ((ages >= 18) | (columns["min_age"][items] <= ages))
    return showable


def _shown(items: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return ((items[:, :, None] == rows[:, None, :]) & (rows != PAD)[:, None, :]).any(-1)


def _members(columns: dict[str, np.ndarray], rule: dict) -> np.ndarray:
    """[N + 1, V] bool, values of each item in the column of a cap; none of PAD."""
    values = [one if isinstance(one, tuple) else (one,) for one in columns[rule["of"]]]
    known = sorted({value for row in values for value in row})
    members = np.zeros((len(values) + 1, len(known)), dtype=bool)
    for row, mine in enumerate(values):
        members[row, [known.index(value) for value in mine]] = True
    return members


def _over(columns: dict[str, np.ndarray], rule: dict, rows: np.ndarray) -> np.ndarray:
    """[B] bool, where a cap does not hold."""
    counts = _members(columns, rule)[rows[:, : rule["top"]]].sum(axis=1)
    return np.asarray((counts > rule["cap"]).any(axis=1))


def _pinned(columns: dict[str, np.ndarray], rules: list[dict], page: np.ndarray) -> int:
    """The item that the pin put on its place, PAD for none: pins stand before caps."""
    pins = [rule["pin"] for rule in rules if "pin" in rule]
    return int(page[pins[0]]) if pins and columns["price"][page[pins[0]]] < 30 else PAD


def _could_keep(columns: dict[str, np.ndarray], rules: list[dict], items: np.ndarray, pinned: int) -> int:
    """Whether some slate of these items keeps all caps and floors (a 0/1 program: item i on place p)."""
    size = min(PLACES, len(items))
    if not size:
        return 0
    places = np.arange(size)
    at = np.eye(len(items) * size).reshape(len(items), size, -1)
    constraints = [LinearConstraint(at.sum(0), 1, 1), LinearConstraint(at.sum(1), 0, 1)]
    for rule in rules:
        inside = at[:, places < rule.get("top", 0)].sum(1)
        if "cap" in rule:
            constraints.append(
                LinearConstraint(_members(columns, rule)[items].T.astype(float) @ inside, 0, rule["cap"])
            )
        if "floor" in rule:
            constraints.append(
                LinearConstraint((columns["year"][items] >= 1990).astype(float) @ inside, rule["floor"], np.inf)
            )
    if pinned != PAD:
        here = at[items == pinned, next(rule["pin"] for rule in rules if "pin" in rule)]
        constraints.append(LinearConstraint(here, 1, 1))
    solved = milp(np.zeros(at.shape[-1]), constraints=constraints, integrality=np.ones(at.shape[-1]), bounds=(0, 1))
    return int(solved.status == 0)


def _inverted(policy: CompiledPolicy, offered: CandidateBatch, rows: np.ndarray) -> int:
    """Slates in which a larger utility stands below a smaller or an unknown one."""
    assert offered.probabilities is not None
    utility = policy.value(offered.probabilities)
    place = (offered.rows[:, None, :] == rows[:, :, None]).argmax(-1)
    shown = np.where(rows != PAD, np.take_along_axis(np.nan_to_num(utility, nan=-np.inf), place, axis=1), -np.inf)
    return int((shown[:, 1:] > shown[:, :-1]).any(1).sum())


def _alone(policy: CompiledPolicy, queries: list[Query], offered: CandidateBatch, rows: np.ndarray, one: int) -> int:
    single = CandidateBatch.of({name: array[[one]] for name, array in offered.tensors().items()})
    found = policy.rows([queries[one]], single)[0]
    return int(not np.array_equal(found, rows[one][rows[one] != PAD]))
