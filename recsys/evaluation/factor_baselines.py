"""Matrix factorisation as a baseline: the reference implementation of implicit ALS, fitted users folded in anew.

Shapes: N items of the catalogue, B queried users, F factors.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy import sparse

from recsys.candidates.factorisation import alternating_least_squares
from recsys.errors import check_ranges
from recsys.replay.interactions import Histories, Interactions


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorScorer:
    """Item factors times the factors that solve for a history; zeros for a user without one."""

    model: Any
    """a fitted model of `implicit`"""

    def scores(self, histories: Histories) -> np.ndarray:
        items = self.model.item_factors
        history = sparse.csr_matrix(histories.matrix(len(items)))
        return self.model.recalculate_user(np.arange(len(histories)), history) @ items.T


@dataclass(frozen=True, slots=True, kw_only=True)
class ALS:
    """Weighted factorisation of interactions, see `alternating_least_squares`."""

    factors: int
    iterations: int
    regularisation: float
    confidence: float
    """weight of an interaction; all other pairs have weight 1"""
    threads: int
    """0: all cores"""
    seed: int

    def __post_init__(self) -> None:
        check_ranges(
            "ALS",
            factors=(self.factors, 1, 100_000),
            iterations=(self.iterations, 1, 100_000),
            regularisation=(self.regularisation, 0.0, 1e9),
            confidence=(self.confidence, 1.0, 1e9),
            threads=(self.threads, 0, 10_000),
            seed=(self.seed, 0, 2**63 - 1),
        )

    def fit(self, interactions: Interactions) -> FactorScorer:
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        model = alternating_least_squares(sparse.csr_matrix(interactions.matrix), **settings)
        return FactorScorer(model=model)
