"""Simulation of a request stream with exposure counters, to measure whether exposure limits hold.

Shapes: B queries of a batch, K positions, N items of the catalogue, V values of a column.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recsys.contracts import PAD
from recsys.errors import check_ranges
from recsys.evaluation.attributes import CategoryColumn
from recsys.replay.evaluation_queries import RankingStage

ITEM = "item"
MIN_WINDOW_SHARE = 1 / 8


class ExposureCounters:
    """Decayed impression counters of a caller, as Query.exposure takes them: "column=value" -> share of the exposure.

    The denominator is the number of counted impressions, but at least MIN_WINDOW_SHARE of a window of half_life / ln 2
    impressions: otherwise the first slates would have large shares that trigger caps at once. An item of several values
    counts for each of them. Values never shown have share 0, so that floors apply to them.
    """

    def __init__(self, columns: Mapping[str, CategoryColumn], items: Sequence[str], *, half_life: float) -> None:
        """
        columns: counted beside the items; items: [N] ids
        half_life: impressions after which an impression counts half
        """
        check_ranges("stream", half_life=(half_life, 1.0, 1e12))
        self.columns, self.half_life = dict(columns), half_life
        self.keys = [f"{ITEM}={item}" for item in items]
        self.keys += [f"{name}={value}" for name, column in self.columns.items() for value in column.values]
        self.counts = np.zeros(len(items))
        """[N] impressions, decayed"""

    def add(self, rows: np.ndarray) -> None:
        """Count shown slates [B, K] of catalogue rows, PAD in empty positions."""
        shown = rows[rows != PAD]
        self.counts *= 0.5 ** (len(shown) / self.half_life)
        np.add.at(self.counts, shown, 1.0)

    def exposure(self) -> dict[str, float]:
        """Return the shares for the next queries."""
        held = [column.held.T @ self.counts for column in self.columns.values()]
        total = max(self.counts.sum(), MIN_WINDOW_SHARE * self.half_life / math.log(2))
        shares = np.concatenate([self.counts, *held]) / total
        return dict(zip(self.keys, shares.tolist(), strict=True))


@dataclass(frozen=True, kw_only=True)
class StreamedSlates:
    """Shown slates in the order of the requests."""

    rows: np.ndarray
    """[B of all batches, K] catalogue rows, PAD in empty positions"""

    def shares(self, column: CategoryColumn, first: int) -> np.ndarray:
        """Return [V], the share of impressions from slate `first` on that have each value."""
        return column.held.T @ self.item_shares(column.held.shape[0], first)

    def item_shares(self, num_items: int, first: int) -> np.ndarray:
        """Return [N], the share of impressions of each item from slate `first` on."""
        rows = self.rows[first:]
        counts = np.bincount(rows[rows != PAD], minlength=num_items)
        return counts / max(counts.sum(), 1)


def stream_slates(
    stage: RankingStage, batches: Iterable[Mapping[str, Any]], counters: ExposureCounters, num_positions: int
) -> StreamedSlates:
    """Answer batch after batch by the last stage; batches have QUERY and the tensors of the stages before.

    Slates are counted for the queries of the next batch, so the delay of a caller's counters is the batch size.
    """
    pages = []
    for tensors in batches:
        exposure = counters.exposure()
        queries = [replace(query, exposure=exposure) for query in tensors["QUERY"]]
        rows = stage.rows({**tensors, "QUERY": queries})
        counters.add(rows)
        pages.append(np.pad(rows, ((0, 0), (0, num_positions - rows.shape[1])), constant_values=PAD))
    return StreamedSlates(rows=np.concatenate(pages))
