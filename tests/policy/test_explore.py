"""Exploration: propensities equal simulated frequencies, slates can be replayed, rules hold whatever chance says."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from slow_twin import CATALOGUE, OBJECTIVES, REQUEST_TYPES, SOURCES, TYPES, VECTORS, N

from recsys.contracts import CandidateBatch, Query
from recsys.policy.compose import Policy
from recsys.policy.diversity import Determinantal, MaximalMarginalRelevance, MaxSum, Proportions
from recsys.policy.exploration import EpsilonGreedy, NoExploration, Softmax, Thompson
from recsys.policy.exploration.exploration import request_generator
from recsys.policy.popularity import PopularityDial
from recsys.policy.repeat import Repeat
from recsys.policy.rules import RuleSet
from recsys.policy.value import ValueFormula

DIVERSITIES = {
    "plain": MaximalMarginalRelevance(trade_off=1.0, window=0, span=None, content=0.0),
    "mmr": MaximalMarginalRelevance(trade_off=0.5, window=3, span=None, content=0.0),
    "dpp": Determinantal(trade_off=0.5, window=3, span=None, content=0.5),
    "max-sum": MaxSum(trade_off=0.5, window=3, span=None, content=0.0),
    "proportions": Proportions(trade_off=0.5, window=2, span=None, of="genres"),
}
EXPLORATIONS = {
    "epsilon": EpsilonGreedy(rate=0.4, first=0),
    "late epsilon": EpsilonGreedy(rate=0.9, first=2),
    "softmax": Softmax(rate=0.3, first=0),
    "thompson": Thompson(rate=8.0, first=0),
}
CAP = {"name": "cap", "cap": 1, "of": "genre", "top": 3}
PIN = {"name": "pin", "pin": 1, "item": "i3"}
DRAWS = 3_000


def compiled(diversity, exploration, rules=()):
    policy = Policy(
        value=ValueFormula(formula="watch", weights={}),
        popularity=PopularityDial.off(),
        diversity=diversity,
        exploration=exploration,
        repeat=Repeat.never(),
    )
    ruled = RuleSet.parse({"rules": list(rules)})
    return policy.compile(ruled, CATALOGUE, TYPES, REQUEST_TYPES, VECTORS, OBJECTIVES, SOURCES, "fingerprint")


def asked(policy, ids, num=6, k=3):
    """Slates of the same candidates for requests that differ in nothing but their ids."""
    queries = [Query(user="u", now=1.0, k=k, request_id=one) for one in ids]
    rows = np.tile(np.arange(num), (len(queries), 1))
    scores = np.zeros(rows.shape, dtype=np.float32)
    values = np.tile(np.linspace(0.9, 0.1, num, dtype=np.float32), (len(queries), 1))
    probabilities = np.stack([values, values], axis=2)
    offered = CandidateBatch(
        rows=rows,
        scores=scores,
        source_scores=np.stack([scores, scores], axis=2),
        degraded=((),) * len(queries),
        probabilities=probabilities,
        logit_std=np.full_like(probabilities, 0.4),
    )
    return policy.compose(queries, offered)


def shown(slate):
    return tuple(item.item for item in slate.items)


def probability(slate):
    return float(np.prod([item.propensity for item in slate.items]))


@pytest.mark.parametrize("exploration", EXPLORATIONS)
@pytest.mark.parametrize("diversity", DIVERSITIES)
@pytest.mark.parametrize("rules", [(), (CAP, PIN)], ids=["free", "ruled"])
def test_propensities_are_the_frequencies(diversity, exploration, rules):
    policy = compiled(DIVERSITIES[diversity], EXPLORATIONS[exploration], rules)
    found = asked(policy, [f"{diversity} {exploration} {number}" for number in range(DRAWS)])
    times, chances = Counter(map(shown, found)), {shown(slate): probability(slate) for slate in found}
    for slate in found:
        assert probability(slate) == pytest.approx(chances[shown(slate)]), "the same slate has one probability"
    likely = {slate: chance for slate, chance in chances.items() if chance * DRAWS >= 20}
    for slate, chance_ in likely.items():
        spread = np.sqrt(DRAWS * chance_ * (1 - chance_))
        assert abs(times[slate] - DRAWS * chance_) <= 5 * spread + 1e-6
    assert sum(chances.values()) <= 1 + 1e-9


@pytest.mark.parametrize("exploration", EXPLORATIONS)
def test_the_chances_of_all_slates_add_up_to_one(exploration):
    policy = compiled(DIVERSITIES["mmr"], EXPLORATIONS[exploration])
    chances = {}
    for number in itertools.count():
        slate = asked(policy, [f"{number}"], num=3, k=2)[0]
        chances[shown(slate)] = probability(slate)
        if len(chances) == (3 if exploration == "late epsilon" else 6) or sum(chances.values()) > 1 - 1e-9:
            break
        assert number < 5_000
    assert sum(chances.values()) == pytest.approx(1)


def test_a_request_can_be_replayed_and_others_differ():
    policy = compiled(DIVERSITIES["mmr"], EXPLORATIONS["softmax"])
    ids = [f"r{number}" for number in range(40)]
    together, again = asked(policy, ids), asked(policy, ids)
    assert together == again
    assert [asked(policy, [one])[0] for one in ids] == together
    assert len(set(map(shown, together))) > 5


def test_an_id_that_is_no_text_seeds_as_any_other():
    assert (
        request_generator(Query(user="u", now=1.0, request_id="\ud800")).random()
        != request_generator(Query(user="u", now=1.0)).random()
    )


def test_without_an_id_user_and_moment_stand_for_the_request():
    policy = compiled(DIVERSITIES["plain"], EXPLORATIONS["softmax"])
    rows = np.arange(6)[None]
    scores = np.zeros((1, 6), dtype=np.float32)
    values = np.linspace(0.9, 0.1, 12, dtype=np.float32).reshape(1, 6, 2)
    offered = CandidateBatch(
        rows=rows, scores=scores, source_scores=scores[..., None], degraded=((),), probabilities=values
    )
    policy = replace(policy, sources=("one",))
    by_moment = [policy.compose([Query(user="u", now=float(now), k=3)], offered)[0] for now in (1, 1, 2, 3, 4)]
    assert by_moment[0] == by_moment[1]
    assert len(set(map(shown, by_moment))) > 1


def test_what_chance_put_there_says_so():
    policy = compiled(DIVERSITIES["plain"], EXPLORATIONS["epsilon"])
    best = shown(asked(compiled(DIVERSITIES["plain"], NoExploration()), ["a"])[0])
    explored = [slate for slate in asked(policy, [f"r{number}" for number in range(60)]) if shown(slate) != best]
    assert explored
    assert all(any(item.explored for item in slate.items) for slate in explored)


def test_pins_and_places_before_the_first_are_certain():
    policy = compiled(DIVERSITIES["plain"], EXPLORATIONS["late epsilon"], (PIN,))
    for slate in asked(policy, [f"r{number}" for number in range(50)], k=4):
        assert [item.propensity for item in slate.items[:2]] == [1.0, 1.0]
        assert slate.items[1].item == "i3"
        assert all(0 < item.propensity <= 1 for item in slate.items)


def test_rules_hold_whatever_chance_says():
    must = {"name": "must", "must": "year >= 1984"}
    policy = compiled(DIVERSITIES["plain"], EXPLORATIONS["epsilon"], (must, CAP))
    for slate in asked(policy, [f"r{number}" for number in range(200)], num=N, k=8):
        rows = [int(item.item[1:]) for item in slate.items]
        assert (CATALOGUE["year"][rows] >= 1984).all()
        genres = [CATALOGUE["genre"][row] for row in rows[:3] if CATALOGUE["genre"][row]]
        assert len(set(genres)) == len(genres)
