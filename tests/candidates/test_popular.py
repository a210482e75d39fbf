"""Recent popularity: the window, the order, and one list for everybody."""

import numpy as np
import pytest

from recsys.candidates.popular import DAY, Popular
from recsys.errors import ConfigError

ITEMS = np.array([0, 0, 0, 1, 2, 2, 1, 4])
DAYS = np.array([0, 0, 1, 7, 8, 9, 9, 10.0])


def popular(**knobs):
    return Popular(**{"num": 2, "weight": 0.5, "days": 3.0, "kept": 4, **knobs})


def test_only_the_window_before_the_end_counts():
    fitted = popular().fit(ITEMS, DAYS * DAY, 6)
    assert fitted.rows.tolist() == [2, 1, 4], "1 at day 7 stands on the edge and is out, 0 is too old, 3 and 5 unmet"
    assert fitted.scores.tolist() == [1, 0.5, 0.5]
    assert (fitted.rows.dtype, fitted.scores.dtype) == (np.int64, np.float32)


def test_a_long_window_counts_everything_and_ties_go_to_the_lower_row():
    fitted = popular(days=100.0).fit(ITEMS, DAYS * DAY, 6)
    assert fitted.rows.tolist() == [0, 1, 2, 4]
    np.testing.assert_allclose(fitted.scores, np.float32([1, 2 / 3, 2 / 3, 1 / 3]))


def test_without_time_everything_counts():
    fitted = popular().fit(ITEMS, np.full(len(ITEMS), np.nan), 6)
    assert fitted.rows.tolist() == [0, 1, 2, 4]


def test_the_list_is_cut_at_kept():
    assert popular(days=100.0, kept=2).fit(ITEMS, DAYS * DAY, 6).rows.tolist() == [0, 1]


@pytest.mark.parametrize(("k", "width"), [(1, 1), (3, 3), (9, 3)])
def test_everybody_gets_the_same_list(k, width):
    scores, rows = popular().fit(ITEMS, DAYS * DAY, 6).search(5, k)
    assert scores.shape == rows.shape == (5, width)
    assert (rows == [2, 1, 4][:width]).all()


@pytest.mark.parametrize(("knobs", "key"), [({"days": 0}, "days"), ({"kept": 1}, "kept")])
def test_a_knob_out_of_range_is_refused_by_name(knobs, key):
    with pytest.raises(ConfigError, match=rf"candidates\.popular\.{key}"):
        popular(**knobs)
