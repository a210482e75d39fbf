"""Recently popular items: the source that is always there.

Shapes: B queries, K results.
"""

from dataclasses import dataclass

import numpy as np

from recsys.errors import ConfigError, check_ranges

DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class PopularItems:
    """One list for everybody, best first."""

    rows: np.ndarray
    """[P] int64"""
    scores: np.ndarray
    """[P] float32, share of the most popular item's events, falling"""

    def search(self, num_queries: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """-> scores [B, K] and rows [B, K], K = min(k, P)."""
        shape = (num_queries, min(k, len(self.rows)))
        return np.broadcast_to(self.scores[:k], shape), np.broadcast_to(self.rows[:k], shape)


class Popular:
    """How to fit PopularItems."""

    def __init__(self, *, num: int, weight: float, days: float, kept: int) -> None:
        """
        num: candidates it offers a query
        weight: its vote in the merge
        days: window before the end of the training data
        kept: length of the stored list, long enough to outlast what a user has seen
        """
        check_ranges("candidates.popular", num=(num, 1, 1_000_000), days=(days, 1e-6, 1e6), kept=(kept, 1, 10_000_000))
        if kept < num:
            raise ConfigError(f"candidates.popular.kept is {kept}, less than num {num}; store at least num items")
        self.num = num
        self.weight = weight
        self.days = days
        self.kept = kept

    def fit(self, items: np.ndarray, timestamps: np.ndarray, num_items: int) -> PopularItems:
        """Positives of the training period: catalogue rows [M] and unix seconds [M], NaN where there is no time.

        Without time every event counts.
        """
        recent = np.nan_to_num(timestamps.max() - timestamps) < self.days * DAY
        counts = np.bincount(items[recent], minlength=num_items)
        order = np.lexsort((np.arange(num_items), -counts))[: self.kept]
        order = order[counts[order] > 0]
        return PopularItems(rows=order.astype(np.int64), scores=(counts[order] / counts.max()).astype(np.float32))
