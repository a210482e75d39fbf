"""Exploration: the choice of an item at a position by chance, with its exact probability, one file a kind."""

from recsys.policy.exploration.epsilon import EpsilonGreedy
from recsys.policy.exploration.exploration import Exploration, NoExploration
from recsys.policy.exploration.softmax import Softmax
from recsys.policy.exploration.thompson import Thompson

EXPLORATIONS: dict[str, type[Exploration]] = {
    "none": NoExploration,
    "epsilon": EpsilonGreedy,
    "softmax": Softmax,
    "thompson": Thompson,
}
"""name of a kind in a bundle; any other kind is named by its import path, module:Class"""

__all__ = ["EXPLORATIONS", "EpsilonGreedy", "Exploration", "NoExploration", "Softmax", "Thompson"]
