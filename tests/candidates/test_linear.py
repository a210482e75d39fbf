"""Item-item neighbours against a dense matrix, and the shrunken cosine by hand.

Shapes: B queries, L history, N items, M neighbours an item, K results.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.candidates.linear import ItemItem, ItemNeighbours
from recsys.contracts import PAD
from recsys.errors import ConfigError


def item_item(**knobs):
    return ItemItem(**{"num": 5, "weight": 1.0, "neighbours": 3, "shrinkage": 0.0, "decay": 1.0, **knobs})


def dense(fitted, num_items):
    """[N, N] what an event of the row speaks for."""
    matrix = np.zeros((num_items, num_items))
    for row, (columns, weights) in enumerate(zip(fitted.rows[:-1], fitted.weights[:-1], strict=True)):
        kept = columns != PAD
        matrix[row, columns[kept]] = weights[kept]
    return matrix


def test_the_shrunken_cosine_known_answer():
    """Users 0 and 1 met items 0 and 1, user 2 met 1 twice and 2; nobody met 3."""
    users, items = np.array([0, 0, 1, 1, 2, 2, 2]), np.array([0, 1, 0, 1, 1, 2, 1])
    fitted = item_item(shrinkage=1.0).fit(users, items, 4)
    zero_one, one_two = 2 / (np.sqrt(2 * 3) + 1), 1 / (np.sqrt(3 * 1) + 1)
    expected = [[0, zero_one, 0, 0], [zero_one, 0, one_two, 0], [0, one_two, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(dense(fitted, 4), expected, rtol=1e-6)
    assert fitted.rows.shape == (5, 3)
    assert (fitted.rows[-1] == PAD).all()
    assert not fitted.weights[-1].any()


def test_only_the_strongest_neighbours_stay_and_ties_go_to_the_lower_row():
    users = np.array([0, 0, 1, 1, 2, 2, 3, 3, 3])
    items = np.array([0, 2, 0, 2, 0, 1, 0, 1, 3])
    fitted = item_item(neighbours=2).fit(users, items, 4)
    assert fitted.rows[0].tolist() == [1, 2]
    assert fitted.weights[0, 0] == fitted.weights[0, 1]
    assert fitted.rows[3].tolist() == [1, 0], "1 / sqrt(2) before 1 / sqrt(4)"


@settings(deadline=None, max_examples=80)
@given(st.integers(2, 9), st.integers(1, 6), st.integers(1, 6), st.integers(0, 10_000), st.floats(0.1, 1))
def test_search_equals_a_dense_matrix(num_items, length, k, seed, decay):
    generator = np.random.default_rng(seed)
    users, items = generator.integers(0, 6, 30), generator.integers(0, num_items, 30)
    fitted = item_item(neighbours=4, shrinkage=2.0, decay=decay).fit(users, items, num_items)
    history = generator.integers(PAD, num_items, (3, length))
    scores, rows = fitted.search(history, k)
    matrix = dense(fitted, num_items)
    for own, found_scores, found_rows in zip(history, scores, rows, strict=True):
        events = [(place, row) for place, row in enumerate(own) if row != PAD]
        sums = sum((decay ** (length - 1 - place) * matrix[row] for place, row in events), np.zeros(num_items))
        assert found_rows.shape == (k,)
        kept = found_rows[found_rows != PAD]
        assert len(kept) == min(k, (sums > 0).sum())
        assert len(set(kept)) == len(kept)
        assert np.isneginf(found_scores[len(kept) :]).all()
        np.testing.assert_allclose(found_scores[: len(kept)], sums[kept], rtol=1e-5)
        np.testing.assert_allclose(found_scores[: len(kept)], np.sort(sums)[::-1][: len(kept)], rtol=1e-5)


def test_equal_sums_go_to_the_lower_row_and_newer_events_weigh_more():
    rows = np.array([[2, 3], [3, 2], [PAD, PAD], [PAD, PAD], [PAD, PAD]])
    weights = np.array([[1, 0.5], [1, 0.5], [0, 0], [0, 0], [0, 0]], dtype=np.float32)
    alike = ItemNeighbours(rows=rows, weights=weights, decay=1.0)
    assert alike.search(np.array([[0, 1]]), 2)[1].tolist() == [[2, 3]]
    newer = ItemNeighbours(rows=rows, weights=weights, decay=0.5)
    scores, found = newer.search(np.array([[0, 1]]), 2)
    assert (found.tolist(), scores.tolist()) == ([[3, 2]], [[1.25, 1.0]])


def test_an_empty_history_gets_nothing():
    fitted = item_item().fit(np.array([0, 0]), np.array([0, 1]), 2)
    scores, rows = fitted.search(np.full((2, 4), PAD), 3)
    assert (rows == PAD).all()
    assert np.isneginf(scores).all()


def test_items_never_met_together_have_no_neighbours():
    fitted = item_item().fit(np.array([0, 1]), np.array([0, 1]), 3)
    assert (fitted.rows == PAD).all()
    assert not fitted.weights.any()


@pytest.mark.parametrize(
    "knobs", [{"decay": 0}, {"decay": 1.1}, {"neighbours": 0}, {"shrinkage": -1}], ids=lambda knobs: next(iter(knobs))
)
def test_a_knob_out_of_range_is_refused_by_name(knobs):
    with pytest.raises(ConfigError, match=rf"candidates\.item_item.*{next(iter(knobs))}"):
        item_item(**knobs)
