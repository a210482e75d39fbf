"""Overlay of an index that hides, adds and replaces rows without changing the base index.

Concurrent searches of the base index go on. Scores and order are those of recsys.index.scores, so that rows give the same
results whether they are in the base index or in the patch.

Shapes: B queries, N rows of the base index, M patched rows, H hidden rows of the base index, D dim, K results.
"""

from typing import TYPE_CHECKING

import numpy as np

from recsys.contracts import PAD
from recsys.index.scores import check_k, check_vectors, inner_products

if TYPE_CHECKING:
    from recsys.index.exact import ExactIndex
    from recsys.index.faiss_index import FaissIndex
    from recsys.index.guarded_device import GuardedDeviceIndex

PRODUCT_ROUNDING = 2.0**-18
"""relative error of a float32 matrix product and of a folded score together, for D up to 4,096"""


class PatchedIndex:
    """A base index and a few vectors that are searched beside it."""

    def __init__(
        self,
        below: "ExactIndex | FaissIndex | GuardedDeviceIndex",
        rows: np.ndarray,
        vectors: np.ndarray,
        hidden: np.ndarray,
    ) -> None:
        """
        rows: [M] ascending, distinct; those from N on are new rows without a gap, the others replace vectors of `below`
        vectors: [M, D] of these rows
        hidden: rows that are never found; `vectors` still returns them
        """
        self._below, self._rows = below, np.asarray(rows, dtype=np.int64)
        self._vectors = check_vectors(vectors)
        self._length = len(below) + int((self._rows >= len(below)).sum())
        shown = np.ones(self._length, dtype=bool)
        shown[hidden] = False
        found = shown[self._rows]
        self._shown_rows, self._shown_vectors = self._rows[found], self._vectors[found]
        self._margin = PRODUCT_ROUNDING * float(np.linalg.norm(self._vectors, axis=1).max(initial=0))
        shown[self._rows] = False
        self._shown_below = shown[: len(below)]
        self._num_hidden_below = int(len(below) - self._shown_below.sum())

    def __len__(self) -> int:
        """Rows, hidden ones too."""
        return self._length

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._below.dim

    @property
    def degraded(self) -> tuple[str, ...]:
        """Return the flags of slates made now."""
        return self._below.degraded

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search queries [B, D] -> scores [B, K] descending and rows [B, K], K = min(k, len), as ExactIndex.search."""
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
        """[B, candidates] each; -inf and PAD where a row cannot be among the k best of the patch."""
        possible = self._possible(queries, k)
        reached = np.flatnonzero(possible.any(axis=0))
        query, at = np.nonzero(possible[:, reached])
        scores = np.full((len(queries), len(reached)), -np.inf, dtype=np.float32)
        scores[query, at] = inner_products(queries[query], self._shown_vectors[reached[at]])
        return scores, np.where(possible[:, reached], self._shown_rows[reached], PAD)

    def _possible(self, queries: np.ndarray, k: int) -> np.ndarray:
        """[B, shown rows of the patch] bool, False where even the rounding error of the product leaves a row out."""
        near = queries @ self._shown_vectors.T
        if k >= near.shape[1]:
            return np.ones(near.shape, dtype=bool)
        floor = np.partition(near, -k, axis=1)[:, -k, None]
        return near >= floor - 2 * self._margin * np.linalg.norm(queries, axis=1, keepdims=True)

    def _search_below(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search the base index; where few rows are hidden k + H deep, since a masked search tests every row's bit."""
        if self._num_hidden_below > k:
            return self._below.search(queries, k, self._shown_below)
        scores, rows = self._below.search(queries, k + self._num_hidden_below)
        gone = (rows == PAD) | ~self._shown_below[rows]
        return np.where(gone, np.float32(-np.inf), scores), np.where(gone, PAD, rows)
