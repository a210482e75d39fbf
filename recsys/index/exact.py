"""Exact top-k by inner product, tiled over the catalogue: the oracle that every other index is measured against.

Shapes: B queries, N items, D dim, K results.
"""

import numpy as np

from recsys.contracts import PAD
from recsys.errors import ConfigError

TILE = 65_536
"""items scored at once; the full [B, N] matrix is never written"""


def search_tile(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best columns of [B, M] candidates, larger score first, ties to the lower row."""
    order = np.lexsort((rows, -scores), axis=-1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


class ExactIndex:
    """Inner product with every item vector."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.stored = np.ascontiguousarray(vectors, dtype=np.float32)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """queries [B, D] float32 -> scores [B, K] float32 falling and catalogue rows [B, K] int64, K = min(k, N)."""
        if k < 1:
            raise ConfigError(f"index: k is {k}; ask for at least 1 neighbour")
        scores = np.empty((len(queries), 0), dtype=np.float32)
        rows = np.empty((len(queries), 0), dtype=np.int64)
        for start in range(0, len(self.stored), TILE):
            tile = queries @ self.stored[start : start + TILE].T
            tile_rows = np.broadcast_to(np.arange(start, start + tile.shape[1]), tile.shape)
            joined = np.concatenate([scores, tile], axis=1), np.concatenate([rows, tile_rows], axis=1)
            scores, rows = search_tile(*joined, k)
        return scores, rows

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """[R] catalogue rows -> [R, D] float32."""
        return self.stored[rows]


def recall_against(exact_rows: np.ndarray, rows: np.ndarray) -> float:
    """Share of the exact neighbours [B, K] that `rows` [B, K'] holds as well."""
    found = (exact_rows[:, :, None] == rows[:, None, :]).any(-1) & (exact_rows != PAD)
    return float(found.sum() / max((exact_rows != PAD).sum(), 1))
