"""A bandit's log: what it refuses, and how rounds are taken from it."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.data.bandit import BanditLog
from recsys.errors import DataError

LOG = BanditLog(
    contexts=np.array([[0.1], [0.2], [0.3]]),
    actions=np.array([0, 2, 1]),
    rewards=np.array([1.0, 0.0, 0.5]),
    propensities=np.array([0.5, 1.0, 0.2]),
    positions=np.array([0, 1, 1]),
    num_actions=3,
)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"actions": np.array([], int)}, "the log has no rounds"),
        ({"rewards": np.zeros(2)}, r"rewards has the shape \(2,\), actions \(3,\); give one row a round"),
        ({"contexts": np.zeros(3)}, r"contexts has the shape \(3,\)"),
        ({"contexts": np.full((3, 1), np.nan)}, "contexts is nan in round 0; wanted finite numbers"),
        ({"rewards": np.array([0.0, np.inf, 0.0])}, "rewards is inf in round 1"),
        ({"rewards": np.array(["1", "0", "1"])}, "rewards is of type <U1; wanted numbers"),
        ({"propensities": np.array([0.5, 0.0, 0.5])}, "propensities is 0 in round 1; wanted .* above 0 and at most 1"),
        ({"propensities": np.array([0.5, 0.5, 1.5])}, "propensities is 1.5 in round 2"),
        ({"actions": np.array([0.0, 1.0, 2.0])}, "actions is of type float64; wanted whole numbers"),
        ({"actions": np.array([0, -1, 2])}, "actions holds -1; wanted whole numbers from 0"),
        ({"actions": np.array([0, 3, 2])}, "actions holds 3, but there are 3; number them from 0"),
        ({"positions": np.array([0, -2, 2])}, "positions holds -2"),
        (
            {"possible": np.ones((2, 3), bool)},
            r"possible is bool of shape \(2, 3\); wanted true or false for each of 3",
        ),
        ({"possible": np.ones((1, 3))}, "possible is float64"),
        ({"possible": np.array([[True, True, False]])}, "possible rules out action 2 in round 1, where it was shown"),
    ],
)
def test_what_no_log_can_hold_is_refused(change, sentence):
    with pytest.raises(DataError, match=sentence):
        replace(LOG, **change)


def test_rounds_are_taken_with_all_that_belongs_to_them():
    possible = np.array([[True, False, False], [False, False, True], [False, True, True]])
    taken = replace(LOG, possible=possible).rows(np.array([2, 2, 0]))
    assert len(taken) == 3
    assert taken.actions.tolist() == [1, 1, 0]
    assert taken.rewards.tolist() == [0.5, 0.5, 1.0]
    assert taken.contexts.ravel().tolist() == [0.3, 0.3, 0.1]
    np.testing.assert_array_equal(taken.possible, possible[[2, 2, 0]])
    everywhere = np.ones((1, 3), bool)
    assert replace(LOG, possible=everywhere).rows(np.array([1])).possible is everywhere
    assert LOG.num_positions == 2
