"""Stored neighbours of the items of a history, added up: one sparse product a batch, no array over the catalogue.

Shapes: B queries, N items that are known, K offers, P pairs of a query and an item, Z sums that are not zero, E events.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from scipy import sparse

from recsys.candidates.best import best
from recsys.candidates.contract import Arrays, Asked, Document
from recsys.contracts import PAD
from recsys.index import Index

CELLS = 2**23
"""sums unfolded at once to look up pairs"""


@dataclass(frozen=True, kw_only=True)
class NeighbourAnswer:
    """What the histories of B users speak for."""

    sums: sparse.csr_array
    """[B, N] float32; the largest of a query is 1, unless it has none"""
    neighbours: "ItemNeighbours"
    newest: np.ndarray
    """[B, E] as in Asked"""
    hidden: np.ndarray | None
    """as in Asked"""

    def offer(self, k: int) -> np.ndarray:
        """What has a positive sum and may be offered."""
        counts = np.diff(self.sums.indptr)
        query = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(len(query)) - self.sums.indptr[query]
        scores = np.full((len(counts), counts.max(initial=0)), -np.inf, dtype=np.float32)
        rows = np.zeros(scores.shape, dtype=np.int64)
        offered = self.sums.data > 0
        if self.hidden is not None:
            offered &= ~self.hidden[self.sums.indices]
        scores[query, place] = np.where(offered, self.sums.data, -np.inf)
        rows[query, place] = self.sums.indices
        return best(scores, rows, k)

    def score(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Queries must rise."""
        num_queries, num_items = self.sums.shape
        scores = np.zeros(len(query), dtype=np.float32)
        step = max(1, CELLS // num_items)
        for start in range(0, num_queries, step):
            block = self.sums[start : start + step].toarray()
            first, last = np.searchsorted(query, (start, start + step))
            inside = first + np.flatnonzero(row[first:last] < num_items)
            scores[inside] = block[query[inside] - start, row[inside]]
        return scores

    def recent(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        return self.neighbours.between(self.newest[query], row[:, None])


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
        num_items = len(self.indptr) - 1
        return sparse.csr_array((self.weights, self.indices, self.indptr), shape=(num_items, num_items))

    def answer(self, asked: Asked) -> NeighbourAnswer:
        sums = self._history(asked.history) @ self.matrix
        unit = _to_unit_maximum(sums)
        return NeighbourAnswer(sums=unit, neighbours=self, newest=asked.newest, hidden=asked.hidden)

    def between(self, events: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What an event [...] says of a row [...], broadcast -> [...] float32; 0 for PAD and for what is not stored."""
        num_items = len(self.indptr) - 1
        keys, weights = self._sorted
        wanted = events * num_items + rows
        place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        known = (events != PAD) & (events < num_items) & (rows != PAD) & (rows < num_items)
        if not len(keys):
            return np.zeros(wanted.shape, dtype=np.float32)
        return np.where(known & (keys[place] == wanted), weights[place], np.float32(0))

    @cached_property
    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs as numbers item * N + neighbour, rising, and their weights."""
        num_items = len(self.indptr) - 1
        keys = np.repeat(np.arange(num_items), np.diff(self.indptr)) * num_items + self.indices
        order = np.argsort(keys, kind="stable")
        return keys[order], self.weights[order]

    def _history(self, rows: np.ndarray) -> sparse.csr_array:
        """[B, N] decay^age for every event; items that came to the catalogue later are not known."""
        num_items = len(self.indptr) - 1
        known = (rows != PAD) & (rows < num_items)
        fading = (self.decay ** np.arange(rows.shape[1])[::-1]).astype(np.float32)
        indptr = np.concatenate([[0], np.cumsum(known.sum(axis=1))])
        values = np.broadcast_to(fading, rows.shape)[known]
        return sparse.csr_array((values, rows[known], indptr), shape=(len(rows), num_items))

    def to_documents(self) -> tuple[Document, Arrays]:
        return {"decay": self.decay}, {"indptr": self.indptr, "indices": self.indices, "weights": self.weights}

    @classmethod
    def from_documents(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> Self:
        return cls(decay=document["decay"], **{name: arrays[name] for name in ("indptr", "indices", "weights")})


def _to_unit_maximum(sums: sparse.csr_array) -> sparse.csr_array:
    """Every row divided by its largest value where that is positive."""
    counts = np.diff(sums.indptr)
    largest = np.zeros(len(counts), dtype=np.float32)
    filled = counts > 0
    largest[filled] = np.maximum.reduceat(sums.data, sums.indptr[:-1][filled]) if filled.any() else 0
    sums.data /= np.repeat(np.where(largest > 0, largest, 1), counts)
    return sums
