"""Why an item was not shown: each reason, the first of several."""

import numpy as np
from slow_twin import CATALOGUE, OBJECTIVES, REQUEST_TYPES, SOURCES, TYPES, VECTORS

from recsys.contracts import CandidateBatch, Event, Query
from recsys.policy.compose import Policy
from recsys.policy.diversity import MaximalMarginalRelevance
from recsys.policy.explanation.why_not import why_not
from recsys.policy.exploration import EXPLORATIONS, NoExploration
from recsys.policy.popularity import PopularityDial
from recsys.policy.repeat import Repeat
from recsys.policy.rules import RuleSet
from recsys.policy.value import ValueFormula

RULES = [
    {"name": "no-i9", "must": "item != 'i9'"},
    {"name": "grown-up", "must": "item != 'i2'", "when": "user.age < 16"},
    {"name": "one-a-genre", "cap": 1, "of": "genre", "top": 3},
]


def told(item, rules=RULES, trade_off=1.0, explore="none", **fields):
    policy = Policy(
        value=ValueFormula(formula="watch", weights={}),
        popularity=PopularityDial.off(),
        diversity=MaximalMarginalRelevance(trade_off=trade_off, window=3, span=None, content=0.0),
        exploration=NoExploration() if explore == "none" else EXPLORATIONS[explore](rate=1.0, first=0),
        repeat=Repeat.never(),
    ).compile(RuleSet.parse({"rules": rules}), CATALOGUE, TYPES, REQUEST_TYPES, VECTORS, OBJECTIVES, SOURCES, "f")
    rows = np.arange(12)[None]
    scores = np.zeros((1, 12), dtype=np.float32)
    values = np.linspace(0.9, 0.1, 12, dtype=np.float32)[None]
    offered = CandidateBatch(
        rows=rows,
        scores=scores,
        source_scores=np.stack([scores] * 2, axis=2),
        degraded=((),),
        probabilities=np.stack([values, values], axis=2),
    )
    query = Query(**{"user": "u", "now": 1.0, "k": 3, "request_id": "r", **fields})
    return why_not(policy, query, offered, item)


def test_the_first_reason_is_told():
    assert told("none such") == "'none such' is not in the catalogue"
    assert told("i9", history=(Event(user="u", item="i9", timestamp=0.0),)) == "'i9' is in the history of the user"
    assert told("i9", exclude=("i9",)) == "'i9' is excluded by the request"
    assert told("i9") == "the rule 'no-i9' removes 'i9'"
    assert told("i2", profile={"age": 9}) == "the rule 'grown-up' removes 'i2'"
    assert told("i14") == "no source offered 'i14' among its 12 candidates"


def test_what_is_shown_says_where():
    assert told("i0", rules=[]) == "'i0' is shown at position 1"


def test_what_a_cap_holds_back_names_the_cap():
    genres = [CATALOGUE["genre"][row] for row in range(12)]
    second = next(row for row in range(1, 12) if genres[row] is not None and genres[row] in genres[:row])
    assert told(f"i{second}") == f"the rule 'one-a-genre' held 'i{second}' back"


def test_utility_diversity_and_chance_are_told_apart():
    assert told("i11", rules=[]) == "'i11' is number 12 of 12 by utility, 3 are shown"
    by_diversity = [told(f"i{row}", rules=[], trade_off=0.0) for row in range(3)]
    assert any("pins and diversity preferred others" in one for one in by_diversity)
    by_chance = [told(f"i{row}", rules=[], explore="epsilon") for row in range(3)]
    assert any("chance preferred another one" in one for one in by_chance)
