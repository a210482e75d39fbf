"""Union of what the sources offer, with provenance and quotas, in one vectorised function.

Shapes: B queries, K offers of a source, E excluded items, C candidates, S sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.contracts import PAD
from recsys.errors import check_ranges

SMOOTHING = 60.0
"""the constant of reciprocal rank fusion (Cormack, Clarke & Büttcher 2009)"""


@dataclass(frozen=True, kw_only=True)
class Quota:
    """What one source may contribute."""

    name: str
    num: int
    """offers kept a query, after excluded items are gone"""
    weight: float
    """its vote: an item at place r (from 1) gets weight / (SMOOTHING + r)"""

    def __post_init__(self) -> None:
        check_ranges(f"candidates.{self.name}", num=(self.num, 1, 1_000_000), weight=(self.weight, 0.0, 1e6))


def merge(
    offers: Sequence[tuple[np.ndarray, np.ndarray]], quotas: Sequence[Quota], excluded: np.ndarray, total: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offers of S sources -> (rows [B, total], scores [B, total], source_scores [B, total, S]).

    Each offer is (scores [B, K], rows [B, K]), best first, PAD where there is none; excluded is [B, E] rows, PAD allowed.
    The merged score is reciprocal rank fusion; equal ones go to the lower row. Padding is PAD, -inf and NaN.
    """
    num_queries, num_sources = len(excluded), len(offers)
    query, source, place, row, score = _flatten(offers, quotas, excluded)
    stride = int(max(row.max(initial=0), 0)) + 1
    keys, union = np.unique(query * stride + row, return_inverse=True)
    weights = np.array([quota.weight for quota in quotas])
    fused = np.bincount(union, weights=weights[source] / (SMOOTHING + place + 1), minlength=len(keys))
    by_source = np.full((len(keys), num_sources), np.nan, dtype=np.float32)
    by_source[union, source] = score
    found_query, found_row = keys // stride, keys % stride
    order = np.lexsort((found_row, -fused, found_query))
    rank = np.arange(len(order)) - np.searchsorted(found_query[order], found_query[order])
    order, rank = order[rank < total], rank[rank < total]
    rows = np.full((num_queries, total), PAD, dtype=np.int64)
    scores = np.full((num_queries, total), -np.inf, dtype=np.float32)
    source_scores = np.full((num_queries, total, num_sources), np.nan, dtype=np.float32)
    rows[found_query[order], rank] = found_row[order]
    scores[found_query[order], rank] = fused[order]
    source_scores[found_query[order], rank] = by_source[order]
    return rows, scores, source_scores


def _flatten(
    offers: Sequence[tuple[np.ndarray, np.ndarray]], quotas: Sequence[Quota], excluded: np.ndarray
) -> tuple[np.ndarray, ...]:
    """One entry an offer that counts: its query, source, place among the kept offers, row and score."""
    entries = []
    for number, ((scores, rows), quota) in enumerate(zip(offers, quotas, strict=True)):
        allowed = (rows != PAD) & ~_contains(excluded, rows)
        place = np.cumsum(allowed, axis=1) - 1
        query, column = np.nonzero(allowed & (place < quota.num))
        source = np.full(len(query), number)
        entries.append((query, source, place[query, column], rows[query, column], scores[query, column]))
    return tuple(np.concatenate(parts) for parts in zip(*entries, strict=True))


def _contains(excluded: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[B, E], [B, K] -> [B, K] True where the row of the offer is excluded for its query."""
    if not excluded.size or not rows.size:
        return np.zeros(rows.shape, dtype=bool)
    stride = int(max(excluded.max(), rows.max())) + 2
    offset = np.arange(len(rows))[:, None] * stride + 1
    return np.isin(rows + offset, excluded + offset)


def score_features(scores: np.ndarray, source_scores: np.ndarray) -> np.ndarray:
    """What the ranker reads of retrieval: [B, C] and [B, C, S] -> [B, C, 1 + 3 S] float32, all zero for padding.

    The merged score, then for each source its score, whether it offered the item, and 1 / log2(2 + place).
    """
    offered = ~np.isnan(source_scores)
    filled = np.where(offered, source_scores, -np.inf)
    places = np.argsort(np.argsort(-filled, axis=1, kind="stable"), axis=1, kind="stable")
    gains = np.where(offered, 1 / np.log2(2 + places), 0)
    merged = np.where(np.isfinite(scores), scores * SMOOTHING, 0)[..., None]
    return np.concatenate([merged, np.nan_to_num(source_scores), offered, gains], axis=-1).astype(np.float32)


def num_score_features(num_sources: int) -> int:
    """Width of `score_features`."""
    return 1 + 3 * num_sources
