"""Scores and order of results, the same for every index.

A score is the float32 inner product summed by folding: the products' upper half is added to the lower half until one
number is left. Multiplications and additions are rounded one by one in this order, so numpy, numba and torch on any
device give the same bits, and the error is at most (log2 D + 1) 2^-24 sum|x q| (Higham, Accuracy and Stability, 4.2).
Larger scores come first, equal ones by the lower row.

Shapes: B queries, N items, D dim, C candidates, K results.
"""

import numpy as np

from recsys.contracts import PAD
from recsys.errors import ConfigError, DataError

MAX_COORDINATE = 1e15
"""largest coordinate: inner products then stay far inside float32"""
SCORE_CHUNK = 65_536
"""vectors that the oracle scores at once"""


def check_vectors(vectors: np.ndarray, dim: int | None = None) -> np.ndarray:
    """Vectors [B, D] as contiguous float32; DataError for another shape, NaN, infinity or a number above MAX_COORDINATE."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or (dim is not None and vectors.shape[1] != dim):
        raise DataError(f"index: vectors have shape {vectors.shape}; give [number, {dim or 'dim'}]")
    if vectors.size and not max(vectors.max(), -vectors.min()) <= MAX_COORDINATE:
        raise DataError(
            f"index: vectors hold NaN, infinity or numbers above {MAX_COORDINATE:g}; mend the model that made them"
        )
    return vectors


def check_k(k: int) -> None:
    if k < 1:
        raise ConfigError(f"index: k is {k}; ask for at least 1 neighbour")


def inner_products(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Folded scores [...] of [..., D] with [..., D], broadcast against each other."""
    products = queries * vectors
    while (width := products.shape[-1]) > 1:
        half = (width + 1) // 2
        products[..., : width - half] += products[..., half:]
        products = products[..., :half]
    return products[..., 0] if products.shape[-1] else np.zeros(products.shape[:-1], dtype=np.float32)


def rank_candidates(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Top k of candidates [C] with ascending rows, as scores [k] and rows [k] int64, padded with -inf and PAD."""
    order = np.argsort(-scores, kind="stable")[:k]
    best, found = np.full(k, -np.inf, dtype=np.float32), np.full(k, PAD, dtype=np.int64)
    best[: len(order)], found[: len(order)] = scores[order], rows[order]
    return best, found


def check_rows(rows: np.ndarray, num: int) -> np.ndarray:
    """Row numbers [M] as int64; DataError where one is not in 0 to num - 1."""
    rows = np.asarray(rows, dtype=np.int64).reshape(-1)
    if len(rows) and not 0 <= rows.min() <= rows.max() < num:
        raise DataError(f"index: rows {rows.min()} to {rows.max()} were named; there are rows 0 to {num - 1}")
    return rows


def allowed_rows(allowed: np.ndarray | None, alive: np.ndarray, num_queries: int) -> np.ndarray:
    """Masks of the queries, bool [B, N] (a view where all share one), from the `allowed` argument of `search`."""
    shape = (num_queries, len(alive))
    if allowed is None:
        return np.broadcast_to(alive, shape)
    allowed = np.asarray(allowed)
    if allowed.dtype != bool:
        rows, allowed = check_rows(allowed, len(alive)), np.zeros(len(alive), dtype=bool)
        allowed[rows] = True
    if allowed.shape not in (shape, shape[1:]):
        raise DataError(f"index: allowed has shape {allowed.shape}; give bool {shape[1:]} or {shape}, or row numbers")
    return np.broadcast_to(allowed & alive, shape)


def oracle(
    vectors: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Score all vectors [N, D] and sort them: the reference of searches. allowed: bool [N] or [B, N]. Returns two [B, K]."""
    vectors, queries, k = check_vectors(vectors), check_vectors(queries), min(k, len(vectors))
    allowed = np.broadcast_to(True if allowed is None else allowed, (len(queries), len(vectors)))
    found = []
    for query, own in zip(queries, allowed, strict=True):
        rows = np.flatnonzero(own)
        chunks = [
            inner_products(query, vectors[rows[at : at + SCORE_CHUNK]]) for at in range(0, len(rows), SCORE_CHUNK)
        ]
        found.append(rank_candidates(np.concatenate([np.empty(0, np.float32), *chunks]), rows, k))
    scores, rows = (np.array([one[part] for one in found]).reshape(len(queries), k) for part in (0, 1))
    return scores.astype(np.float32), rows.astype(np.int64)
