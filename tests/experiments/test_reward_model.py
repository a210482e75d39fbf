"""The reward model: its optimum, its folds, and that it never sees what it predicts."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from recsys.data.bandit import BanditLog
from recsys.errors import DataError
from recsys.experiments.reward_model import cross_fitted, fit_logistic


def drawn(seed=0, rounds=300, num_actions=4):
    rng = np.random.default_rng(seed)
    contexts, actions = rng.normal(size=(rounds, 2)), rng.integers(num_actions, size=rounds)
    positions = rng.integers(3, size=rounds)
    logits = contexts @ [1.0, -0.5] + np.linspace(-1, 1, num_actions)[actions] - 0.5 * positions
    return BanditLog(
        contexts=contexts,
        actions=actions,
        rewards=(rng.random(rounds) < 1 / (1 + np.exp(-logits))).astype(float),
        propensities=np.full(rounds, 1 / num_actions),
        positions=positions,
        num_actions=num_actions,
    )


def slow_weights(log, ridge):
    """The same optimum by a general minimiser over all columns at once."""
    columns = np.column_stack(
        [np.ones(len(log)), log.contexts, log.positions == 1, log.positions == 2, np.eye(log.num_actions)[log.actions]]
    )
    penalty = np.full(columns.shape[1], ridge)
    penalty[0] = 1e-9

    def loss(weights):
        logits = columns @ weights
        return np.sum(np.logaddexp(0, logits) - log.rewards * logits) + penalty @ weights**2 / 2

    def slope(weights):
        return columns.T @ (1 / (1 + np.exp(-columns @ weights)) - log.rewards) + penalty * weights

    return minimize(loss, np.zeros(columns.shape[1]), jac=slope, method="BFGS", options={"gtol": 1e-6}).x


@pytest.mark.parametrize("ridge", [0.1, 1.0, 10.0])
def test_newton_finds_what_a_general_minimiser_finds(ridge):
    log = drawn()
    model = fit_logistic(log, 3, ridge)
    np.testing.assert_allclose([*model.shared, *model.own], slow_weights(log, ridge), atol=1e-4)


def test_predictions_are_of_every_action_and_one_without_rounds_is_like_the_mean_action():
    log = replace(drawn(), num_actions=6)
    model = fit_logistic(log, 3)
    predicted = model.predict(log)
    assert predicted.shape == (300, 6)
    assert model.own[4] == model.own[5] == 0
    logits = np.log(predicted / (1 - predicted))
    np.testing.assert_allclose(logits - logits[:, 5:], np.tile(model.own, (300, 1)), atol=1e-9)


def test_a_log_without_a_reward_is_predicted_as_nearly_nothing():
    predicted = cross_fitted(replace(drawn(), rewards=np.zeros(300)), seed=0)
    assert (predicted < 1e-4).all()


def test_the_reward_of_a_round_does_not_change_its_own_prediction():
    """Poison: rewards are turned around one fold at a time, told apart by what stays the same."""
    log = drawn()
    before = cross_fitted(log, seed=3)
    turned = log.rewards.copy()
    turned[7] = 1 - turned[7]
    after = cross_fitted(replace(log, rewards=turned), seed=3)
    np.testing.assert_array_equal(after[7], before[7])
    fold = (after == before).all(axis=1)
    assert fold.sum() == 100
    assert not (after == before).all(axis=1)[~fold].any()


def test_copies_of_a_round_share_its_fold():
    log = drawn()
    places = np.random.default_rng(0).integers(300, size=300)
    copies = log.rows(places)
    turned = copies.rewards.copy()
    same = places == np.bincount(places).argmax()
    assert same.sum() > 1
    turned[same] = 1 - turned[same]
    before, after = (cross_fitted(replace(copies, rewards=one), 0, groups=places) for one in (copies.rewards, turned))
    np.testing.assert_array_equal(after[same], before[same])


def test_rewards_that_are_no_shares_are_refused():
    log = drawn()
    with pytest.raises(DataError, match=r"rewards is 3 in round 0; the logistic model wants 0 to 1"):
        fit_logistic(replace(log, rewards=np.full(300, 3.0)), 3)


def test_folds_depend_on_nothing_but_the_seed():
    log = drawn()
    np.testing.assert_array_equal(cross_fitted(log, seed=5), cross_fitted(log, seed=5))
    assert not np.array_equal(cross_fitted(log, seed=5), cross_fitted(log, seed=6))
