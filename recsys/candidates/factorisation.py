"""Factorisation source: item factors of implicit ALS, and for each history the user factors that solve for it.

Shapes: B queries, H history, U users, N items, F factors, K candidates, P pairs of a query and an item, E newest events.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from scipy import sparse

from recsys.candidates.candidate_source import (
    CandidateSource,
    Document,
    SourceQuery,
    TrainingInteractions,
    check_source,
)
from recsys.candidates.topk import top_k
from recsys.candidates.two_tower_source import pair_products
from recsys.contracts import PAD
from recsys.errors import check_ranges
from recsys.index import Index
from recsys.tensors import Arrays


@dataclass(frozen=True, kw_only=True)
class FactorScores:
    """Predicted preferences of B histories, relative to the largest of the query."""

    users: np.ndarray
    """[B, F] float32"""
    source: "ItemFactors"
    newest: np.ndarray
    """[B, E] as SourceQuery.newest_events"""
    hidden: np.ndarray | None

    @cached_property
    def preferences(self) -> np.ndarray:
        """[B, N] float32, each row a product of its own, so that its bits do not depend on the batch."""
        found = np.stack([self.source.factors[:-1] @ user for user in self.users])
        return found / np.maximum(found.max(axis=1, keepdims=True), 1e-12)

    def top_k(self, k: int) -> np.ndarray:
        """Rows with a preference above 0 that are not hidden."""
        allowed = self.preferences > 0
        if self.hidden is not None:
            allowed &= ~self.hidden[: allowed.shape[1]]
        scores = np.where(allowed, self.preferences, np.float32(-np.inf))
        return top_k(scores, np.arange(scores.shape[1]), k)

    def select(self, queries: np.ndarray) -> "FactorScores":
        return replace(self, users=self.users[queries], newest=self.newest[queries])

    def score(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        scores, known = np.zeros(len(row), dtype=np.float32), row < len(self.source)
        scores[known] = self.preferences[query[known], row[known]]
        return scores

    def event_scores(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Inner products of the factors of item and item."""
        return pair_products(self.source.vectors(self.newest), query, self.source.vectors(row))


@dataclass(frozen=True, kw_only=True)
class ItemFactors(CandidateSource):
    """Item factors Y, and how a history is weighed in the user factors."""

    factors: np.ndarray
    """[N + 1, F] float32, zeros for items without interactions and in the last row"""
    regularisation: float
    confidence: float
    decay: float

    def with_decay(self, decay: float) -> "ItemFactors":
        return replace(self, decay=decay)

    def __len__(self) -> int:
        """Items of the fit; items that came to the catalogue later have no factors."""
        return len(self.factors) - 1

    @cached_property
    def unobserved(self) -> np.ndarray:
        """[F, F] Y'Y + regularisation I: the part of the normal equations that all users share."""
        products = self.factors.T.astype(np.float64) @ self.factors
        return products + self.regularisation * np.eye(len(products))

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """[..., F], zeros for PAD and for items that came later."""
        return self.factors[np.where((rows == PAD) | (rows >= len(self)), len(self), rows)]

    def scores_for(self, queries: SourceQuery) -> FactorScores:
        users = np.stack([self._user(history) for history in queries.history])
        return FactorScores(users=users, source=self, newest=queries.newest_events, hidden=queries.hidden)

    def _user(self, history: np.ndarray) -> np.ndarray:
        """[F] of a history [H]: (Y'Y + Y'(C - 1)Y + regularisation I)^-1 Y'C 1, where an event of age a has
        C - 1 = (confidence - 1) decay^a (Hu et al. 2008, eq. 4).
        """
        present = np.flatnonzero((history != PAD) & (history < len(self)))
        if not len(present):
            return np.zeros(self.factors.shape[1], dtype=np.float32)
        extra = (self.confidence - 1) * self.decay ** (len(history) - 1 - present)
        own = self.factors[history[present]].astype(np.float64)
        return np.linalg.solve(self.unobserved + (own.T * extra) @ own, own.T @ (1 + extra)).astype(np.float32)

    def to_documents(self) -> tuple[Document, Arrays]:
        document = {"regularisation": self.regularisation, "confidence": self.confidence, "decay": self.decay}
        return document, {"factors": self.factors}

    @classmethod
    def from_documents(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> Self:
        settings = {name: document[name] for name in ("regularisation", "confidence", "decay")}
        return cls(factors=arrays["factors"], **settings)


class Factorisation:
    """Configuration of the factorisation source."""

    def __init__(
        self,
        *,
        num: int,
        weight: float,
        decays: Sequence[float],
        factors: int,
        iterations: int,
        regularisation: float,
        confidence: float,
        most_items: int,
        seed: int,
    ) -> None:
        """
        num: candidates of a query
        weight: of its scores in the merge, until validation chose another one
        decays: grid of the weight of an event relative to the next newer one, above 0 to 1
        factors, iterations, regularisation, confidence, seed: of `alternating_least_squares`
        most_items: of a larger catalogue nothing is fitted: a query reads the factors of all items
        """
        self.num, self.weight, self.decays = num, weight, tuple(decays)
        self.factors, self.iterations, self.regularisation = factors, iterations, regularisation
        self.confidence, self.most_items, self.seed = confidence, most_items, seed
        check_source("factors", num, self.weight, self.decays)
        check_ranges(
            "candidates.factors",
            factors=(factors, 1, 4_096),
            iterations=(iterations, 1, 100_000),
            regularisation=(regularisation, 1e-6, 1e9),
            confidence=(confidence, 1.0, 1e9),
            most_items=(most_items, 1, 10**9),
            seed=(seed, 0, 2**63 - 1),
        )

    def fit(self, interactions: TrainingInteractions) -> ItemFactors | None:
        """Fit the item factors; None for a catalogue of more than `most_items`."""
        if interactions.num_items > self.most_items:
            return None
        known = interactions.capped
        ones = np.ones(len(known.users), dtype=np.float32)
        matrix = sparse.csr_matrix(
            (ones, (known.users, known.items)), shape=(known.users.max() + 1, known.num_items), dtype=np.float32
        )
        matrix.data[:] = 1.0
        model = alternating_least_squares(
            matrix,
            factors=self.factors,
            iterations=self.iterations,
            regularisation=self.regularisation,
            confidence=self.confidence,
            threads=1,
            seed=self.seed,
        )
        factors = np.zeros((known.num_items + 1, self.factors), dtype=np.float32)
        seen = np.bincount(known.items, minlength=known.num_items) > 0
        factors[:-1][seen] = model.item_factors[seen]
        return ItemFactors(
            factors=factors, regularisation=self.regularisation, confidence=self.confidence, decay=self.decays[0]
        )


def alternating_least_squares(
    matrix: sparse.csr_matrix,
    *,
    factors: int,
    iterations: int,
    regularisation: float,
    confidence: float,
    threads: int,
    seed: int,
) -> Any:
    """Factorise interactions [U, N] (1) against all other pairs (0), by the package `implicit`; return its fitted model.

    Hu, Koren and Volinsky, Collaborative filtering for implicit feedback datasets, ICDM 2008; solved as in Takács,
    Pilászy and Tikk, Applications of the conjugate gradient method for implicit feedback, RecSys 2011.

    confidence: weight of an interaction; all other pairs have weight 1. threads: 0 for all cores.
    """
    from implicit.cpu.als import AlternatingLeastSquares  # not at the top: a served source does without the package
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"):  # the package has threads of its own, and warns of others
        model = AlternatingLeastSquares(
            factors=factors,
            regularization=regularisation,
            alpha=confidence,
            iterations=iterations,
            num_threads=threads,
            random_state=seed,
        )
        model.fit(matrix, show_progress=False)
    return model
