"""Worlds of slates whose truth is known: a soft policy that logs, one that is evaluated, and clicks by either assumption.

Shapes: R requests, K positions.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recsys.experiments.slate_off_policy import SlateLog

ITEMS, K = 8, 3
SEEN = np.array([1.0, 0.6, 0.4])
"""probability that a position is examined"""


@dataclass(frozen=True, kw_only=True)
class SlateWorld:
    """Items, their appeal, and two policies."""

    seed: int
    cascade: bool
    """the first click ends a visit; else each position has its own chance to be examined"""

    @cached_property
    def appeal(self) -> np.ndarray:
        """Return the logit of a click on each item, [ITEMS]."""
        return np.random.default_rng((self.seed, 0)).normal(0, 1, ITEMS) - 2

    def log(self, number: int, requests: int) -> tuple[SlateLog, float]:
        """Return the log of some users, and what the evaluated policy earns from them a request in truth."""
        own, rng = np.random.default_rng((self.seed, 1)), np.random.default_rng((self.seed, 2, number))
        offsets = own.normal(0, 0.5, ITEMS), own.normal(0, 0.15 if self.cascade else 0.5, ITEMS)
        users = rng.integers(0, requests // 4, requests)
        liking = rng.normal(0, 0.7, (requests // 4, 1))[users]
        chance = 1 / (1 + np.exp(-self.appeal - liking))
        scores = offsets[0] + rng.normal(0, 0.3, (requests, ITEMS))
        shown, chances = soft_slates(rng, scores, 0.4 if self.cascade else 1.0)
        evaluated = np.argsort(-(scores + offsets[1]), axis=1)[:, :K]
        rows = np.arange(requests)[:, None]
        clicks = rng.random((requests, K)) < chance[rows, shown] * (1.0 if self.cascade else SEEN)
        if self.cascade:
            rewards = clicks & (clicks.cumsum(axis=1) == 1)
            truth = 1 - (1 - chance[rows, evaluated]).prod(axis=1)
        else:
            rewards, truth = clicks, (chance[rows, evaluated] * SEEN).sum(axis=1)
        values = rewards.astype(float)
        log = SlateLog(shown=shown, propensities=chances, rewards=values, evaluated=evaluated, users=users)
        return log, float(truth.mean())


def soft_slates(rng: np.random.Generator, scores: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Return Plackett-Luce slates [R, K] with the probability of each item given those above."""
    left = np.exp(scores / temperature)
    shown, chances = np.empty((len(scores), K), int), np.empty((len(scores), K))
    for position in range(K):
        shares = left / left.sum(axis=1, keepdims=True)
        column = (shares.cumsum(axis=1) > rng.random((len(scores), 1))).argmax(axis=1)
        shown[:, position], chances[:, position] = column, shares[np.arange(len(scores)), column]
        left[np.arange(len(scores)), column] = 0
    return shown, chances
