"""Exact top-k by inner product: an 8-bit scan with an error bound, then float32 scores of the few remaining rows.

Results equal those of `recsys.index.scores.oracle` bit for bit; the full [B, N] score matrix never exists. Rows keep their
number for life: new items are appended, removed ones are never found again.

Shapes: B queries, N items, D dim, K results.
"""

from typing import TYPE_CHECKING

import numpy as np

from recsys.contracts import PAD
from recsys.index.int8 import Int8Codes, ResultBuffers
from recsys.index.scores import allowed_rows, check_k, check_rows, check_vectors, inner_products, rank_candidates

if TYPE_CHECKING:
    from recsys.index.gpu.device_index import DeviceIndex

SPARSE_MASK_RATIO = 32
"""with fewer than one allowed row in so many, scoring these is faster than a scan of all"""


class ExactIndex:
    """Exact search in memory, on the CPU."""

    degraded: tuple[str, ...] = ()
    """flags of slates made by it: none"""

    def __init__(self, vectors: np.ndarray) -> None:
        """vectors: [N, D]; DataError where one is not finite."""
        self._vectors = check_vectors(vectors)
        self._codes = Int8Codes.of(self._vectors)
        self._alive = np.ones(len(self._vectors), dtype=bool)

    def __len__(self) -> int:
        """Rows, removed ones too."""
        return len(self._vectors)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._vectors.shape[1]

    @property
    def alive(self) -> np.ndarray:
        """[N] bool, False for rows that were removed."""
        return self._alive

    def search(self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Search queries [B, D] -> scores [B, K] float32, descending, and catalogue rows [B, K] int64, K = min(k, N).

        allowed: the only rows that may be found, as bool [N] or [B, N] or as row numbers. With fewer than K of them,
        scores end in -inf and rows in PAD.
        """
        check_k(k)
        queries, k = check_vectors(queries, self._vectors.shape[1]), min(k, len(self))
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), PAD, dtype=np.int64)
        if k:
            masks = allowed_rows(allowed, self._alive, len(queries))
            for query, own, *found in zip(queries, masks, scores, rows, strict=True):
                self._search(query, own, (found[0], found[1]), everywhere=allowed is None)
        return scores, rows

    def _search(self, query: np.ndarray, allowed: np.ndarray, found: ResultBuffers, *, everywhere: bool) -> None:
        if everywhere or np.count_nonzero(allowed) * SPARSE_MASK_RATIO > len(allowed):
            self._codes.search(query, allowed, self._vectors, found)
        else:
            rows = np.flatnonzero(allowed)
            found[0][:], found[1][:] = rank_candidates(inner_products(query, self._vectors[rows]), rows, len(found[0]))

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors [.., D] float32 of rows [..], zeros where a row is PAD."""
        return np.where((rows == PAD)[..., None], np.float32(0), self._vectors[rows])

    def add(self, vectors: np.ndarray) -> np.ndarray:
        """Append vectors [M, D] and return their rows [M]."""
        vectors = check_vectors(vectors, self._vectors.shape[1])
        first = len(self)
        self._vectors = np.concatenate([self._vectors, vectors])
        self._codes = self._codes.joined(Int8Codes.of(vectors))
        self._alive = np.concatenate([self._alive, np.ones(len(vectors), dtype=bool)])
        return np.arange(first, len(self))

    def remove(self, rows: np.ndarray) -> None:
        """Exclude rows from all searches; `vectors` still returns them."""
        self._alive[check_rows(rows, len(self))] = False

    def to(self, device: str) -> "DeviceIndex":
        """Copy the index to a torch device, "cuda" or "cpu"."""
        from recsys.index.gpu.device_index import DeviceIndex

        return DeviceIndex(self._vectors, self._alive, device)


def recall_against(exact_rows: np.ndarray, rows: np.ndarray) -> float:
    """Recall of `rows` [B, K'] against the exact neighbours [B, K]."""
    hits = [
        np.isin(exact, own).sum() for exact, own in zip(np.where(exact_rows == PAD, -2, exact_rows), rows, strict=True)
    ]
    return float(sum(hits) / max((exact_rows != PAD).sum(), 1))
