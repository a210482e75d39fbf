"""Estimators of what another policy would have earned: by hand, against slow twins, and exactly over tiny worlds."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.bandit import BanditLog
from recsys.errors import DataError
from recsys.experiments.off_policy import (
    DEFAULT,
    ESTIMATORS,
    GRID,
    OffPolicyData,
    adaptive_shrinkage,
    adaptive_switch,
    direct,
    doubly_robust,
    evaluate,
    ips,
    self_normalised_dr,
    shrinkage,
    shrunk,
    slope,
    slope_shrinkage,
    snips,
    switch,
)


def bandit_log(actions, rewards, propensities, num_actions, **more):
    rounds = len(actions)
    return BanditLog(
        contexts=np.zeros((rounds, 0)),
        actions=np.array(actions),
        rewards=np.array(rewards, float),
        propensities=np.array(propensities, float),
        positions=np.zeros(rounds, int),
        num_actions=num_actions,
        **more,
    )


def by_hand():
    """w = 1.8, .4, 1.8, .8; q of what was shown = .5, .5, .5, .2; e = .5, -.5, -.5, .8; expected .5, .4, .46, .44."""
    return OffPolicyData(
        log=bandit_log([0, 1, 0, 1], [1, 0, 0, 1], [0.5, 0.25, 0.5, 0.5], 2),
        policy=np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.6, 0.4]]),
        predicted=np.array([[0.5, 0.5], [7 / 18, 0.5], [0.5, 0.1], [0.6, 0.2]]),
    )


def random_question(seed, rounds=60, num_actions=4):
    rng = np.random.default_rng(seed)
    policy, logger = (rng.dirichlet(np.full(num_actions, 0.5), rounds) * 0.98 + 0.02 / num_actions for _ in range(2))
    policy /= policy.sum(axis=1, keepdims=True)
    logger /= logger.sum(axis=1, keepdims=True)
    actions = np.array([rng.choice(num_actions, p=row) for row in logger])
    log = bandit_log(actions, rng.integers(0, 2, rounds), logger[np.arange(rounds), actions], num_actions)
    return OffPolicyData(log=log, policy=policy, predicted=rng.random((rounds, num_actions)))


QUESTIONS = st.integers(0, 10_000).map(random_question)


def test_the_parts_of_a_question_by_hand():
    question = by_hand()
    np.testing.assert_allclose(question.weights, [1.8, 0.4, 1.8, 0.8])
    np.testing.assert_allclose(question.residuals, [0.5, -0.5, -0.5, 0.8])
    np.testing.assert_allclose(question.expected, [0.5, 0.4, 0.46, 0.44])


@pytest.mark.parametrize(
    ("estimator", "estimate"),
    [
        (direct, 1.8 / 4),
        (ips, 2.6 / 4),
        (snips, 2.6 / 4.8),
        (doubly_robust, 0.45 + (0.9 - 0.2 - 0.9 + 0.64) / 4),
        (self_normalised_dr, 0.45 + 0.44 / 4.8),
        (lambda question: switch(question, 1.0), 0.45 + (-0.2 + 0.64) / 4),
        (lambda question: shrinkage(question, 1.0), 0.45 + (-0.2 / 1.16 + 0.64 / 1.64) / 4),
    ],
    ids=["direct", "ips", "snips", "doubly robust", "self-normalised", "switch", "shrinkage"],
)
def test_estimates_by_hand(estimator, estimate):
    assert estimator(by_hand()).mean() == pytest.approx(estimate)


def slow(question, of_round):
    """The same estimate one round at a time: of_round(w, r, q of what was shown, expected)."""
    log = question.log
    found = []
    for row in range(len(log)):
        action = log.actions[row]
        weight = question.policy[row, action] / log.propensities[row]
        expected = sum(question.policy[row, one] * question.predicted[row, one] for one in range(log.num_actions))
        found.append(of_round(weight, log.rewards[row], question.predicted[row, action], expected))
    return found


@settings(max_examples=30, deadline=None)
@given(QUESTIONS)
def test_each_contribution_is_that_of_its_slow_twin(question):
    twins = {
        direct: lambda w, r, q, expected: expected,
        ips: lambda w, r, q, expected: w * r,
        doubly_robust: lambda w, r, q, expected: expected + w * (r - q),
        lambda one: switch(one, 1.5): lambda w, r, q, expected: expected + (w * (r - q) if w <= 1.5 else 0.0),
        lambda one: shrinkage(one, 3.0): lambda w, r, q, expected: expected + 3 * w / (w * w + 3) * (r - q),
    }
    for estimator, of_round in twins.items():
        np.testing.assert_allclose(estimator(question), slow(question, of_round))


@settings(max_examples=30, deadline=None)
@given(QUESTIONS)
def test_self_normalised_estimates_are_ratios_and_their_spread_is_that_of_the_delta_method(question):
    total = sum(slow(question, lambda w, r, q, expected: w))
    ratio = sum(slow(question, lambda w, r, q, expected: w * r)) / total
    assert snips(question).mean() == pytest.approx(ratio)
    left = sum(slow(question, lambda w, r, q, expected: w * (r - q))) / total
    assert self_normalised_dr(question).mean() == pytest.approx(direct(question).mean() + left)
    gradient = slow(question, lambda w, r, q, expected: (w * (r - ratio) / total) ** 2)
    assert np.sum((snips(question) - ratio) ** 2) / len(question.log) ** 2 == pytest.approx(sum(gradient))


@settings(max_examples=30, deadline=None)
@given(QUESTIONS)
def test_the_policy_of_the_log_earns_the_mean_reward(question):
    log = question.log
    policy = np.full(question.policy.shape, np.nan)
    for row in range(len(log)):
        policy[row] = (1 - log.propensities[row]) / (log.num_actions - 1)
        policy[row, log.actions[row]] = log.propensities[row]
    same = replace(question, policy=policy)
    np.testing.assert_allclose(ips(same), log.rewards)
    np.testing.assert_allclose(snips(same), log.rewards)


@settings(max_examples=30, deadline=None)
@given(QUESTIONS, st.floats(-5, 5))
def test_self_normalised_estimates_move_with_the_rewards(question, shift):
    log = replace(question.log, rewards=question.log.rewards + shift)
    moved = replace(question, log=log)
    np.testing.assert_allclose(snips(moved), snips(question) + shift, atol=1e-9)
    np.testing.assert_allclose(self_normalised_dr(moved), self_normalised_dr(question) + shift, atol=1e-9)
    both = replace(moved, predicted=question.predicted + shift)
    np.testing.assert_allclose(doubly_robust(both), doubly_robust(question) + shift, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(QUESTIONS)
def test_a_perfect_model_leaves_only_the_spread_of_contexts(question):
    """And none, where the policy expects the same of every context."""
    predicted = np.tile([0.1, 0.4, 0.2, 0.3], (len(question.log), 1))
    log = replace(question.log, rewards=predicted[0, question.log.actions])
    perfect = OffPolicyData(log=log, policy=np.tile(question.policy[:1], (len(log), 1)), predicted=predicted)
    value = question.policy[0] @ predicted[0]
    for estimator in (doubly_robust, self_normalised_dr, adaptive_switch, adaptive_shrinkage, slope_shrinkage):
        np.testing.assert_allclose(estimator(perfect), value)


@settings(max_examples=30, deadline=None)
@given(QUESTIONS)
def test_switch_and_shrinkage_go_from_direct_to_doubly_robust(question):
    np.testing.assert_array_equal(switch(question, 0.0), direct(question))
    np.testing.assert_array_equal(switch(question, np.inf), doubly_robust(question))
    np.testing.assert_array_equal(shrinkage(question, 0.0), direct(question))
    np.testing.assert_array_equal(shrinkage(question, np.inf), doubly_robust(question))
    np.testing.assert_allclose(shrinkage(question, 1e-12), direct(question), atol=1e-9)
    np.testing.assert_allclose(shrinkage(question, 1e12), doubly_robust(question), rtol=1e-6)


@given(st.floats(0, 1e3), st.floats(1e-3, 1e6))
def test_a_shrunk_weight_is_bounded(weight, strength):
    kept = float(shrunk(np.array([weight]), strength)[0])
    assert 0 <= kept <= min(weight, np.sqrt(strength) / 2) * (1 + 1e-12)
    assert kept == pytest.approx(strength * weight / (weight**2 + strength))


def tiny_world():
    """Every (chance, question of one round) of 2 contexts, 3 actions and 2 rewards; and the true value."""
    contexts, logger = [0.3, 0.7], np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])
    policy, reward = np.array([[0.7, 0.3, 0.0], [0.05, 0.9, 0.05]]), np.array([[0.1, 0.6, 0.9], [0.5, 0.2, 0.4]])
    wrong = np.array([[0.9, 0.1, 0.3], [0.2, 0.8, 0.7]])
    found = []
    for x, action, r in itertools.product(range(2), range(3), (0, 1)):
        chance = contexts[x] * logger[x, action] * (reward[x, action] if r else 1 - reward[x, action])
        log = bandit_log([action], [r], [logger[x, action]], 3)
        found.append((chance, OffPolicyData(log=log, policy=policy[x : x + 1], predicted=wrong[x : x + 1])))
    return found, float(np.array(contexts) @ (policy * reward).sum(axis=1))


@pytest.mark.parametrize("estimator", [ips, doubly_robust])
def test_on_average_over_all_that_can_happen_the_estimate_is_the_truth(estimator):
    rounds, truth = tiny_world()
    assert sum(chance for chance, _ in rounds) == pytest.approx(1)
    assert sum(chance * estimator(question).item() for chance, question in rounds) == pytest.approx(truth)


def test_a_wrong_model_alone_is_wrong_and_so_is_a_clipped_weight():
    rounds, truth = tiny_world()
    for estimator in (direct, lambda question: switch(question, 2.0), lambda question: shrinkage(question, 2.0)):
        mean = sum(chance * estimator(question).item() for chance, question in rounds)
        assert abs(mean - truth) > 0.01


def error_of(contributions):
    return np.std(contributions, ddof=1) / len(contributions) ** 0.5


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_and_the_strength_have_the_least_bound_of_all(seed):
    question = random_question(seed, rounds=200)
    weights = question.weights
    bounds = {
        one: error_of(switch(question, one)) ** 2 + np.mean([w if w > one else 0.0 for w in weights]) ** 2
        for one in (*GRID, np.inf)
    }
    np.testing.assert_array_equal(adaptive_switch(question), switch(question, min(bounds, key=bounds.__getitem__)))
    full = doubly_robust(question)
    found = {}
    for one in (np.inf, *GRID):
        lost = shrinkage(question, one**2) - full
        found[one] = error_of(full + lost) ** 2 + (abs(lost.mean()) + 2 * error_of(lost)) ** 2
    best = min(found, key=found.__getitem__)
    np.testing.assert_allclose(adaptive_shrinkage(question), shrinkage(question, best**2))


def test_slope_takes_the_last_interval_that_meets_all_before():
    """Means 0, 1, 3 and errors 1, .4, .2: [-2, 2], [.2, 1.8], [2.6, 3.4]: the third meets neither."""
    candidates = [np.array([mean - error, mean + error]) for mean, error in ((0, 1), (1, 0.4), (3, 0.2))]
    assert slope(candidates) is candidates[1]
    assert slope(candidates[:1]) is candidates[0]
    assert slope([candidates[0], candidates[2], candidates[1]]) is candidates[0]


def test_an_estimate_says_how_far_it_can_be_trusted():
    estimate = evaluate(by_hand(), "IPS")
    assert estimate.value == pytest.approx(0.65)
    assert estimate.low < 0.65 < estimate.high
    assert estimate.effective_rounds == pytest.approx(4.8**2 / (1.8**2 + 0.4**2 + 1.8**2 + 0.8**2))
    assert (estimate.mean_weight, estimate.max_weight) == pytest.approx((1.2, 1.8))
    assert estimate.clipped == 0
    far = replace(by_hand(), log=bandit_log([0, 1, 0, 1], [1, 0, 0, 1], [0.05, 0.25, 0.5, 0.5], 2))
    assert evaluate(far).clipped == 0.25
    assert estimate.unseen == 0
    narrow = OffPolicyData(
        log=bandit_log([0, 0], [1, 0], [0.5, 0.5], 3),
        policy=np.array([[0.5, 0.5, 0.0], [0.8, 0.1, 0.1]]),
        predicted=np.zeros((2, 3)),
    )
    assert evaluate(narrow).unseen == pytest.approx(0.35)


def test_every_estimator_answers_and_the_default_is_one_of_them():
    question = random_question(1)
    assert DEFAULT in ESTIMATORS
    assert {evaluate(question, name).value for name in ESTIMATORS} == {
        float(estimator(question).mean()) for estimator in ESTIMATORS.values()
    }
    with pytest.raises(DataError, match="there is no estimator 'dr'; choose one of DM, IPS"):
        evaluate(question, "dr")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"policy": np.full((4, 3), 1 / 3)}, r"policy has the shape \(4, 3\); wanted \(4, 2\)"),
        ({"predicted": np.zeros(4)}, r"predicted has the shape \(4,\)"),
        ({"predicted": np.array([[0, 0], [0, np.nan], [0, 0], [0, 0]])}, "predicted is nan in round 1; wanted finite"),
        ({"policy": np.tile([0.5, 0.6], (4, 1))}, r"policy adds up to 1.1 in round 0; divide each round by its sum"),
        ({"policy": np.tile([1.5, -0.5], (4, 1))}, r"policy is -0.5 for action 1 in round 0; wanted 0 to 1"),
    ],
)
def test_what_does_not_fit_the_log_is_refused(change, sentence):
    with pytest.raises(DataError, match=sentence):
        replace(by_hand(), **change)


def test_a_policy_outside_the_support_of_the_log_is_refused():
    possible = np.array([[True, True, False]])
    log = bandit_log([0, 1], [1, 0], [0.5, 0.5], 3, possible=possible)
    policy = np.array([[0.5, 0.5, 0.0], [0.4, 0.4, 0.2]])
    with pytest.raises(
        DataError, match=r"policy wants action 2 in round 1 \(probability 0.2\), which the log could not"
    ):
        OffPolicyData(log=log, policy=policy, predicted=np.zeros((2, 3)))
    OffPolicyData(log=log, policy=policy[[0, 0]], predicted=np.zeros((2, 3)))


def test_a_policy_that_shares_no_action_with_the_log_has_the_estimate_of_a_model_alone():
    log = bandit_log([0, 0], [1, 0], [0.5, 0.5], 2)
    question = OffPolicyData(log=log, policy=np.tile([0.0, 1.0], (2, 1)), predicted=np.zeros((2, 2)))
    for name in ESTIMATORS.keys() - {"DM"}:
        with pytest.raises(DataError, match="probability 0 for every action of the log"):
            evaluate(question, name)
    assert evaluate(question, "DM").effective_rounds == 0
