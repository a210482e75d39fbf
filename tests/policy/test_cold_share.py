"""Positions kept for items without events behind the ranker: known answers, laws, and what a slate says of them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_twin import N
from test_compose import candidates, compiled, query, requests, shown

from recsys.kept_positions import KeptPositions
from recsys.policy.cold_share import REASON, REASON_KEY, ColdShare


def keeping(policy, num, every):
    return replace(policy, cold=ColdShare(source=1, positions=KeptPositions(num=num, every=every)))


def offered_by_cold(rows, values, cold):
    """Candidates of which the second source offers `cold` alone."""
    offered = candidates(rows, values)
    scores = offered.source_scores.copy()
    scores[..., 1] = np.where(np.isin(offered.rows, list(cold)), scores[..., 1], np.nan)
    return replace(offered, source_scores=scores)


def slate(policy, rows, values, cold, **of_the_query):
    return policy.compose([query(**of_the_query)], offered_by_cold([rows], [values], cold))[0]


ROWS, VALUES = [0, 1, 2, 3, 4, 5, 6, 7], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.2, 0.1]


def test_the_best_cold_item_stands_in_the_kept_position_and_the_slate_says_so():
    found = slate(keeping(compiled(), num=2, every=3), ROWS, VALUES, cold={6, 7}, k=8)
    assert shown(found) == ["i0", "i1", "i6", "i2", "i3", "i7", "i4", "i5"]
    assert [item.item for item in found.items if item.rules == {REASON_KEY: REASON}] == ["i6", "i7"]
    assert found.items[2].utility == pytest.approx(0.75)
    assert found.items[5].utility == pytest.approx(0.55)


def test_a_shorter_slate_than_the_first_kept_position_is_the_same_as_without():
    policy = compiled()
    without = slate(policy, ROWS, VALUES, {6, 7}, k=2)
    assert slate(keeping(policy, num=2, every=3), ROWS, VALUES, {6, 7}, k=2).items == without.items


def test_a_banned_or_seen_cold_item_waits_for_no_position():
    policy = keeping(compiled([{"name": "no-6", "must": "item != 'i6'"}]), num=1, every=2)
    assert shown(slate(policy, ROWS, VALUES, {5, 6, 7}, k=4, seen=["i5"])) == ["i0", "i7", "i1", "i2"]


def test_positions_are_counted_among_what_may_be_shown():
    policy = keeping(
        compiled([{"name": "few", "must": "item != 'i0' and item != 'i1' and item != 'i2'"}]), num=1, every=4
    )
    assert shown(slate(policy, ROWS, VALUES, {7}, k=8)) == ["i3", "i4", "i5", "i7", "i6"]


def test_an_order_with_enough_cold_items_keeps_its_utilities():
    policy = keeping(compiled(), num=8, every=2)
    found = slate(policy, ROWS, VALUES, {0, 2, 4, 6}, k=8)
    assert shown(found) == [f"i{row}" for row in ROWS]
    assert not any(item.rules for item in found.items)


def known_of(scored, number):
    """Rows and utilities of what may be shown and has a utility, in order."""
    utility = scored.utility[number]
    known = scored.showable[number] & ~np.isnan(utility)
    return scored.rows[number][known], utility[known]


@settings(max_examples=150, deadline=None)
@given(requests(), st.integers(1, 4), st.integers(1, 5), st.sets(st.integers(0, N - 1)))
def test_all_candidates_stay_warm_ones_keep_their_order_and_each_query_is_alone(request_, num, every, cold):
    rules, dial, trade_off, window, queries, rows, values = request_
    shape = (len(rows), len(rows[0]))
    offered = offered_by_cold(np.reshape(rows, shape), np.reshape(values, shape), cold)
    plain = compiled(rules, trade_off, window, dial=dial)
    policy = keeping(plain, num, every)
    natural, kept = (one.fill(queries, offered).scored for one in (plain, policy))
    for number in range(len(queries)):
        assert sorted(natural.rows[number]) == sorted(kept.rows[number])
        (before, _), (after, known) = (known_of(one, number) for one in (natural, kept))
        assert [row for row in before if row not in cold] == [row for row in after if row not in cold]
        waiting = np.isin(after, list(cold))
        assert (np.diff(known) <= 0).all()
        for n in range(1, num + 1):
            if n * every <= len(known):
                assert waiting[: n * every].sum() >= min(n, waiting.sum())
    alone = [
        policy.fill([one], offered_by_cold([own], [some], cold))
        for one, own, some in zip(queries, rows, values, strict=True)
    ]
    assert [one.scored.rows.tolist() for one in alone] == [[own] for own in kept.rows.tolist()]
