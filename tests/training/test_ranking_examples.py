"""Which candidates and requests the ranker learns from."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.training.ranking_examples import drawn, learnt_places


def test_the_first_candidates_and_one_in_eight_of_the_others():
    assert learnt_places(30, 10).tolist() == [*range(10), 10, 18, 26]
    assert learnt_places(5, 10).tolist() == [0, 1, 2, 3, 4]


@given(st.integers(0, 50), st.integers(0, 60))
def test_requests_are_drawn_without_a_preference_for_early_ones(num, most):
    rows = np.arange(100, 100 + num)
    chosen = drawn(rows, most)
    assert len(chosen) == min(num, most)
    assert chosen.tolist() == sorted(set(chosen.tolist()) & set(rows.tolist()))
    assert np.array_equal(chosen, drawn(rows, most))


def test_a_large_period_is_drawn_from_everywhere():
    assert 400 < drawn(np.arange(1_000), 300).mean() < 600
