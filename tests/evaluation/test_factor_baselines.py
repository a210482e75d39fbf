"""ALS by the package, and its users folded in against the normal equations.

Shapes: F factors, N items.
"""

import numpy as np
import pytest

from recsys.evaluation.factor_baselines import ALS
from recsys.replay.interactions import Histories, Interactions

KNOBS = {"factors": 6, "iterations": 5, "regularisation": 0.5, "confidence": 8.0, "threads": 1}


@pytest.fixture(scope="module")
def crowd():
    """Two tastes: even items and odd ones."""
    generator = np.random.default_rng(3)
    users = np.repeat(np.arange(60), 6)
    items = 2 * generator.integers(0, 10, 360) + users % 2
    timestamps = np.zeros(360)
    return Interactions(users=users, items=items, timestamps=timestamps, num_users=60, num_items=20, order="none")


def test_a_history_is_folded_in_by_the_normal_equations(crowd):
    scorer = ALS(**KNOBS, seed=0).fit(crowd)
    items, history = scorer.model.item_factors.astype(np.float64), [4, 7, 9]
    chosen = items[history]
    normal = items.T @ items + (8.0 - 1) * chosen.T @ chosen + 0.5 * np.eye(6)
    expected = items @ np.linalg.solve(normal, 8.0 * chosen.sum(axis=0))
    np.testing.assert_allclose(scorer.scores(Histories.of([history]))[0], expected, rtol=1e-3, atol=1e-4)


def test_tastes_are_found(crowd):
    two = KNOBS | {"factors": 2, "iterations": 15}
    scores = ALS(**two, seed=0).fit(crowd).scores(Histories.of([[0, 2], [1, 3]]))
    assert scores[0, 4::2].min() > scores[0, 5::2].max()
    assert scores[1, 5::2].min() > scores[1, 4::2].max()


def test_a_seed_repeats_itself_and_a_user_without_history_gets_no_opinion(crowd):
    one, same, other = (ALS(**KNOBS, seed=seed).fit(crowd).scores(crowd.histories) for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not ALS(**KNOBS, seed=0).fit(crowd).scores(Histories.of([[]])).any()
