"""Worlds whose truth is known: contexts, a logging policy, another policy, rewards, and the exact value of both.

Shapes: P people, F numbers of a context, A actions, R rounds.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recsys.data.bandit import BanditLog

CONTEXT = 5


@dataclass(frozen=True, kw_only=True)
class World:
    """People are drawn with replacement, so values over all people are exact."""

    name: str
    rounds: int
    actions: int
    rate: float
    """rough mean reward"""
    interaction: float
    """spread of what only person and action together explain: the additive reward model cannot learn it"""
    logging: float
    """inverse temperature of the logging policy, 0 is uniform"""
    wanted: float
    """that of the policy asked about"""
    explored: float = 0.1
    """share of the logging policy that is uniform"""
    seed: int = 0
    people: int = 1000

    @cached_property
    def contexts(self) -> np.ndarray:
        """[P, F]"""
        return self._rng(1).normal(size=(self.people, CONTEXT))

    @cached_property
    def logits(self) -> np.ndarray:
        """[P, A] of the chance of a reward"""
        rng = self._rng(2)
        own = 0.5 * rng.normal(size=self.actions)
        shared = 0.3 * self.contexts @ rng.normal(size=CONTEXT) / np.sqrt(CONTEXT)
        both = self.contexts @ rng.normal(size=(CONTEXT, self.actions)) / np.sqrt(CONTEXT)
        return np.log(self.rate / (1 - self.rate)) + shared[:, None] + own + self.interaction * both

    @cached_property
    def chances(self) -> np.ndarray:
        """[P, A]"""
        return 1 / (1 + np.exp(-self.logits))

    @cached_property
    def logger(self) -> np.ndarray:
        """[P, A]: prefers what a noisy view of the logits likes."""
        noise = self._rng(3).normal(size=self.logits.shape[1]) * 0.5
        drawn = _softmax(self.logging * (self.logits + noise))
        return (1 - self.explored) * drawn + self.explored / self.actions

    @cached_property
    def policy(self) -> np.ndarray:
        """[P, A]: of the policy asked about."""
        return _softmax(self.wanted * self.logits)

    @property
    def truth(self) -> float:
        return float(np.mean((self.policy * self.chances).sum(axis=1)))

    @property
    def logged_truth(self) -> float:
        return float(np.mean((self.logger * self.chances).sum(axis=1)))

    @cached_property
    def _stairs(self) -> np.ndarray:
        """[P * A]: cumulative probabilities of the logger, 1 higher for each person, so that one search draws all."""
        heights = np.cumsum(self.logger, axis=1)
        heights[:, -1] = 1.0
        return (heights + np.arange(self.people)[:, None]).ravel()

    def draw(self, seed: int) -> tuple[BanditLog, np.ndarray]:
        """A log and whose rounds they are, [R]."""
        rng = np.random.default_rng((self.seed, 4, seed))
        who = rng.integers(self.people, size=self.rounds)
        actions = np.searchsorted(self._stairs, who + rng.random(self.rounds), side="right") - who * self.actions
        log = BanditLog(
            contexts=self.contexts[who],
            actions=actions,
            rewards=(rng.random(self.rounds) < self.chances[who, actions]).astype(float),
            propensities=self.logger[who, actions],
            positions=np.zeros(self.rounds, int),
            num_actions=self.actions,
        )
        return log, who

    def _rng(self, part: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, part))


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


SIZES = {
    "few actions": {"actions": 10, "rounds": 2_000, "rate": 0.2},
    "many actions": {"actions": 80, "rounds": 4_000, "rate": 0.2},
    "clicks": {"actions": 40, "rounds": 10_000, "rate": 0.0035},
}
SHIFTS = {
    "mild": {"logging": 0.5, "wanted": 1.5, "explored": 0.1},
    "strong": {"logging": -0.5, "wanted": 2.0, "explored": 0.3},
    "to uniform": {"logging": 1.0, "wanted": 0.0, "explored": 0.2},
}
MODELS = {"model right": 0.0, "model wrong": 0.7}
WORLDS = tuple(
    World(name=f"{size}, {shift}, {model}", interaction=MODELS[model], **SIZES[size], **SHIFTS[shift])  # type: ignore[arg-type]
    for size in SIZES
    for shift in SHIFTS
    for model in MODELS
)
