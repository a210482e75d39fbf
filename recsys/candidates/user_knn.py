"""User neighbours: items of the users whose events are most similar to the history (Jannach & Ludewig 2017, session k-NN).

Shapes: B queries, H history, U users, N items, M events, K candidates, P pairs of a query and an item, Z scores above 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from scipy import sparse

from recsys.candidates.candidate_source import (
    RECENT_EVENTS,
    CandidateSource,
    Document,
    SourceQuery,
    TrainingInteractions,
    check_source,
)
from recsys.candidates.topk import sparse_top_k
from recsys.contracts import PAD
from recsys.errors import check_ranges
from recsys.index import Index
from recsys.tensors import Arrays


@dataclass(frozen=True, kw_only=True)
class UserKNNScores:
    """Summed similarities of the neighbours that have an item, relative to the largest of the query."""

    sums: sparse.csr_array
    """[B, N] float32"""
    hidden: np.ndarray | None

    def top_k(self, k: int) -> np.ndarray:
        return sparse_top_k(self.sums.indptr, self.sums.indices, self.sums.data, self.hidden, k)

    def select(self, queries: np.ndarray) -> "UserKNNScores":
        return replace(self, sums=self.sums[queries])

    def score(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        known = (row >= 0) & (row < self.sums.shape[1])
        scores = np.zeros(len(row), dtype=np.float32)
        if known.any():  # the index arrays of a sparse matrix may not be empty
            scores[known] = self.sums[query[known], row[known]]
        return scores

    def event_scores(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Zeros: neighbours are found by the whole history."""
        return np.zeros((len(row), RECENT_EVENTS), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class FittedUserKNN(CandidateSource):
    """Histories of training users, with rows of length 1."""

    indptr: np.ndarray
    """[U + 1] int64"""
    indices: np.ndarray
    """int32 catalogue rows"""
    weights: np.ndarray
    """float32"""
    num_items: int
    neighbours: int
    decay: float

    def with_decay(self, decay: float) -> "FittedUserKNN":
        return replace(self, decay=decay)

    @cached_property
    def users(self) -> sparse.csr_array:
        """[U, N]"""
        shape = (len(self.indptr) - 1, self.num_items)
        return sparse.csr_array((self.weights, self.indices, self.indptr), shape=shape)

    @cached_property
    def items(self) -> sparse.csr_array:
        """[N, U]"""
        return sparse.csr_array(self.users.T)

    def scores_for(self, queries: SourceQuery) -> UserKNNScores:
        similarity = sparse.csr_array(self._histories(queries.history) @ self.items)
        sums = sparse.csr_array(_strongest(similarity, self.neighbours) @ self.users)
        sums.sort_indices()
        largest = np.maximum(sums.max(axis=1).toarray().ravel(), 1e-12) if sums.nnz else np.ones(len(queries))
        sums.data = (sums.data / np.repeat(largest, np.diff(sums.indptr))).astype(np.float32)
        return UserKNNScores(sums=sums, hidden=queries.hidden)

    def _histories(self, history: np.ndarray) -> sparse.csr_array:
        """[B, N], an event weighs decay^age; items that came after the training are left out."""
        query, position = np.nonzero((history != PAD) & (history < self.num_items))
        weights = self.decay ** (history.shape[1] - 1 - position).astype(np.float32)
        shape = (len(history), self.num_items)
        return sparse.csr_array((weights, (query, history[query, position])), shape=shape)

    def to_documents(self) -> tuple[Document, Arrays]:
        document = {"num_items": self.num_items, "neighbours": self.neighbours, "decay": self.decay}
        return document, {"indptr": self.indptr, "indices": self.indices, "weights": self.weights}

    @classmethod
    def from_documents(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> Self:
        return cls(
            indptr=arrays["indptr"],
            indices=arrays["indices"],
            weights=arrays["weights"],
            num_items=document["num_items"],
            neighbours=document["neighbours"],
            decay=document["decay"],
        )


class UserKNN:
    """Configuration of the user neighbours; the newest training users are kept, because tastes age."""

    def __init__(self, *, num: int, weight: float, decays: Sequence[float], neighbours: int, users: int) -> None:
        """
        num: candidates of a query
        weight: of its scores in the merge, until validation chose another one
        decays: grid of the weight of an event relative to the next newer one, above 0 to 1
        neighbours: users whose items are summed
        users: training users that are kept, those with the newest events
        """
        self.num, self.weight, self.decays = num, weight, tuple(decays)
        self.neighbours, self.users = neighbours, users
        check_source("user_knn", num, self.weight, self.decays)
        check_ranges("candidates.user_knn", neighbours=(neighbours, 1, 100_000), users=(users, 1, 10_000_000))

    def fit(self, interactions: TrainingInteractions) -> FittedUserKNN | None:
        """Keep the newest users of two items and more; None where there is none."""
        known = interactions.capped
        shape = (int(known.users.max()) + 1, known.num_items)
        matrix = sparse.csr_array(
            (np.ones(len(known.users), dtype=np.float32), (known.users, known.items)), shape=shape
        )
        matrix.data[:] = 1.0
        newest = np.full(shape[0], -np.inf)
        np.maximum.at(newest, known.users, np.nan_to_num(known.timestamps))
        several = np.flatnonzero(np.diff(matrix.indptr) > 1)
        if not len(several):
            return None
        matrix = matrix[several[np.argsort(-newest[several], kind="stable")[: self.users]]]
        lengths = np.sqrt(np.diff(matrix.indptr)).astype(np.float32)
        return FittedUserKNN(
            indptr=matrix.indptr.astype(np.int64),
            indices=matrix.indices.astype(np.int32),
            weights=(matrix.data / np.repeat(lengths, np.diff(matrix.indptr))).astype(np.float32),
            num_items=known.num_items,
            neighbours=self.neighbours,
            decay=self.decays[0],
        )


def _strongest(matrix: sparse.csr_array, num: int) -> sparse.csr_array:
    """Return the `num` largest values of each row, of equal ones those of the first columns."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, row))
    rank = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], np.diff(matrix.indptr))
    kept = order[rank < num]
    return sparse.csr_array((matrix.data[kept], (row[kept], matrix.indices[kept])), shape=matrix.shape)
