"""Stored neighbours of the items of a history, added up.

Shapes: B queries, H history, N items that are known, K offers, P pairs of a query and an item, Z sums that are not zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from scipy import sparse

from recsys.candidates.best import best
from recsys.candidates.contract import Arrays, Asked, Document
from recsys.candidates.sums import added, of_events, of_pairs
from recsys.index import Index


@dataclass(frozen=True, kw_only=True)
class NeighbourAnswer:
    """What the histories of B users speak for."""

    starts: np.ndarray
    """[B + 1]: query b speaks for rows[starts[b]:starts[b + 1]]"""
    rows: np.ndarray
    """[Z] int64"""
    sums: np.ndarray
    """[Z] float32; the largest of a query is 1, unless none is above 0"""
    neighbours: "ItemNeighbours"
    newest: np.ndarray
    """[B, E] as in Asked"""
    hidden: np.ndarray | None
    """as in Asked"""

    def offer(self, k: int) -> np.ndarray:
        """What has a positive sum and may be offered."""
        counts = np.diff(self.starts)
        offered = self.sums > 0
        if self.hidden is not None:
            offered &= ~self.hidden[self.rows]
        scores = np.full((len(counts), counts.max(initial=0)), -np.inf, dtype=np.float32)
        rows = np.zeros(scores.shape, dtype=np.int64)
        filled = np.arange(scores.shape[1]) < counts[:, None]
        scores[filled] = np.where(offered, self.sums, np.float32(-np.inf))
        rows[filled] = self.rows
        return best(scores, rows, k)

    def only(self, queries: np.ndarray) -> "NeighbourAnswer":
        counts = np.diff(self.starts)[queries]
        starts = np.concatenate([[0], np.cumsum(counts)])
        at = np.arange(starts[-1]) + np.repeat(self.starts[queries] - starts[:-1], counts)
        return replace(self, starts=starts, rows=self.rows[at], sums=self.sums[at], newest=self.newest[queries])

    def score(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Queries must rise."""
        return of_pairs(self.starts, self.rows, self.sums, len(self.neighbours), query, row)

    def recent(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Queries must rise."""
        stored = self.neighbours
        return of_events(self.newest, stored.indptr, stored.indices, stored.weights, query, row)


@dataclass(frozen=True, kw_only=True)
class ItemNeighbours:
    """What each item of a history speaks for, the strongest only, and how a history fades."""

    indptr: np.ndarray
    """[N + 1] int64: the neighbours of item i are indices[indptr[i]:indptr[i + 1]]"""
    indices: np.ndarray
    """int32 catalogue rows"""
    weights: np.ndarray
    """float32"""
    decay: float
    """weight of an event relative to the next newer one"""
    kind: ClassVar[str] = "neighbours"

    @staticmethod
    def of(matrix: sparse.csr_array, decay: float) -> "ItemNeighbours":
        """From [N, N], row: item of the history, column: item it speaks for."""
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
        """Items that are known; those that came to the catalogue later are not."""
        return len(self.indptr) - 1

    def answer(self, asked: Asked) -> NeighbourAnswer:
        fading = (self.decay ** np.arange(asked.history.shape[1])[::-1]).astype(np.float32)
        starts, rows, sums = added(asked.history, fading, self.indptr, self.indices, self.weights)
        return NeighbourAnswer(
            starts=starts, rows=rows, sums=sums, neighbours=self, newest=asked.newest, hidden=asked.hidden
        )

    def to_documents(self) -> tuple[Document, Arrays]:
        return {"decay": self.decay}, {"indptr": self.indptr, "indices": self.indices, "weights": self.weights}

    @classmethod
    def from_documents(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> Self:
        return cls(decay=document["decay"], **{name: arrays[name] for name in ("indptr", "indices", "weights")})
