"""What a policy does, seen from its own log."""

import numpy as np
import pytest

from recsys.data.bandit import BanditLog
from recsys.experiments.logged_policy import shares


def logged(actions, positions, propensities=None):
    rounds = len(actions)
    return BanditLog(
        contexts=np.zeros((rounds, 0)),
        actions=np.array(actions),
        rewards=np.zeros(rounds),
        propensities=np.full(rounds, 0.5) if propensities is None else propensities,
        positions=np.array(positions),
        num_actions=3,
    )


def test_each_position_has_its_own_shares():
    found = shares(logged([0, 0, 1, 2, 1, 1], [0, 0, 0, 0, 2, 2]))
    np.testing.assert_allclose(found, [[0.5, 0.25, 0.25], [1 / 3] * 3, [0, 1, 0]])


def test_shares_are_right_on_average_and_logged_propensities_are_not():
    """A policy that shows action 0 with .9 in one half of its time and .1 in the other: .5 on average."""
    chance, propensities, share = [], [], []
    for first in (0.9, 0.1):
        for action, propensity in ((0, first), (1, 1 - first)):
            chance.append(propensity / 2)
            propensities.append(propensity)
            share.append(shares(logged([action], [0], np.array([propensity])))[0, 0])
    assert np.dot(chance, share) == pytest.approx(0.5)
    of_first = np.array([1, 0, 1, 0]) * chance
    assert np.dot(of_first, propensities) / of_first.sum() == pytest.approx(0.82)
