"""Expected popularity against ridge regression in closed form, and what the list holds."""

import numpy as np
import pytest

from recsys.candidates.cold_start import POPULARITY_SMOOTHING, ColdItemPopularityModel
from recsys.errors import ConfigError
from recsys.features.encode import DAY

KINDS = ["hit", "hit", "dud", "dud", "hit", "dud", "hit"]
YEARS = [1.0, 2, 1, 2, 1, None, 9]
LOOKS = [[1.0, 0], [0, 1], [1, 1], [0, 0], [2, 0], [1, -1], [-1, 0]]
ITEMS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 3, 3])
DAYS = np.arange(10.0)
COLD = [4, 5, 6]


def fit(known, **knobs):
    given = {"num": 2, "weight": 0.1, "kept": 9, "half_life_days": 5.0, "regularisation": 0.7}
    return ColdItemPopularityModel(**{**given, **knobs}).fit(known)


@pytest.fixture
def known(known_of):
    columns = {"kind": ("category", KINDS), "year": ("number", YEARS), "look": ("vector", LOOKS)}
    return known_of(np.arange(10), ITEMS, 7, timestamps=DAYS * DAY, **columns)


def slow():
    """[N] by the normal equations; the fixture's numbers have mean 3 and scale 2 and a flag for a missing one."""
    years = [[0, 1] if year is None else [(year - 3) / 2, 0] for year in YEARS]
    content = np.array(
        [[kind == "dud", kind == "hit", *year] for kind, year in zip(KINDS, years, strict=True)], dtype=float
    )
    popularity = np.bincount(ITEMS, 0.5 ** ((9 - DAYS) / 5))
    wanted = np.log(popularity + POPULARITY_SMOOTHING * popularity.mean())
    centred = content[:4] - content[:4].mean(axis=0)
    gram = centred.T @ centred + 0.7 * np.eye(centred.shape[1])
    coefficients = np.linalg.solve(gram, centred.T @ (wanted - wanted.mean()))
    return (content - content[:4].mean(axis=0)) @ coefficients + wanted.mean()


def test_the_list_holds_cold_items_by_the_popularity_that_ridge_regression_expects(known):
    expected, fitted = slow(), fit(known)
    order = sorted(COLD, key=lambda item: -expected[item])
    assert fitted.rows.tolist() == order
    low, high = expected[COLD].min(), expected[COLD].max()
    np.testing.assert_allclose(fitted.scores, (expected[order] - low) / (high - low), rtol=1e-4, atol=1e-5)


def test_what_was_like_the_popular_promises_more(known_of):
    known = known_of(np.arange(10), ITEMS, 7, kind=("category", KINDS))
    fitted = fit(known)
    assert fitted.rows.tolist() == [4, 6, 5]
    assert fitted.scores.tolist() == [1, 1, 0]


def test_the_list_is_cut_at_kept(known):
    assert fit(known, kept=2).rows.tolist() == fit(known).rows[:2].tolist()


def test_a_catalogue_of_ids_promises_nothing(known_of):
    assert fit(known_of([0], [0], 3)) is None


def test_where_all_was_met_the_list_is_empty_but_the_source_is_there(known_of):
    fitted = fit(known_of([0, 0, 0], [0, 1, 2], 3, kind=("category", ["x", "x", "y"])))
    assert (len(fitted.rows), len(fitted.scores)) == (0, 0)


@pytest.mark.parametrize("knobs", [{"half_life_days": 0}, {"regularisation": 0}, {"kept": 1}, {"num": 0}])
def test_a_knob_out_of_range_is_refused_by_name(known, knobs):
    with pytest.raises(ConfigError, match=rf"candidates\.promising\.{next(iter(knobs))}"):
        fit(known, **knobs)
