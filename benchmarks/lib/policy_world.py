"""A catalogue, fifty rules and requests to time the policy with, the rules in three languages.

Shapes: N items, C candidates.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.contracts import CandidateBatch, Event, Query
from recsys.policy.compose import CompiledPolicy, Policy
from recsys.policy.diversity import Determinantal, Diversity
from recsys.policy.exploration import EXPLORATIONS, Exploration
from recsys.policy.popularity import PopularityDial
from recsys.policy.repeat import Repeat
from recsys.policy.rules import RuleSet
from recsys.policy.value import ValueFormula

ITEMS, CANDIDATES, DIM, PLACES, HISTORY = 27_000, 500, 64, 50, 50
TYPES = {"year": "number", "price": "number", "genre": "category", "tags": "categories", "min_age": "number"}
REQUEST_TYPES = {"user.age": "number"}
Logic = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One condition on an item and a request, in each language."""

    ours: str
    cel: str
    logic: Logic


def column(objects: list[Any]) -> np.ndarray:
    array = np.empty(len(objects), dtype=object)
    array[:] = objects
    return array


def catalogue(rng: np.random.Generator, num: int = ITEMS) -> dict[str, np.ndarray]:
    return {
        "item": column([f"i{row}" for row in range(num)]),
        "year": rng.integers(1950, 2000, num).astype(float),
        "price": rng.random(num) * 100,
        "genre": column([f"g{one}" for one in rng.integers(0, 12, num)]),
        "tags": column([tuple(sorted({f"t{one}" for one in rng.integers(0, 20, 3)})) for _ in range(num)]),
        "min_age": rng.integers(0, 18, num).astype(float),
    }


def conditions() -> list[Condition]:
    """Those of the fifty rules below that have one, in their order."""
    year, price, age = {"var": "year"}, {"var": "price"}, {"var": "user.age"}
    musts = [
        Condition(
            ours=f"year >= {1950 + place} and price < {99 - place}",
            cel=f"year >= {1950 + place}.0 && price < {99 - place}.0",
            logic={"and": [{">=": [year, 1950 + place]}, {"<": [price, 99 - place]}]},
        )
        for place in range(10)
    ]
    ages = [
        Condition(ours="min_age <= user.age", cel="min_age <= user.age", logic={"<=": [{"var": "min_age"}, age]})
        for _ in range(4)
    ]
    boosts = [
        Condition(
            ours=f"contains(tags, 't{place}') and year > 1990",
            cel=f"'t{place}' in tags && year > 1990.0",
            logic={"and": [{"in": [f"t{place}", {"var": "tags"}]}, {">": [year, 1990]}]},
        )
        for place in range(12)
    ]
    genres = [
        Condition(
            ours=f"genre == 'g{place}'", cel=f"genre == 'g{place}'", logic={"==": [{"var": "genre"}, f"g{place}"]}
        )
        for place in range(8)
    ]
    pins = [
        Condition(
            ours=f"genre == 'g{place}' and price < 20",
            cel=f"genre == 'g{place}' && price < 20.0",
            logic={"and": [{"==": [{"var": "genre"}, f"g{place}"]}, {"<": [price, 20]}]},
        )
        for place in range(4)
    ]
    olds = [
        Condition(ours=f"year < {1960 + place}", cel=f"year < {1960 + place}.0", logic={"<": [year, 1960 + place]})
        for place in range(3)
    ]
    tags = [
        Condition(
            ours=f"contains(tags, 't{place}')", cel=f"'t{place}' in tags", logic={"in": [f"t{place}", {"var": "tags"}]}
        )
        for place in range(4)
    ]
    return [*musts, *ages, *boosts, *genres, *pins, *olds, *tags]


def rules() -> RuleSet:
    """Fifty: 14 musts, 20 boosts and buries, 4 pins, 7 caps, 4 floors and a frequency."""
    texts = iter([condition.ours for condition in conditions()])
    listed: list[dict[str, Any]] = [{"must": next(texts)} for _ in range(10)]
    listed += [{"must": next(texts), "when": f"user.age < {18 - place}"} for place in range(4)]
    listed += [{"boost": 1.1, "where": next(texts)} for _ in range(12)]
    listed += [
        {"bury": 1.2, "where": next(texts), "when": f"hour >= {place} and surface == 'home'"} for place in range(8)
    ]
    listed += [{"pin": place * 5, "where": next(texts)} for place in range(4)]
    listed += [{"cap": 3 + place, "of": "genre", "top": 10 * (place + 1)} for place in range(4)]
    listed += [{"cap": 5, "where": next(texts), "top": 20} for _ in range(3)]
    listed += [{"floor": 2, "where": next(texts), "top": 20} for _ in range(4)]
    listed.append({"frequency": 3})
    return RuleSet.parse({"rules": [{"name": f"rule-{place}", **rule} for place, rule in enumerate(listed)]})


def compiled(
    columns: Mapping[str, np.ndarray],
    ruled: RuleSet,
    diversity: Diversity,
    exploration: Exploration,
    vectors: np.ndarray,
) -> CompiledPolicy:
    policy = Policy(
        value=ValueFormula(formula="click + 3 * like", weights={}),
        popularity=PopularityDial.off(),
        diversity=diversity,
        exploration=exploration,
        repeat=Repeat.never(),
    )
    return policy.compile(
        ruled, columns, TYPES, REQUEST_TYPES, vectors, ("click", "like"), ("towers", "linear"), "benchmark"
    )


def timed_policies(columns: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, CompiledPolicy]:
    """By kind of exploration: all fifty rules, a determinantal slate of 50 and exploration."""
    vectors = rng.normal(size=(len(columns["item"]), DIM)).astype(np.float32)
    diversity = Determinantal(trade_off=0.7, window=PLACES, span=None, content=0.5)
    return {
        kind: compiled(columns, rules(), diversity, EXPLORATIONS[kind](rate=rate, first=2), vectors)
        for kind, rate in (("epsilon", 0.05), ("thompson", 1.0))
    }


def requests(num: int, rng: np.random.Generator) -> Iterator[tuple[Query, CandidateBatch]]:
    """One after the other, each with its 500 candidates and their probabilities."""
    for number in range(num):
        rows = rng.choice(ITEMS, CANDIDATES, replace=False)
        scores = np.sort(rng.random((1, CANDIDATES)).astype(np.float32))[:, ::-1]
        query = Query(
            user=f"u{number}",
            now=1.7e9 + 60 * number,
            k=PLACES,
            profile={"age": float(rng.integers(10, 40))},
            surface="home",
            request_id=str(number),
            history=tuple(Event(user="u", item=f"i{row}", timestamp=0.0) for row in rng.integers(0, ITEMS, HISTORY)),
            impressions={f"i{row}": 4.0 for row in rows[:5]},
        )
        yield (
            query,
            CandidateBatch(
                rows=rows[None],
                scores=scores,
                source_scores=np.repeat(scores[..., None], 2, axis=2),
                degraded=((),),
                probabilities=rng.random((1, CANDIDATES, 2)).astype(np.float32),
            ),
        )
