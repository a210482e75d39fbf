"""Greedy selection: known answers of maximal marginal relevance and of caps."""

import math

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.policy.diversity import MaximalMarginalRelevance, Pool, relevance
from recsys.policy.rules import CompiledCap

# D 2: items 0, 1, 2 alike, item 3 across, item 4 in between
VECTORS = np.array([[1, 0], [2, 0], [1, 0], [0, 1], [1, 1]], dtype=np.float32)
LENGTHS = np.linalg.norm(VECTORS, axis=1)
UTILITY = (5.0, 4.0, 3.0, 2.0, 1.0)


def pool(utility=UTILITY, k=5, eligible=None, pinned=None):
    num = len(utility)
    return Pool(
        rows=np.arange(num)[None],
        utility=np.array([utility], dtype=float),
        eligible=np.array([[True] * num if eligible is None else eligible]),
        pinned=np.array([[-1] * k if pinned is None else pinned]),
        sizes=np.array([k]),
    )


def select(trade_off, window, one=None, caps=(), vectors=VECTORS):
    diversity = MaximalMarginalRelevance(trade_off=trade_off, window=window)
    return diversity.select(one or pool(), vectors, np.linalg.norm(vectors, axis=1), caps)


def cap(groups, num_groups, limit, top):
    table = np.array(groups, dtype=np.int32).reshape(len(groups), -1)
    return CompiledCap(name="cap", cap=limit, top=top, groups=table, num_groups=num_groups)


@pytest.mark.parametrize(
    ("trade_off", "window", "want"),
    [
        (1.0, 5, [0, 1, 2, 3, 4]),
        (0.5, 0, [0, 1, 2, 3, 4]),
        # after 0: 1 scores .375 - .5, 2 .25 - .5, 3 .125 - 0, 4 0 - .3536
        (0.5, 2, [0, 3, 1, 2, 4]),
        # after 0 and 3: 1 -.125, 2 -.25, 4 -.3536
        (0.5, 5, [0, 3, 1, 2, 4]),
        (0.0, 5, [0, 3, 4, 1, 2]),
    ],
)
def test_known_answers(trade_off, window, want):
    assert select(trade_off, window).columns.tolist() == [want]


def test_lengths_of_vectors_do_not_count_and_zero_resembles_nothing():
    assert select(0.5, 5, vectors=VECTORS * 7).columns.tolist() == select(0.5, 5).columns.tolist()
    assert select(0.5, 5, vectors=VECTORS * 0).columns.tolist() == [[0, 1, 2, 3, 4]]


def test_opposite_vectors_are_more_diverse_than_unrelated_ones():
    vectors = np.array([[1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    assert select(0.0, 3, pool((3, 2, 1), k=3), vectors=vectors).columns.tolist() == [[0, 2, 1]]


def test_unknown_utilities_come_last_under_any_trade_off():
    for trade_off in (0.0, 0.3, 1.0):
        columns = select(trade_off, 5, pool((5.0, 4.0, 3.0, math.nan, math.nan))).columns[0]
        assert set(columns[:3].tolist()) == {0, 1, 2}


def test_similarity_to_a_pinned_item_counts():
    one = pool(eligible=[False, True, True, True, True], pinned=[0, -1, -1, -1, -1])
    # relevance of 1, 2, 3, 4 is 1, .67, .33, 0: 1 scores 0, 2 -.17, 3 +.17
    assert select(0.5, 5, one).columns[0, :2].tolist() == [0, 3]


def test_relevance_is_scaled_over_eligible_items():
    one = pool((8.0, 4.0, 3.0, 2.0, math.nan), eligible=[False, True, True, True, True])
    assert relevance(one).tolist() == [[0, 1, 0.5, 0, 0]]
    assert relevance(pool((2.0, 2.0))).tolist() == [[0, 0]]
    assert relevance(pool((math.nan, 2.0), eligible=[False, False])).tolist() == [[0, 0]]


def test_a_cap_holds_among_the_first_places_only():
    selection = select(1.0, 0, caps=[cap([0, 0, 0, 1, 2], 2, limit=1, top=2)])
    assert selection.columns.tolist() == [[0, 3, 1, 2, 4]]
    assert not selection.relaxed.any()
    assert selection.passed_over[0].tolist() == [[False, True, True, False, False]]


def test_items_without_a_value_are_never_capped():
    selection = select(1.0, 0, caps=[cap([2, 2, 2, 2, 2], 2, limit=1, top=5)])
    assert selection.columns.tolist() == [[0, 1, 2, 3, 4]]
    assert not selection.relaxed.any()


def test_caps_outlast_the_window_in_plain_order():
    selection = select(0.5, 1, caps=[cap([2, 2, 2, 2, 2], 2, limit=1, top=5)])
    assert selection.columns.tolist() == [[0, 1, 2, 3, 4]]


def test_a_cap_yields_when_nothing_else_is_left_and_says_so():
    selection = select(1.0, 0, caps=[cap([0, 0, 0, 0, 1], 2, limit=1, top=5)])
    assert selection.columns.tolist() == [[0, 4, 1, 2, 3]]
    assert selection.relaxed.tolist() == [True]


def test_of_two_caps_as_few_as_possible_yield():
    caps = [cap([0, 0, 0, 1, 1], 2, limit=1, top=5), cap([0, 0, 1, 0, 0], 2, limit=1, top=5)]
    # after 0: 1 breaks both, 2 the first, 3 and 4 the second
    assert select(1.0, 0, caps=caps).columns[0, :3].tolist() == [0, 2, 3]


def test_pins_count_for_caps_before_anything_is_picked():
    one = pool(eligible=[True, True, True, True, False], pinned=[-1, -1, 4, -1, -1])
    selection = select(1.0, 0, one, caps=[cap([0, 1, 2, 1, 0], 3, limit=1, top=3)])
    assert selection.columns.tolist() == [[1, 2, 4, 0, 3]]
    assert not selection.relaxed.any()


def test_pins_alone_can_break_a_cap():
    one = pool(eligible=[False, False, True, True, True], pinned=[0, 1, -1, -1, -1])
    assert select(1.0, 0, one, caps=[cap([0, 0, 1, 2, 3], 4, limit=1, top=5)]).relaxed.tolist() == [True]


@pytest.mark.parametrize(
    ("trade_off", "window", "message"),
    [
        (1.5, 1, "diversity.trade_off is 1.5"),
        (math.nan, 1, "diversity.trade_off is nan"),
        ("1", 1, "diversity.trade_off is '1'"),
        (1.0, -1, "diversity.window is -1"),
        (1.0, 1.5, "diversity.window is 1.5"),
        (1.0, True, "diversity.window is True"),
    ],
)
def test_refuses(trade_off, window, message):
    with pytest.raises(ConfigError, match=message):
        MaximalMarginalRelevance(trade_off=trade_off, window=window)
