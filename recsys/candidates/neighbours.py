"""Item-to-item source: the sum of the stored neighbours of a history's items.

Shapes: B queries, H history, N items with stored neighbours, K candidates, P pairs of a query and an item, Z sums that are
not zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from scipy import sparse

from recsys.candidates.candidate_source import CandidateSource, Document, SourceQuery
from recsys.candidates.neighbour_kernels import event_scores, pair_scores, sum_neighbours
from recsys.candidates.topk import sparse_top_k
from recsys.index import Index
from recsys.tensors import Arrays


@dataclass(frozen=True, kw_only=True)
class NeighbourScores:
    """Sums of the neighbours of B histories, sparse."""

    starts: np.ndarray
    """[B + 1]: query b has the rows rows[starts[b]:starts[b + 1]]"""
    rows: np.ndarray
    """[Z] int64"""
    sums: np.ndarray
    """[Z] float32; the largest of a query is 1, unless none is above 0"""
    neighbours: "ItemNeighbours"
    newest: np.ndarray
    """[B, E] as SourceQuery.newest_events"""
    hidden: np.ndarray | None
    """as in SourceQuery"""

    def top_k(self, k: int) -> np.ndarray:
        """Rows with a positive sum that are not hidden."""
        return sparse_top_k(self.starts, self.rows, self.sums, self.hidden, k)

    def select(self, queries: np.ndarray) -> "NeighbourScores":
        counts = np.diff(self.starts)[queries]
        starts = np.concatenate([[0], np.cumsum(counts)])
        at = np.arange(starts[-1]) + np.repeat(self.starts[queries] - starts[:-1], counts)
        return replace(self, starts=starts, rows=self.rows[at], sums=self.sums[at], newest=self.newest[queries])

    def score(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Scores of pairs sorted by query."""
        return pair_scores(self.starts, self.rows, self.sums, len(self.neighbours), query, row)

    def event_scores(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Scores of pairs sorted by query."""
        stored = self.neighbours
        return event_scores(self.newest, stored.indptr, stored.indices, stored.weights, query, row)


@dataclass(frozen=True, kw_only=True)
class ItemNeighbours(CandidateSource):
    """The strongest neighbours of each item, and the decay of a history."""

    indptr: np.ndarray
    """[N + 1] int64: the neighbours of item i are indices[indptr[i]:indptr[i + 1]]"""
    indices: np.ndarray
    """int32 catalogue rows"""
    weights: np.ndarray
    """float32"""
    decay: float
    """weight of an event relative to the next newer one"""
    kind: ClassVar[str] = "neighbours"

    def with_decay(self, decay: float) -> "ItemNeighbours":
        return replace(self, decay=decay)

    @staticmethod
    def of(matrix: sparse.csr_array, decay: float) -> "ItemNeighbours":
        """Build from a matrix [N, N], row: item of the history, column: its neighbour."""
        return ItemNeighbours(
            indptr=matrix.indptr.astype(np.int64),
            indices=matrix.indices.astype(np.int32),
            weights=matrix.data.astype(np.float32),
            decay=decay,
        )

    @cached_property
    def matrix(self) -> sparse.csr_array:
        """[N, N]"""
        return sparse.csr_array((self.weights, self.indices, self.indptr), shape=(len(self), len(self)))

    def __len__(self) -> int:
        """Items of the fit; items that came to the catalogue later have no neighbours."""
        return len(self.indptr) - 1

    def scores_for(self, queries: SourceQuery) -> NeighbourScores:
        event_weights = (self.decay ** np.arange(queries.history.shape[1])[::-1]).astype(np.float32)
        starts, rows, sums = sum_neighbours(queries.history, event_weights, self.indptr, self.indices, self.weights)
        return NeighbourScores(
            starts=starts, rows=rows, sums=sums, neighbours=self, newest=queries.newest_events, hidden=queries.hidden
        )

    def to_documents(self) -> tuple[Document, Arrays]:
        return {"decay": self.decay}, {"indptr": self.indptr, "indices": self.indices, "weights": self.weights}

    @classmethod
    def from_documents(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> Self:
        return cls(decay=document["decay"], **{name: arrays[name] for name in ("indptr", "indices", "weights")})
