"""Histories and interactions against loops; what is refused.

Shapes: B users, M events, N items.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.replay.interactions import Histories, Interactions

HISTORIES = st.lists(st.lists(st.integers(0, 4), max_size=7), min_size=1, max_size=6)


def lists_of(histories):
    return [part.tolist() for part in np.split(histories.items, histories.indptr[1:-1])]


def interactions(users, items, **changed):
    timestamps = np.arange(float(len(users)))
    told = {"timestamps": timestamps, "num_users": 3, "num_items": 4, "order": "time", **changed}
    return Interactions(users=np.array(users, dtype=np.int64), items=np.array(items, dtype=np.int64), **told)


@given(HISTORIES, st.floats(0.1, 1.0))
def test_an_item_weighs_what_the_age_of_its_newest_event_leaves(lists, decay):
    expected = np.zeros((len(lists), 5))
    for user, history in enumerate(lists):
        for age, item in enumerate(reversed(history)):
            expected[user, item] = max(expected[user, item], decay**age)
    np.testing.assert_allclose(Histories.of(lists).matrix(5, decay).toarray(), expected, rtol=1e-6)


def test_without_decay_every_item_counts_once():
    matrix = Histories.of([[1, 1, 0], []]).matrix(3)
    assert (matrix.dtype, matrix.toarray().tolist()) == (np.float32, [[1, 1, 0], [0, 0, 0]])


@given(HISTORIES, st.data())
def test_a_batch_is_the_histories_of_its_users(lists, data):
    histories = Histories.of(lists)
    start = data.draw(st.integers(0, len(lists)))
    stop = data.draw(st.integers(start, len(lists) + 2))
    assert lists_of(histories.batch(slice(start, stop))) == (lists[start:stop] or [[]])
    rows = data.draw(st.permutations(range(len(lists))))
    assert lists_of(histories.batch(np.array(rows))) == [lists[row] for row in rows]
    assert histories.lengths.tolist() == [len(one) for one in lists]
    assert histories.users.tolist() == [user for user, one in enumerate(lists) for _ in one]


def test_grouping_keeps_the_order_within_a_user():
    grouped = Histories.grouped(np.array([2, 0, 2, 0]), np.array([3, 1, 0, 2]), 4)
    assert lists_of(grouped) == [[1, 2], [], [3, 0], []]


def test_what_interactions_derive():
    told = interactions([0, 0, 1, 1, 1], [2, 1, 1, 1, 2])
    assert lists_of(told.histories) == [[2, 1], [1, 1, 2], []]
    assert told.matrix.toarray().tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert told.popularity.tolist() == [0, 2, 2, 0]
    assert told.together.toarray().tolist() == [[0, 0, 0, 0], [0, 0, 2, 0], [0, 2, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: interactions([0], [4]), ValueError, "items run from 4 to 4, wanted 0 to 3"),
        (lambda: interactions([3], [0]), ValueError, "users run from 3 to 3, wanted 0 to 2"),
        (lambda: interactions([0, 1], [1]), ValueError, "differ in length"),
        (lambda: interactions([], []), DataError, "no positive events"),
        (lambda: Histories.of([[-1]]), ValueError, "negative item"),
        (lambda: Histories(indptr=np.array([0, 2]), items=np.array([4])), ValueError, "from 0 to 1"),
        (lambda: Histories.of([[5]]).matrix(5), ValueError, "catalogue row 5, the catalogue has 5 items"),
    ],
)
def test_misuse_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
