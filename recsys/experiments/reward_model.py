"""Reward model: cross-fitted predictions of the reward of a round.

Shapes: R rounds, F numbers of a context, P positions, A actions, D = 1 + F + P - 1 columns that are no action.
"""

from dataclasses import dataclass

import numpy as np

from recsys.data.bandit import BanditLog
from recsys.errors import DataError

STEPS = 25
TOLERANCE = 1e-4
"""size of the last Newton step; convergence is quadratic, so the next would be its square"""


@dataclass(frozen=True, kw_only=True)
class LogisticReward:
    """P(reward = 1) = sigmoid(columns of context and position + one number an action), rewards in [0, 1]."""

    shared: np.ndarray
    """[D] weights of the columns"""
    own: np.ndarray
    """[A] intercepts of the actions; 0 for an action without rounds"""

    def predict(self, log: BanditLog) -> np.ndarray:
        """Predict the reward of every action in every round, [R, A]."""
        return _sigmoid((_columns(log, len(self.shared)) @ self.shared)[:, None] + self.own)


def fit_logistic(log: BanditLog, num_positions: int, ridge: float = 1.0) -> LogisticReward:
    """Fit by Newton steps: maximum likelihood less ridge / 2 times the squares of all weights but the first.

    A round has one action, so their block of the Hessian is diagonal and is eliminated first (Schur complement): a
    step costs R D^2 + A D^2, not R A^2. McCullagh and Nelder, Generalized Linear Models, 1989. DataError for rewards
    outside [0, 1].
    """
    odd = np.flatnonzero((log.rewards < 0) | (log.rewards > 1))
    if len(odd):
        raise DataError(
            f"rewards is {log.rewards[odd[0]]:g} in round {odd[0]}; the logistic model wants 0 to 1: scale rewards, or "
            "give predictions of a model of your own"
        )
    columns = _columns(log, log.contexts.shape[1] + num_positions)
    penalty = np.full(columns.shape[1], ridge)
    penalty[0] = 1e-9
    mean = np.clip(log.rewards.mean(), 1e-6, 1 - 1e-6)
    shared, own = np.zeros(columns.shape[1]), np.zeros(log.num_actions)
    shared[0] = np.log(mean / (1 - mean))
    for _ in range(STEPS):
        step = _newton(log, columns, shared, own, penalty, ridge)
        shared, own = shared + step[0], own + step[1]
        if max(np.abs(step[0]).max(), np.abs(step[1]).max()) < TOLERANCE:
            break
    return LogisticReward(shared=shared, own=own)


def _newton(
    log: BanditLog, columns: np.ndarray, shared: np.ndarray, own: np.ndarray, penalty: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the Newton step of shared and action weights."""
    chance = _sigmoid(columns @ shared + own[log.actions])
    curve, error = chance * (1 - chance), log.rewards - chance
    ours = columns.T @ error - penalty * shared
    theirs = _by_action(log, error) - ridge * own
    alone = _by_action(log, curve) + ridge
    between = np.stack([_by_action(log, curve * column) for column in columns.T])
    inner = (columns.T * curve) @ columns + np.diag(penalty) - (between / alone) @ between.T
    step = np.linalg.solve(inner, ours - between @ (theirs / alone))
    return step, (theirs - between.T @ step) / alone


def _by_action(log: BanditLog, values: np.ndarray) -> np.ndarray:
    return np.bincount(log.actions, values, log.num_actions)


def _columns(log: BanditLog, width: int) -> np.ndarray:
    """Return [R, D]: 1, the context, one column per position but the first."""
    num_positions = width - log.contexts.shape[1]
    positions = log.positions[:, None] == np.arange(1, num_positions)
    return np.concatenate([np.ones((len(log), 1)), log.contexts, positions], axis=1)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def cross_fitted(
    log: BanditLog, seed: int, folds: int = 3, ridge: float = 1.0, groups: np.ndarray | None = None
) -> np.ndarray:
    """Predict [R, A] cross-fitted, each round by a model of the other folds; equal groups [R] share a fold.

    Copies of one round (a bootstrap) must be one group, else the model was fitted on the round that it predicts.
    Chernozhukov et al., Double/debiased machine learning, Econometrics Journal 2018.
    """
    groups = np.arange(len(log)) if groups is None else groups
    names, group_of = np.unique(groups, return_inverse=True)
    fold_of = np.random.default_rng(seed).permutation(len(names))[group_of] % folds
    predicted = np.empty((len(log), log.num_actions))
    for fold in range(folds):
        held = np.flatnonzero(fold_of == fold)
        if len(held):
            model = fit_logistic(log.rows(np.flatnonzero(fold_of != fold)), log.num_positions, ridge)
            predicted[held] = model.predict(log.rows(held))
    return predicted
