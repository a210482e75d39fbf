"""Requests one after the other, each told what was shown before it: do limits on exposure hold over a stream?

Shapes: B queries of a batch, K places, N items of the catalogue, V values of a column.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recsys.contracts import PAD
from recsys.errors import check_ranges
from recsys.evaluation.attributes import Column
from recsys.evaluation.questions import End

ITEM = "item"
FILLED = 1 / 8


class Counters:
    """What a caller counts of all that was shown, as Query.exposure takes it: "column=value" -> share of the exposure.

    A share is of all that is counted, but of FILLED of a window at least, which holds half_life / ln 2 impressions: the first
    pages have small shares, that leave caps idle, in the place of large ones. An item of several values counts for each
    of them. Every value is told, those never shown with 0, so that floors find them.
    """

    def __init__(self, columns: Mapping[str, Column], items: Sequence[str], *, half_life: float) -> None:
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
        """Pages [B, K] of catalogue rows that were shown since, PAD in empty places."""
        shown = rows[rows != PAD]
        self.counts *= 0.5 ** (len(shown) / self.half_life)
        np.add.at(self.counts, shown, 1.0)

    def exposure(self) -> dict[str, float]:
        """For the next queries."""
        held = [column.held.T @ self.counts for column in self.columns.values()]
        total = max(self.counts.sum(), FILLED * self.half_life / math.log(2))
        shares = np.concatenate([self.counts, *held]) / total
        return dict(zip(self.keys, shares.tolist(), strict=True))


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """What was shown, in the order of the requests."""

    rows: np.ndarray
    """[B of all batches, K] catalogue rows, PAD in empty places"""

    def shares(self, column: Column, first: int) -> np.ndarray:
        """[V] share of what was shown from page `first` on that has the value."""
        return column.held.T @ self.item_shares(column.held.shape[0], first)

    def item_shares(self, num_items: int, first: int) -> np.ndarray:
        """[N] share of every item in the same."""
        rows = self.rows[first:]
        counts = np.bincount(rows[rows != PAD], minlength=num_items)
        return counts / max(counts.sum(), 1)


def stream(end: End, batches: Iterable[Mapping[str, Any]], counters: Counters, places: int) -> Streamed:
    """Answer batch after batch by the last stage `end`; its tensors have QUERY and all that the stages before added.

    What a page shows is known to the queries of the next batch, so the delay of a caller's counters is the size of a batch.
    """
    pages = []
    for tensors in batches:
        exposure = counters.exposure()
        queries = [replace(query, exposure=exposure) for query in tensors["QUERY"]]
        rows = end.rows({**tensors, "QUERY": queries})
        counters.add(rows)
        pages.append(np.pad(rows, ((0, 0), (0, places - rows.shape[1])), constant_values=PAD))
    return Streamed(rows=np.concatenate(pages))
