"""Item-item neighbours: cosine co-occurrence kept as pruned rows, applied to a user's newest events.

Shapes: B queries, L history, N items, M neighbours an item, K results.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recsys.candidates.operators import cooccurrence, cosine
from recsys.contracts import PAD
from recsys.errors import check_ranges


@dataclass(frozen=True, kw_only=True)
class ItemNeighbours:
    """The M strongest neighbours of each item; row N is padding."""

    rows: np.ndarray
    """[N + 1, M] int64 catalogue rows, PAD at the end"""
    weights: np.ndarray
    """[N + 1, M] float32, 0 for padding"""
    decay: float
    """weight of an event relative to the next newer one"""

    def search(self, history: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """history [B, L] catalogue rows, newest last, PAD before -> scores [B, K] falling, rows [B, K], PAD at the end."""
        ages = np.arange(history.shape[1])[::-1]
        strength = np.where(history == PAD, 0.0, self.decay**ages).astype(np.float32)
        scores = strength[:, :, None] * self.weights[history]
        return _top_sums(self.rows[history].reshape(len(history), -1), scores.reshape(len(history), -1), k)


def _top_sums(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum the scores of equal rows within each query, then keep the k largest; ties to the lower row."""
    num_queries = len(rows)
    queries = np.broadcast_to(np.arange(num_queries)[:, None], rows.shape)
    kept = (rows != PAD) & (scores > 0)
    stride = int(rows.max(initial=0)) + 1
    keys, places = np.unique(queries[kept] * stride + rows[kept], return_inverse=True)
    sums = np.bincount(places, weights=scores[kept], minlength=len(keys)).astype(np.float32)
    found_query, found_row = keys // stride, keys % stride
    order = np.lexsort((found_row, -sums, found_query))
    found_query, found_row, sums = found_query[order], found_row[order], sums[order]
    place = np.arange(len(order)) - np.searchsorted(found_query, found_query)
    first = place < k
    top_scores = np.full((num_queries, k), -np.inf, dtype=np.float32)
    top_rows = np.full((num_queries, k), PAD, dtype=np.int64)
    top_scores[found_query[first], place[first]] = sums[first]
    top_rows[found_query[first], place[first]] = found_row[first]
    return top_scores, top_rows


class ItemItem:
    """How to fit ItemNeighbours."""

    def __init__(self, *, num: int, weight: float, neighbours: int, shrinkage: float, decay: float) -> None:
        """
        num: candidates it offers a query
        weight: its vote in the merge
        neighbours: kept an item
        shrinkage: added to the denominator of the cosine, tames rare items
        decay: weight of an event relative to the next newer one, above 0 to 1
        """
        check_ranges(
            "candidates.item_item",
            neighbours=(neighbours, 1, 100_000),
            shrinkage=(shrinkage, 0.0, 1e9),
            decay=(decay, 1e-6, 1.0),
        )
        self.num = num
        self.weight = weight
        self.neighbours = neighbours
        self.shrinkage = shrinkage
        self.decay = decay

    def fit(self, users: np.ndarray, items: np.ndarray, num_items: int) -> ItemNeighbours:
        """Positives of the training period: users [M] codes from 0, items [M] catalogue rows."""
        ones = np.ones(len(users), np.float32)
        seen = sparse.csr_array((ones, (users, items)), shape=(users.max() + 1, num_items))
        seen.data[:] = 1
        similar = cosine(cooccurrence(seen), seen.sum(axis=0), self.shrinkage).tocoo()
        scores, rows = _pruned(similar.row, similar.col, similar.data, num_items + 1, self.neighbours)
        return ItemNeighbours(rows=rows, weights=scores, decay=self.decay)


def _pruned(
    row: np.ndarray, column: np.ndarray, value: np.ndarray, num_rows: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((column, -value, row))
    row, column, value = row[order], column[order], value[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    first = place < width
    values = np.zeros((num_rows, width), dtype=np.float32)
    columns = np.full((num_rows, width), PAD, dtype=np.int64)
    values[row[first], place[first]] = value[first]
    columns[row[first], place[first]] = column[first]
    return values, columns
