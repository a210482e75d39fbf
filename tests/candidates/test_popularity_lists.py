"""Popular and fresh items: the window, the order, and one list for everybody."""

import numpy as np
import pytest

from recsys.candidates.candidate_source import SourceQuery
from recsys.candidates.popularity import ItemList, PopularItems, RecentItems
from recsys.errors import ConfigError
from recsys.features.encode import DAY

ITEMS = np.array([0, 0, 0, 1, 2, 2, 1, 4])
DAYS = np.array([0, 0, 1, 7, 8, 9, 9, 10.0])


def popular(**settings):
    return PopularItems(**{"num": 2, "weight": 0.5, "days": 3.0, "kept": 4, **settings})


def fresh(**settings):
    return RecentItems(**{"num": 2, "weight": 0.5, "kept": 4, "column": None, **settings})


@pytest.fixture
def known(known_of):
    dates = ("number", [1.0, 9.0, None, 5.0, 9.0, 7.0])
    return known_of(np.arange(8), ITEMS, 6, timestamps=DAYS * DAY, released=dates)


@pytest.fixture
def timeless(known_of):
    return known_of(np.arange(8), ITEMS, 6)


def test_only_the_window_before_the_end_counts(known):
    fitted = popular().fit(known)
    assert fitted.rows.tolist() == [2, 1, 4], "1 at day 7 stands on the edge and is out, 0 is too old, 3 and 5 unmet"
    assert fitted.scores.tolist() == [1, 0.5, 0.5]
    assert (fitted.rows.dtype, fitted.scores.dtype) == (np.int64, np.float32)


def test_a_long_window_counts_everything_and_ties_go_to_the_lower_row(known):
    fitted = popular(days=100.0).fit(known)
    assert fitted.rows.tolist() == [0, 1, 2, 4]
    np.testing.assert_allclose(fitted.scores, np.float32([1, 2 / 3, 2 / 3, 1 / 3]))


def test_without_time_everything_counts(timeless):
    assert popular().fit(timeless).rows.tolist() == [0, 1, 2, 4]


def test_the_list_is_cut_at_kept(known):
    assert popular(days=100.0, kept=2).fit(known).rows.tolist() == [0, 1]


@pytest.mark.parametrize(("k", "width"), [(1, 1), (3, 3), (9, 3)])
def test_everybody_gets_the_same_list_and_items_beyond_it_nothing(known, k, width):
    queries = SourceQuery(vectors=np.zeros((5, 4)), history=np.zeros((5, 2), dtype=int))
    scores = popular().fit(known).scores_for(queries)
    offered = scores.top_k(k)
    assert offered.shape == (5, width)
    assert (offered == [2, 1, 4][:width]).all()
    assert scores.score(np.arange(5), np.array([2, 1, 3, 5, 99])).tolist() == [1, 0.5, 0, 0, 0]


def test_the_newest_first_events_are_fresh(known):
    """First events: 0 at day 0, 1 at 7, 2 at 8, 4 at 10; 3 and 5 have none."""
    fitted = fresh().fit(known)
    assert fitted.rows.tolist() == [4, 2, 1, 0]
    assert fitted.scores.tolist() == [1, 0.75, 0.5, 0.25]


def test_items_that_come_later_lead_the_fresh_and_no_other_list(known):
    later = fresh().fit(known).with_new_items(known.index, np.array([7, 6]))
    assert later.rows.tolist() == [7, 6, 4, 2]
    assert later.scores.tolist() == [1, 0.75, 0.5, 0.25]
    for fitted in (popular().fit(known), fresh(column="released").fit(known)):
        assert fitted.with_new_items(known.index, np.array([7, 6])) is fitted


def test_a_list_that_was_stored_is_led_as_before(known):
    fitted = fresh().fit(known)
    document, arrays = fitted.to_documents()
    again = ItemList.from_documents(document, arrays, known.index)
    assert (
        again.with_new_items(known.index, np.array([6])).rows.tolist()
        == fitted.with_new_items(known.index, np.array([6])).rows.tolist()
        == [6, 4, 2, 1]
    )


def test_what_is_hidden_is_offered_to_nobody(known):
    hidden = np.array([False, True, False, False, False, False])
    queries = SourceQuery(vectors=np.zeros((2, 4)), history=np.zeros((2, 2), dtype=int), hidden=hidden)
    assert popular().fit(known).scores_for(queries).top_k(2).tolist() == [[2, 4], [2, 4]]


def test_a_column_dates_cold_items_too_and_one_date_has_one_score(known):
    fitted = fresh(column="released", kept=5).fit(known)
    assert fitted.rows.tolist() == [1, 4, 5, 3, 0], "2 has no date"
    np.testing.assert_allclose(fitted.scores, [1, 1, 0.6, 0.4, 0.2], rtol=1e-6)


def test_without_time_nothing_is_fresh(timeless):
    assert fresh().fit(timeless) is None


def test_a_column_that_is_not_there_is_refused_with_those_that_are(known):
    with pytest.raises(ConfigError, match=r"candidates\.fresh\.column is 'year'.*\['released'\] or null"):
        fresh(column="year").fit(known)


@pytest.mark.parametrize(
    ("make", "settings", "key"),
    [
        (popular, {"days": 0}, "days"),
        (popular, {"kept": 1}, "kept"),
        (fresh, {"kept": 1}, "kept"),
        (fresh, {"num": 0}, "num"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(make, settings, key):
    with pytest.raises(ConfigError, match=rf"candidates\.{make.__name__}\.{key}"):
        make(**settings)
