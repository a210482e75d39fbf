"""Diversity of a slate: similarity of its items traded against relevance at the first positions, one file a kind."""

from recsys.policy.diversity.determinantal import Determinantal
from recsys.policy.diversity.diversity import Diversity
from recsys.policy.diversity.max_sum import MaxSum
from recsys.policy.diversity.mmr import MaximalMarginalRelevance
from recsys.policy.diversity.proportions import Proportions

DIVERSITIES: dict[str, type[Diversity]] = {
    "mmr": MaximalMarginalRelevance,
    "maxsum": MaxSum,
    "dpp": Determinantal,
    "proportions": Proportions,
}
"""name of a kind in a bundle; any other kind is named by its import path, module:Class"""

__all__ = ["DIVERSITIES", "Determinantal", "Diversity", "MaxSum", "MaximalMarginalRelevance", "Proportions"]
