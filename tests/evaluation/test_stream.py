"""Counters of a caller against a plain recount, and limits on exposure that hold over a stream."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.contracts import PAD, CandidateBatch, Query
from recsys.errors import ConfigError
from recsys.evaluation.attributes import CategoryColumn
from recsys.evaluation.exposure import gini, top_share
from recsys.evaluation.stream import ExposureCounters, stream_slates
from recsys.policy.compose import Policy
from recsys.policy.diversity import MaximalMarginalRelevance
from recsys.policy.exploration import NoExploration
from recsys.policy.popularity import PopularityDial
from recsys.policy.repeat import Repeat
from recsys.policy.rules import RuleSet
from recsys.policy.value import ValueFormula

N, K, PAGES, HALF_LIFE = 60, 4, 600, 400.0
ITEMS = [f"i{row}" for row in range(N)]
STUDIOS = [("large",)] * 20 + [("medium", "small")] * 10 + [("medium",)] * 20 + [("small",)] * 10
STUDIO = CategoryColumn.of(STUDIOS)


class Composed:
    """The policy as the last stage, over candidates that everybody has: utility falls from item 0 to the last."""

    def __init__(self, rules=(), discount=0.0):
        policy = Policy(
            value=ValueFormula(formula="watch", weights={}),
            popularity=PopularityDial(discount=discount, of="exposure"),
            diversity=MaximalMarginalRelevance(trade_off=1.0, window=0, span=None, content=0.0),
            exploration=NoExploration(),
            repeat=Repeat.never(),
        )
        ids, studios = np.array(ITEMS, dtype=object), np.empty(N, dtype=object)
        studios[:] = STUDIOS
        self.policy = policy.compile(
            RuleSet.parse({"rules": list(rules)}),
            {"item": ids, "studio": studios},
            {"studio": "categories"},
            {},
            np.eye(N, dtype=np.float32),
            ("watch",),
            ("all",),
            "fingerprint",
        )

    def rows(self, tensors):
        queries = tensors["QUERY"]
        size = len(queries)
        scores = np.zeros((size, N), dtype=np.float32)
        offered = CandidateBatch(
            rows=np.tile(np.arange(N), (size, 1)),
            scores=scores,
            source_scores=scores[..., None],
            degraded=((),) * size,
            probabilities=tensors["probabilities"],
        )
        return self.policy.rows(queries, offered)


def streamed(end, seed=0):
    rng = np.random.default_rng(seed)
    batches = [
        {
            "QUERY": [Query(user="u", now=1.0, k=K)],
            "probabilities": (np.linspace(0.9, 0.3, N) * rng.uniform(0.7, 1.0, N)).astype(np.float32)[None, :, None],
        }
        for _ in range(PAGES)
    ]
    return stream_slates(end, batches, ExposureCounters({"studio": STUDIO}, ITEMS, half_life=HALF_LIFE), K)


WARM = 200
"""pages until the counters hold what was shown lately"""


@pytest.fixture(scope="module")
def plain():
    return streamed(Composed())


def test_floors_and_caps_of_groups_hold_over_a_stream(plain):
    before = dict(zip(STUDIO.values, plain.shares(STUDIO, WARM), strict=True))
    assert before["large"] > 0.8
    assert before["small"] < 0.02, "or the rules have nothing to do"
    rule = {"name": "fair", "exposure": "studio", "least": 0.1, "most": 0.5, "strength": 30}
    after = streamed(Composed([rule])).shares(STUDIO, WARM)
    assert (after > 0.1 * 0.85).all()
    assert (after < 0.5 * 1.15).all()


def test_a_limit_on_every_item_holds_over_a_stream(plain):
    most = 0.05
    rule = {"name": "nobody-too-much", "exposure": "item", "least": 0.0, "most": most, "strength": 30}
    shares = streamed(Composed([rule])).item_shares(N, WARM)
    assert plain.item_shares(N, WARM).max() > 2 * most
    assert shares.max() < most * 1.15
    assert top_share(shares, 0.05) < 3 * most * 1.15


def test_strength_decides_how_closely_a_limit_holds():
    worst = [
        streamed(Composed([{"name": "a", "exposure": "item", "least": 0.0, "most": 0.03, "strength": strength}]))
        .item_shares(N, WARM)
        .max()
        for strength in (1, 3, 20)
    ]
    assert worst == sorted(worst, reverse=True)
    assert worst[0] > 1.3 * 0.03, "the plain factor is a pull, not a limit"


def test_the_dial_on_exposure_evens_it_out():
    ginis = [gini(streamed(Composed(discount=discount)).item_shares(N, WARM)) for discount in (0.0, 0.2, 0.5, 1.0)]
    assert ginis == sorted(ginis, reverse=True)
    assert ginis[-1] < 0.7 * ginis[0]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(PAD, N - 1), min_size=1, max_size=5), min_size=1, max_size=12), st.floats(1.0, 1e4)
)
def test_counters_are_a_plain_recount(pages, half_life):
    counters = ExposureCounters({"studio": STUDIO}, ITEMS, half_life=half_life)
    for page in pages:
        counters.add(np.array([page]))
    shown = [(number, row) for number, page in enumerate(pages) for row in page if row != PAD]
    length = [sum(row != PAD for row in page) for page in pages]
    ages = [sum(length[number + 1 :]) for number, _ in shown]
    total = max(sum(0.5 ** (age / half_life) for age in ages), half_life / math.log(2) / 8)
    wanted = dict.fromkeys([f"item={item}" for item in ITEMS] + [f"studio={name}" for name in STUDIO.values], 0.0)
    for age, (_, row) in zip(ages, shown, strict=True):
        weight = 0.5 ** (age / half_life) / total
        wanted[f"item={ITEMS[row]}"] += weight
        for name in STUDIOS[row]:
            wanted[f"studio={name}"] += weight
    found = counters.exposure()
    assert found.keys() == wanted.keys()
    assert list(found.values()) == pytest.approx([wanted[key] for key in found], abs=1e-12)


def test_shares_add_up_to_one_once_a_part_of_the_window_is_full():
    counters = ExposureCounters({}, ITEMS, half_life=500.0)
    sums = []
    for _ in range(30):
        counters.add(np.arange(4)[None])
        sums.append(sum(counters.exposure().values()))
    assert sums[0] == pytest.approx(4 * 8 * math.log(2) / 500)
    assert sums[-1] == pytest.approx(1.0)


def test_a_half_life_of_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"stream\.half_life is 0"):
        ExposureCounters({}, ITEMS, half_life=0)
