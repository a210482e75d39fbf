"""Max-sum diversification against its slow twin: a greedy page by mean cosine, then the order of utility."""

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_twin import VECTORS, NaivePage, is_on
from test_compose import candidates, compiled, one_slate, requests, shown

from recsys.policy.diversity import MaxSum
from recsys.policy.exploration import EpsilonGreedy


class NaiveMaxSumPage(NaivePage):
    def score(self, row, place):
        if place >= self.window or self.trade_off == 1:
            return -self.free.index(row)
        above = [float(VECTORS[row] @ VECTORS[one]) for one in self.slate[:place]]
        diversity = -(1 - self.trade_off) * sum(above) / max(len(above), 1)
        if math.isnan(self.utility[row]):
            return -4 + diversity
        span = max(self.known) - min(self.known)
        return self.trade_off * ((self.utility[row] - min(self.known)) / (span or 1)) + diversity

    def put_in_order(self):
        """Between the tops of the quotas, the free places of the window by utility."""
        end = min(self.window, len(self.slate)) if self.trade_off < 1 else 0
        tops = {rule["top"] for rule in self.quotas if "top" in rule and rule["top"] < end}
        for start, stop in itertools.pairwise(sorted({0, *tops, end})):
            places = [place for place in range(start, stop) if self.layout[place] is None]
            rows = sorted((self.slate[place] for place in places), key=self.free.index)
            for place, row in zip(places, rows, strict=True):
                self.slate[place] = row


@settings(max_examples=200, deadline=None)
@given(requests())
def test_equals_its_slow_twin(request_):
    rules, dial, trade_off, window, queries, rows, values = request_
    policy = compiled(rules, trade_off, window, dial=dial, kind=MaxSum)
    shape = (len(rows), len(rows[0]))
    got = policy.compose(queries, candidates(np.reshape(rows, shape), np.reshape(values, shape)))
    for slate, asked, some, offered in zip(got, queries, rows, values, strict=True):
        page = NaiveMaxSumPage(
            [rule for rule in rules if is_on(rule, asked)], dial, trade_off, window, asked, some, offered
        )
        page.fill()
        page.put_in_order()
        relaxed = {reason.removeprefix("rules:relaxed:") for reason in slate.degraded if reason.startswith("rules:")}
        if relaxed == page.yielded == set():
            assert shown(slate) == [f"i{row}" for row in page.slate]


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(16)), st.integers(0, 10), st.integers(2, 10))
def test_a_lower_dial_never_gives_a_page_of_more_utility_and_it_is_in_order(order, tenths, k):
    values = np.linspace(1, 0, 16)
    pages = [one_slate(compiled((), dial / 10, k, kind=MaxSum), list(order), values, k=k) for dial in (tenths, 10)]
    utilities = [[item.utility for item in page.items] for page in pages]
    assert sum(utilities[0]) <= sum(utilities[1]) + 1e-6
    assert utilities[0] == sorted(utilities[0], reverse=True)


def test_where_chance_has_a_say_the_places_stay_as_drawn():
    still = one_slate(compiled((), 0.3, 8, kind=MaxSum), list(range(8)), np.linspace(1, 0, 8), k=8)
    rare = EpsilonGreedy(rate=1e-6, first=7)
    drawn = one_slate(compiled((), 0.3, 8, kind=MaxSum, explore=rare), list(range(8)), np.linspace(1, 0, 8), k=8)
    assert [item.rank for item in still.items] == list(range(8))
    assert sorted(item.rank for item in drawn.items) == list(range(8))
    assert [item.rank for item in drawn.items] != list(range(8)), "or this page could not tell"
