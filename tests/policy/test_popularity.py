"""The popularity dial: known answers, laws, what a slate says of it, and that its events lie before the test period."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_twin import CATALOGUE, POPULARITY, N, naive_discount
from test_compose import candidates, compiled, one_slate, query, requests, shown

from recsys.errors import BundleError
from recsys.policy.popularity import MIN_FACTOR, PopularityDial

ALL = list(range(N))


def factors(discount, of, exposure=None):
    dial = PopularityDial(discount=discount, of=of).compile(CATALOGUE["item"], POPULARITY)
    return dial.factors([query(exposure=exposure or {})], np.array([ALL]))


@given(
    st.floats(0.01, 10),
    st.sampled_from(["events", "exposure"]),
    st.dictionaries(st.sampled_from([f"item=i{row}" for row in ALL]), st.floats(0, 1)),
)
def test_factors_are_those_of_the_slow_twin_and_bounded(discount, of, exposure):
    found = factors(discount, of, exposure)[0]
    asked = query(exposure=exposure)
    assert found == pytest.approx([naive_discount((discount, of), row, asked) for row in ALL])
    assert ((found >= MIN_FACTOR) & (found <= 1)).all()


@given(st.floats(0.01, 5), st.floats(0.01, 5))
def test_a_higher_dial_discounts_more_and_the_popular_most(one, other):
    low, high = sorted([one, other])
    assert (factors(high, "events") <= factors(low, "events")).all()
    assert (np.diff(factors(low, "events")[0]) >= 0).all(), "POPULARITY falls with the row"


@settings(max_examples=60, deadline=None)
@given(st.permutations(ALL), st.integers(2, 8))
def test_the_mean_popularity_of_a_page_falls_as_the_dial_rises(order, k):
    """As long as no factor is at its bound."""
    values = np.linspace(1, 0.5, N)
    pages = [
        shown(one_slate(compiled(dial=(dial, "events")), list(order), values, k=k)) for dial in (0, 0.25, 0.5, 1, 2)
    ]
    rows = [sum(int(item[1:]) for item in page) for page in pages]
    assert rows == sorted(rows), "POPULARITY falls evenly with the row"


@settings(max_examples=60, deadline=None)
@given(requests())
def test_off_is_exactly_as_without(request_):
    rules, _, trade_off, window, queries, rows, values = request_
    shape = (len(rows), len(rows[0]))
    offered = candidates(np.reshape(rows, shape), np.reshape(values, shape))
    off = compiled(rules, trade_off, window, dial=(0.0, "exposure")).fill(queries, offered)
    assert off.scored.discounts is None
    utilities = off.scored.utility
    plain = compiled(rules, trade_off, window, dial=(0.0, "events")).fill(queries, offered).scored.utility
    assert np.array_equal(utilities, plain, equal_nan=True)


def test_a_slate_says_what_the_dial_did():
    policy = compiled(dial=(1.0, "exposure"))
    page = one_slate(policy, [1, 2, 3], [0.9, 0.8, 0.7], exposure={"item=i1": 1 / N, "item=i2": 3 / N})
    assert shown(page) == ["i3", "i1", "i2"]
    assert [item.rules for item in page.items] == [
        {},
        {"policy.popularity": "utility x0.5"},
        {"policy.popularity": "utility x0.25"},
    ]
    assert [item.utility for item in page.items] == pytest.approx([0.7, 0.45, 0.2])


def test_a_negative_utility_falls_too():
    page = one_slate(compiled(dial=(1.0, "exposure")), [1, 2], [-0.5, -0.75], exposure={"item=i1": 1 / N})
    assert [(item.item, item.utility) for item in page.items] == [("i2", -0.75), ("i1", -1.0)]


def test_events_that_nobody_counted_are_missed_only_where_they_are_read():
    with pytest.raises(BundleError, match="tells no popularity"):
        PopularityDial(discount=0.5, of="events").compile(CATALOGUE["item"], None)
    for dial in (PopularityDial.off(), PopularityDial(discount=0.5, of="exposure")):
        dial.compile(CATALOGUE["item"], None)


def test_items_that_came_after_training_have_no_events():
    dial = PopularityDial(discount=1.0, of="events").compile(CATALOGUE["item"], POPULARITY[:4])
    assert dial.factors([query()], np.array([ALL]))[0, 4:].tolist() == [1.0] * (N - 4)
