"""An index with some rows hidden and others added or given new vectors, without a touch of the one it is made from.

The index below goes on answering those who hold it. Scores and order are those of this room, so that the same rows give
the same results whether they came by training or later.

Shapes: B queries, N rows of the index below, M patched rows, H rows hidden below, D dim, K results.
"""

from typing import TYPE_CHECKING

import numpy as np

from recsys.contracts import PAD
from recsys.index.scores import check_k, check_vectors, inner_products

if TYPE_CHECKING:
    from recsys.index.exact import ExactIndex
    from recsys.index.faiss_index import FaissIndex

ROUNDING = 2.0**-18
"""relative, of a float32 product of matrices and of a folded score together, for D up to 4,096"""


class PatchedIndex:
    """Rows of an index and of a few vectors kept beside it."""

    def __init__(
        self, below: "ExactIndex | FaissIndex", rows: np.ndarray, vectors: np.ndarray, hidden: np.ndarray
    ) -> None:
        """
        rows: [M] rising, each once; those from N on are new ones without a gap, the others have another vector than below
        vectors: [M, D] of these rows
        hidden: rows that are never found, their vectors can still be asked for
        """
        self._below, self._rows = below, np.asarray(rows, dtype=np.int64)
        self._vectors = check_vectors(vectors)
        self._length = len(below) + int((self._rows >= len(below)).sum())
        shown = np.ones(self._length, dtype=bool)
        shown[hidden] = False
        found = shown[self._rows]
        self._shown_rows, self._shown_vectors = self._rows[found], self._vectors[found]
        self._margin = ROUNDING * float(np.linalg.norm(self._vectors, axis=1).max(initial=0))
        shown[self._rows] = False
        self._shown_below = shown[: len(below)]
        self._num_hidden_below = int(len(below) - self._shown_below.sum())

    def __len__(self) -> int:
        """Rows, hidden ones too."""
        return self._length

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """queries [B, D] -> scores [B, K] falling and rows [B, K], K = min(k, len), as ExactIndex.search."""
        check_k(k)
        parts = zip(self._search_below(queries, k), self._search_patch(queries, k), strict=True)
        scores, rows = (np.concatenate(one, axis=1) for one in parts)
        order = np.lexsort((np.where(rows == PAD, len(self), rows), -scores), axis=-1)[:, : min(k, len(self))]
        spare = ((0, 0), (0, min(k, len(self)) - order.shape[1]))
        found = np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)
        return np.pad(found[0], spare, constant_values=-np.inf), np.pad(found[1], spare, constant_values=PAD)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors [.., D] float32 of rows [..], zeros where a row is PAD."""
        at = np.minimum(np.searchsorted(self._rows, rows), max(len(self._rows) - 1, 0))
        patched = self._rows[at] == rows if len(self._rows) else np.zeros(np.shape(rows), dtype=bool)
        found = self._below.vectors(np.where(patched, PAD, rows))
        found[patched] = self._vectors[at[patched]]
        return found

    def _search_patch(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """[B, number that may be found] each; -inf and PAD where a row is surely not among the k best of the patch."""
        possible = self._possible(queries, k)
        reached = np.flatnonzero(possible.any(axis=0))
        query, at = np.nonzero(possible[:, reached])
        scores = np.full((len(queries), len(reached)), -np.inf, dtype=np.float32)
        scores[query, at] = inner_products(queries[query], self._shown_vectors[reached[at]])
        return scores, np.where(possible[:, reached], self._shown_rows[reached], PAD)

    def _possible(self, queries: np.ndarray, k: int) -> np.ndarray:
        """[B, shown rows of the patch] bool, by products that are off by the margin at most."""
        near = queries @ self._shown_vectors.T
        if k >= near.shape[1]:
            return np.ones(near.shape, dtype=bool)
        floor = np.partition(near, -k, axis=1)[:, -k, None]
        return near >= floor - 2 * self._margin * np.linalg.norm(queries, axis=1, keepdims=True)

    def _search_below(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """More than wanted where few rows are hidden, since a search with a mask looks at every row's bit."""
        if self._num_hidden_below > k:
            return self._below.search(queries, k, self._shown_below)
        scores, rows = self._below.search(queries, k + self._num_hidden_below)
        gone = (rows == PAD) | ~self._shown_below[rows]
        return np.where(gone, np.float32(-np.inf), scores), np.where(gone, PAD, rows)
