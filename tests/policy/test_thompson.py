"""Thompson sampling: the chance of every draw, its width, and what happens where nobody knows how unsure the ranker is.

Shapes: B queries, C candidates, T objectives.
"""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, ndtr
from slow_twin import CATALOGUE, OBJECTIVES, REQUEST_TYPES, SOURCES, TYPES, VECTORS

from recsys.contracts import PAD, CandidateBatch, Query
from recsys.errors import ConfigError
from recsys.policy.compose import Policy
from recsys.policy.diversity import Determinantal, MaximalMarginalRelevance
from recsys.policy.exploration import EpsilonGreedy
from recsys.policy.exploration.thompson import Thompson
from recsys.policy.popularity import PopularityDial
from recsys.policy.repeat import Repeat
from recsys.policy.rules import RuleSet
from recsys.policy.slate.slate_batch import NO_UNCERTAINTY, UNRANKED
from recsys.policy.value import ValueFormula

PLAIN = MaximalMarginalRelevance(trade_off=1.0, window=0, span=None, content=0.0)
DETERMINANTAL = Determinantal(trade_off=0.6, window=3, span=None, content=0.0)
SCALES = {
    "alike": lambda rng, num: np.full(num, 0.3),
    "unlike": lambda rng, num: 10 ** rng.uniform(-3, 0, num),
    "very unlike": lambda rng, num: 10 ** rng.uniform(-6, 3, num),
    "some certain": lambda rng, num: rng.random(num) * (rng.random(num) < 0.7),
}


def chances(means, deviations, allowed=None):
    allowed = np.ones(len(means), dtype=bool) if allowed is None else allowed
    return np.array([Thompson.propensity(0.0, allowed, means, 0, c, deviations) for c in range(len(means))])


def slow_chance(means, deviations, chosen):
    """Gauss-Legendre of 20 nodes between all multiples of half a deviation of everybody, Phi by scipy."""
    others = np.delete(np.arange(len(means)), chosen)
    mean, own = means[chosen], deviations[chosen]
    certain = others[deviations[others] == 0]
    unsure = others[deviations[others] > 0]
    if own == 0:
        higher = (means[certain] > mean) | ((means[certain] == mean) & (certain < chosen))
        return float(np.prod(ndtr((mean - means[unsure]) / deviations[unsure])) * (not higher.any()))
    steps = np.linspace(-9, 9, 37)
    ends = (means[unsure][:, None] + deviations[unsure][:, None] * steps).ravel()
    low = max([mean - 9 * own, *means[certain]])
    ends = np.unique(np.concatenate([ends, mean + own * steps, [low]]))
    ends = ends[(ends >= low) & (ends <= mean + 9 * own)]
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = np.diff(ends)[:, None] / 2
    x = ends[:-1, None] + half * (1 + nodes)
    below = np.ones_like(x)
    for other in unsure:
        below *= ndtr((x - means[other]) / deviations[other])
    return float((half * weights * below * np.exp(-0.5 * ((x - mean) / own) ** 2)).sum() / own / math.sqrt(2 * math.pi))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("num", [1, 2, 7, 40])
def test_chances_are_those_of_a_fine_integration_and_add_up_to_one(scale, num):
    rng = np.random.default_rng(num)
    for spread in (1.0, 0.05):
        means, deviations = spread * rng.normal(size=num), SCALES[scale](rng, num)
        found = chances(means, deviations)
        assert found.sum() == pytest.approx(1, abs=1e-8)
        for c in rng.permutation(num)[:6]:
            assert found[c] == pytest.approx(slow_chance(means, deviations, c), abs=1e-8)


def test_chances_of_many_alike():
    assert chances(np.zeros(400), np.full(400, 0.2)) == pytest.approx(np.full(400, 1 / 400), abs=1e-8)


@settings(max_examples=100, deadline=None)
@given(st.floats(-2, 2), st.floats(1e-5, 3), st.floats(1e-5, 3))
def test_of_two_the_chance_is_that_of_their_difference(ahead, one, other):
    found = chances(np.array([ahead, 0.0]), np.array([one, other]))
    assert found[0] == pytest.approx(ndtr(ahead / math.hypot(one, other)), abs=1e-8)
    assert chances(np.array([ahead, 0.0]), np.array([one, 0.0]))[0] == pytest.approx(ndtr(ahead / one), abs=1e-8)


def test_what_is_certain_is_the_best_and_of_equals_the_first():
    still = np.zeros(4)
    assert chances(np.array([0.1, 0.5, 0.5, 0.3]), still).tolist() == [0, 1, 0, 0]
    allowed = np.array([True, False, True, True])
    assert chances(np.array([0.1, 0.9, 0.5, 0.3]), still, allowed)[[0, 2, 3]].tolist() == [0, 1, 0]


def test_draws_are_as_frequent_as_computed():
    means, deviations = np.array([0.5, 0.45, 0.2, 0.4, 0.9]), np.array([0.1, 0.2, 0.3, 0.0, 0.1])
    allowed, size = np.array([True, True, True, True, False]), 40_000
    times = Counter(
        Thompson.sample(0.0, allowed, means, 0, np.zeros(2), deviations, normals)
        for normals in np.random.default_rng(0).normal(size=(size, 5))
    )
    likely = chances(means, deviations, allowed)[:4]
    assert likely.sum() == pytest.approx(1, abs=1e-8)
    for c, one in enumerate(likely):
        assert abs(times[c] / size - one) <= 3 * np.sqrt(one * (1 - one) / size)


def compiled(formula="watch", rate=1.0, diversity=PLAIN, rules=(), weights=None, first=0):
    policy = Policy(
        value=ValueFormula(formula=formula, weights=weights or {}),
        popularity=PopularityDial.off(),
        diversity=diversity,
        exploration=Thompson(rate=rate, first=first),
        repeat=Repeat.never(),
    )
    ruled = RuleSet.parse({"rules": list(rules)})
    return policy.compile(ruled, CATALOGUE, TYPES, REQUEST_TYPES, VECTORS, OBJECTIVES, SOURCES, "fingerprint")


def offered(rows, probabilities=None, deviations=None):
    scores = np.where(rows == PAD, -np.inf, -np.arange(rows.shape[1])).astype(np.float32)
    return CandidateBatch(
        rows=rows,
        scores=scores,
        source_scores=np.repeat(scores[..., None], 2, axis=2),
        degraded=((),) * len(rows),
        probabilities=probabilities,
        logit_std=deviations,
    )


def asked(ids, **fields):
    return [Query(**{"user": "u", "now": 1.0, "k": 3, "request_id": one, **fields}) for one in ids]


def figures(size, num, seed=0, doubt=0.5):
    """Probabilities and deviations [size, num, 2]."""
    rng = np.random.default_rng(seed)
    p = np.tile(rng.uniform(0.2, 0.8, (1, num, 2)), (size, 1, 1)).astype(np.float32)
    return p, np.tile(doubt * rng.uniform(0.5, 1.5, (1, num, 2)), (size, 1, 1)).astype(np.float32)


def spread_of(policy, probabilities, deviations):
    return policy.value.utility_std(np.array([probabilities], np.float32), np.array([deviations], np.float32))[0]


def test_the_width_of_one_objective_is_half_of_what_lies_within_a_deviation():
    found = spread_of(compiled("watch"), [[0.3, 0.9], [0.0, 0.5], [1.0, 0.5]], [[0.5, 2.0], [1.0, 1.0], [1.0, 1.0]])
    logit = math.log(0.3 / 0.7)
    assert found == pytest.approx([(expit(logit + 0.5) - expit(logit - 0.5)) / 2, 0, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("formula", "slopes"),
    [
        ("watch + w * like", lambda p, q: (1, 3)),
        ("watch * like * w", lambda p, q: (3 * q, 3 * p)),
        ("w * log1p(watch) - like", lambda p, q: (3 / (1 + p), -1)),
    ],
)
def test_the_width_of_a_formula_is_that_of_the_delta_method(formula, slopes):
    p, q, one, other = 0.3, 0.8, 0.02, 0.01
    found = spread_of(compiled(formula, weights={"w": 3.0}), [[p, q]], [[one, other]])
    wanted = math.hypot(slopes(p, q)[0] * p * (1 - p) * one, slopes(p, q)[1] * q * (1 - q) * other)
    assert found[0] == pytest.approx(wanted, rel=1e-3)


def test_what_is_not_finite_is_certain():
    unsure = [[0.5, math.nan], [math.nan, 0.5], [0.5, 0.5]]
    found = spread_of(compiled("watch + like"), unsure, [[1.0, 1.0], [1.0, 1.0], [math.inf, math.nan]])
    assert np.isfinite(found).all()
    assert found[:2].tolist() == [0, 0]


def test_a_boost_stretches_the_width_as_it_does_the_utility():
    rules = [{"name": "push", "boost": 4, "where": "item == 'i1'"}]
    p, deviations = np.full((1, 3, 2), 0.5, np.float32), np.full((1, 3, 2), 0.1, np.float32)
    for formula, order in (("watch", [1, 0, 2]), ("watch - 1", [1, 0, 2])):
        offer = compiled(formula, rules=rules).fill(asked(["r"]), offered(np.array([[0, 1, 2]]), p, deviations)).scored
        assert offer.rows[0].tolist() == order
        factor = offer.utility[0, 0] / offer.utility[0, 1]
        assert offer.utility_std[0, 0] == pytest.approx(factor * offer.utility_std[0, 1])


@pytest.mark.parametrize("diversity", [PLAIN, DETERMINANTAL], ids=["plain", "determinantal"])
def test_first_places_are_as_frequent_as_logged(diversity):
    size, policy = 4_000, compiled("watch + like", diversity=diversity)
    rows = np.tile(np.arange(6), (size, 1))
    slates = policy.compose(asked([f"{number}" for number in range(size)]), offered(rows, *figures(size, 6)))
    times = Counter(slate.items[0].item for slate in slates)
    likely = {slate.items[0].item: slate.items[0].propensity for slate in slates}
    assert len(likely) > 3
    assert sum(likely.values()) == pytest.approx(1, abs=1e-6)
    for item, one in likely.items():
        assert abs(times[item] / size - one) <= 3 * math.sqrt(one * (1 - one) / size)


def test_a_batch_equals_single_calls_and_a_request_its_replay():
    """Also where others of the batch ask for more and have more candidates."""
    policy = compiled("watch + like", rate=3.0, diversity=DETERMINANTAL)
    lengths, p, deviations = (3, 9, 6), *figures(3, 9)
    rows = np.where(np.arange(9) < np.array(lengths)[:, None], np.arange(9), PAD)
    queries = [replace(one, k=k) for one, k in zip(asked("abc"), (2, 5, 9), strict=True)]
    together = policy.compose(queries, offered(rows, p, deviations))
    for row, num in enumerate(lengths):
        cut = slice(row, row + 1), slice(0, num)
        alone = policy.compose([queries[row]], offered(rows[cut], p[cut], deviations[cut]))
        assert alone == [together[row]]
    ids = [f"{number}" for number in range(30)]
    many = policy.compose(asked(ids), offered(np.tile(np.arange(9), (30, 1)), *figures(30, 9)))
    assert len({tuple(item.item for item in slate.items) for slate in many}) > 5


@pytest.mark.parametrize("ranked", [True, False])
def test_without_deviations_the_best_stands_everywhere_and_that_is_said(ranked):
    policy, rows = compiled(), np.arange(6)[None]
    probabilities = figures(1, 6)[0] if ranked else None
    (slate,) = policy.compose(asked(["r"]), offered(rows, probabilities))
    utilities = [item.utility for item in slate.items]
    assert utilities == sorted(utilities, reverse=True)
    assert [(item.propensity, item.explored) for item in slate.items] == [(1.0, False)] * 3
    assert (NO_UNCERTAINTY in slate.degraded, UNRANKED in slate.degraded) == (True, not ranked)
    (other,) = policy.compose(asked(["r"]), offered(rows, *figures(1, 6)))
    assert NO_UNCERTAINTY not in other.degraded


def test_no_doubt_no_exploration_and_more_doubt_more():
    ids, rows = [f"{number}" for number in range(300)], np.tile(np.arange(8), (300, 1))
    explored = []
    for rate in (0.01, 0.5, 5.0):
        slates = compiled(rate=rate).compose(asked(ids), offered(rows, *figures(300, 8)))
        explored.append(np.mean([[item.explored for item in slate.items] for slate in slates]))
    assert explored[0] < explored[1] < explored[2]
    p, deviations = figures(300, 8)
    for slate in compiled().compose(asked(ids), offered(rows, p, 0 * deviations)):
        assert all(item.propensity == 1 and not item.explored for item in slate.items)


def test_an_item_of_unknown_utility_never_stands_before_a_known_one():
    ids, rows = [f"{number}" for number in range(200)], np.tile(np.arange(4), (200, 1))
    p, deviations = figures(200, 4, doubt=30.0)
    p[:, 0] = np.nan
    for diversity in (PLAIN, DETERMINANTAL):
        for slate in compiled(diversity=diversity).compose(asked(ids, k=4), offered(rows, p, deviations)):
            assert slate.items[3].item == "i0"
            assert slate.items[3].propensity == pytest.approx(1)


def test_places_before_the_first_are_certain():
    slates = compiled(first=2).compose(asked(["a", "b"]), offered(np.tile(np.arange(6), (2, 1)), *figures(2, 6)))
    assert all([item.propensity for item in slate.items[:2]] == [1, 1] for slate in slates)
    assert all(0 < slate.items[2].propensity < 1 for slate in slates)


def test_its_rate_may_exceed_one():
    with pytest.raises(ConfigError, match=r"exploration\.rate is 101"):
        Thompson(rate=101.0, first=0)
    with pytest.raises(ConfigError, match=r"exploration\.rate is 2"):
        EpsilonGreedy(rate=2.0, first=0)
