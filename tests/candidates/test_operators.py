"""Item-item operators against loops over users, and by hand.

Shapes: U users, N items, M events.
"""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys.candidates.item_item import Cooccurrence, Cosine, Transitions
from recsys.candidates.operators import (
    cooccurrence,
    cosine,
    damped_cooccurrence,
    newest_events,
    normalised_transitions,
    row_blocks,
    strongest_per_row,
    transitions,
)

HISTORIES = st.lists(st.lists(st.integers(0, 5), max_size=8), min_size=1, max_size=6)


def events_of(histories):
    users = np.repeat(np.arange(len(histories)), [len(one) for one in histories])
    return users, np.array([item for one in histories for item in one], dtype=np.int64)


def seen_of(histories):
    seen = np.zeros((len(histories), 6), dtype=np.float32)
    seen[events_of(histories)] = 1
    return sparse.csr_array(seen)


@settings(deadline=None)
@given(HISTORIES)
def test_cooccurrence_counts_the_users_of_both(histories):
    expected = np.zeros((6, 6))
    for one in histories:
        for i in set(one):
            for j in set(one) - {i}:
                expected[i, j] += 1
    assert np.array_equal(cooccurrence(seen_of(histories)).toarray(), expected)


@settings(deadline=None)
@given(HISTORIES, st.integers(1, 4), st.randoms(use_true_random=False))
def test_transitions_equal_a_loop_over_pairs_whatever_the_order_of_the_users(histories, window, random):
    expected = np.zeros((6, 6))
    for one in histories:
        for later, j in enumerate(one):
            for earlier in range(max(0, later - window), later):
                if one[earlier] != j:
                    expected[one[earlier], j] += 1 / (later - earlier)
    users, items = events_of(histories)
    np.testing.assert_allclose(transitions(users, items, 6, window).toarray(), expected, rtol=1e-6)
    drawn = np.array([random.random() for _ in histories])
    mixed = np.argsort(drawn[users], kind="stable")
    assert np.allclose(transitions(users[mixed], items[mixed], 6, window).toarray(), expected)


def test_a_window_of_one_event_is_the_markov_chain():
    history = [0, 1, 2, 1, 0]
    users, items = events_of([history])
    expected = np.zeros((6, 6))
    for i, j in pairwise(history):
        expected[i, j] += 1
    assert np.array_equal(transitions(users, items, 6, 1).toarray(), expected)


@settings(deadline=None)
@given(HISTORIES)
def test_the_cosine_is_damping_by_one_half(histories):
    together, popularity = cooccurrence(seen_of(histories)), seen_of(histories).sum(axis=0)
    np.testing.assert_allclose(
        cosine(together, popularity, 0.0).toarray(), damped_cooccurrence(together, popularity, 0.5).toarray(), rtol=1e-6
    )


def test_normalisation_known_answers():
    together = sparse.csr_array(np.float32([[0, 6], [6, 0]]))
    popularity = np.array([9, 16])
    assert cosine(together, popularity, 3.0).toarray() == pytest.approx(np.array([[0, 0.4], [0.4, 0]]))
    assert damped_cooccurrence(together, popularity, 0.0).toarray().tolist() == [[0, 6], [6, 0]]
    assert damped_cooccurrence(together, popularity, 1.0).toarray() == pytest.approx(
        np.array([[0, 1 / 24], [1 / 24, 0]])
    )
    counts = sparse.csr_array(np.float32([[0, 1.5, 0.5], [0, 0, 2], [0, 0, 0]]))
    expected = [[0, 1.5 / 4 / 2, 0.5 / 4 / 3], [0, 0, 2 / 4 / 3], [0, 0, 0]]
    assert normalised_transitions(counts, np.array([0, 3, 8]), 2.0, 0.5).toarray() == pytest.approx(np.array(expected))


@settings(deadline=None)
@given(HISTORIES, st.integers(1, 40))
def test_blocks_of_rows_are_the_whole_matrix_and_hold_what_they_may(histories, limit):
    seen = seen_of(histories)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recsys.candidates.operators.BLOCK_PAIRS", limit)
        parts = row_blocks(seen)
    stacked = np.concatenate([cooccurrence(seen, rows).toarray() for rows in parts])
    assert np.array_equal(stacked, cooccurrence(seen).toarray())
    for rows in parts:
        held = [cooccurrence(seen, slice(row, row + 1)).nnz for row in range(rows.start, rows.stop)]
        assert sum(held[1:-1]) <= limit + 6


@settings(deadline=None)
@given(HISTORIES, st.integers(1, 4), st.integers(1, 40))
def test_operators_fitted_in_blocks_are_those_of_one_piece(histories, most, limit):
    users, items = events_of(histories)
    if not len(users):
        return
    known = SimpleNamespace(users=users, items=items, num_items=6, ordered=True)
    for operator in (Cosine(shrinkage=1.0), Cooccurrence(damping=0.3), Transitions(window=2, power=0.25)):
        whole = strongest_per_row(operator.fit(known, 6), most).toarray()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("recsys.candidates.operators.BLOCK_PAIRS", limit)
            np.testing.assert_allclose(operator.fit(known, most).toarray(), whole, rtol=1e-6)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 5))
def test_the_newest_events_of_a_user_are_the_last_ones(users, most):
    kept = newest_events(np.array(users), most)
    for place, user in enumerate(users):
        assert kept[place] == (users[place + 1 :].count(user) < most)
