"""Two-tower source: inner products of user and item vectors, searched in the index.

A user may have several vectors, one for each interest: each is searched, and an item's score is the largest.

Shapes: B queries, D dim, I interests, K candidates, P pairs of a query and an item, E = RECENT_EVENTS.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from recsys.candidates.candidate_source import (
    CandidateSource,
    Document,
    SourceQuery,
    TrainingInteractions,
    check_source,
)
from recsys.candidates.topk import top_k
from recsys.index import Index
from recsys.jit import compiled
from recsys.tensors import Arrays

PAIR_BATCH = 2**14
"""pairs scored at once"""


@dataclass(frozen=True, kw_only=True)
class TwoTowerScores:
    """Largest inner products, not rescaled: of unit vectors the cosine."""

    index: Index
    vectors: np.ndarray
    """[B, I, D]"""
    newest: np.ndarray
    """[B, E] as SourceQuery.newest_events"""

    def top_k(self, k: int) -> np.ndarray:
        num_queries, num_interests, dim = self.vectors.shape
        scores, rows = self.index.search(self.vectors.reshape(-1, dim), k)
        if num_interests == 1:
            return rows
        return best_distinct(scores.reshape(num_queries, -1), rows.reshape(num_queries, -1), k)

    def select(self, queries: np.ndarray) -> "TwoTowerScores":
        return replace(self, vectors=self.vectors[queries], newest=self.newest[queries])

    def score(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Inner products, each pair summed by itself, so that the bits of a score do not depend on the batch."""
        return self._products(self.vectors, query, row).max(axis=1)

    def event_scores(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Inner products of item and item."""
        return self._products(self.index.vectors(self.newest), query, row)

    def _products(self, query_vectors: np.ndarray, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """[B, E, D] -> [P, E]"""
        starts = range(0, len(query), PAIR_BATCH)
        parts = (slice(start, start + PAIR_BATCH) for start in starts)
        found = [pair_products(query_vectors, query[part], self.index.vectors(row[part])) for part in parts]
        return np.concatenate(found) if found else np.empty((0, query_vectors.shape[1]), dtype=np.float32)


def best_distinct(scores: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """Results [B, W], in which a row may repeat, -> the k best rows [B, K], each once, PAD at the end."""
    order = np.lexsort((-scores, rows), axis=-1)
    scores, rows = (np.take_along_axis(one, order, axis=1) for one in (scores, rows))
    scores[:, 1:][rows[:, 1:] == rows[:, :-1]] = -np.inf
    return top_k(scores, np.maximum(rows, 0), k)


def pair_products(query_vectors: np.ndarray, query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Inner products [P, E] float32 of query_vectors [B, E, D] of the queries [P] with vectors [P, D]."""
    products = np.empty((len(query), query_vectors.shape[1]), dtype=np.float32)
    _inner_products(query_vectors, query, vectors, products)
    return products


@compiled(fastmath=True)
def _inner_products(query_vectors, query, offered, products):
    """Write query_vectors[query] . offered into products [P, E], from query_vectors [B, E, D], query [P], offered [P, D]."""
    for p in range(len(query)):
        for e in range(query_vectors.shape[1]):
            own, total = query_vectors[query[p], e], np.float32(0)
            for d in range(offered.shape[1]):
                total += own[d] * offered[p, d]
            products[p, e] = total


@dataclass(frozen=True, kw_only=True)
class TwoTowerSource(CandidateSource):
    """The index of the item tower as a source."""

    index: Index
    kind: ClassVar[str] = "towers"

    def scores_for(self, queries: SourceQuery) -> TwoTowerScores:
        vectors = np.ascontiguousarray(queries.vectors, dtype=np.float32)
        interests = vectors.reshape(len(vectors), -1, self.index.dim)
        return TwoTowerScores(index=self.index, vectors=interests, newest=queries.newest_events)

    def with_new_items(self, index: Index, newest: np.ndarray) -> "TwoTowerSource":
        return TwoTowerSource(index=index)

    def to_documents(self) -> tuple[Document, Arrays]:
        return {}, {}

    @classmethod
    def from_documents(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> Self:
        return cls(index=index)


class TwoTowerSourceConfig:
    """Configuration of the two-tower source; other weights are relative to its own."""

    def __init__(self, *, num: int, weight: float) -> None:
        """
        num: candidates of a query
        weight: of its scores in the merge, until validation chose another one
        """
        self.num, self.weight = num, weight
        self.decays: tuple[float, ...] = ()
        check_source("towers", num, self.weight)

    def fit(self, interactions: TrainingInteractions) -> TwoTowerSource:
        return TwoTowerSource(index=interactions.index)
