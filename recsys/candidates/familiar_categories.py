"""Popular items of the categories that the whole history holds: a hard search by category, as in SIM (Pi et al. 2020).

P(category | user) * P(item | category): the first from the history, whose events decay, the second from all training events.

Shapes: B queries, H history, N items, G categories, K candidates, P pairs of a query and an item, E newest events.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from scipy import sparse

from recsys.candidates.candidate_source import (
    CandidateSource,
    Document,
    SourceQuery,
    TrainingInteractions,
    check_source,
)
from recsys.candidates.topk import sparse_top_k
from recsys.errors import ConfigError, check_ranges
from recsys.expressions import suggestion
from recsys.features.encode import ItemTable
from recsys.features.spec import IDENTITY, MISSING, TableSpec
from recsys.index import Index
from recsys.tensors import Arrays


@dataclass(frozen=True, kw_only=True)
class CategoryScores:
    """Shares of the categories in B histories."""

    shares: np.ndarray
    """[B, G] float32; the largest score of a query is 1"""
    newest: np.ndarray
    """[B, E] as SourceQuery.newest_events"""
    fitted: "FittedCategories"
    hidden: np.ndarray | None

    def top_k(self, k: int) -> np.ndarray:
        sums = sparse.csr_array(sparse.csr_array(self.shares) @ self.fitted.popular)
        sums.sort_indices()
        return sparse_top_k(sums.indptr, sums.indices, sums.data, self.hidden, k)

    def select(self, queries: np.ndarray) -> "CategoryScores":
        return replace(self, shares=self.shares[queries], newest=self.newest[queries])

    def score(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        return self.shares[query, self.fitted.category_of(row)] * self.fitted.chance_of(row)

    def event_scores(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The item's chance where the event is of its category."""
        of_event, own = self.fitted.category_of(self.newest[query]), self.fitted.category_of(row)
        same = (of_event == own[:, None]) & (own != MISSING)[:, None]
        return (same * self.fitted.chance_of(row)[:, None]).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class FittedCategories(CandidateSource):
    """Category and chance of every item; category 0 is none."""

    categories: np.ndarray
    """[N] int64, below G"""
    chances: np.ndarray
    """[N] float32, P(item | category), 0 without a category"""
    kept: int
    decay: float

    def with_decay(self, decay: float) -> "FittedCategories":
        return replace(self, decay=decay)

    @property
    def num_categories(self) -> int:
        return int(self.categories.max()) + 1

    def category_of(self, rows: np.ndarray) -> np.ndarray:
        """Return categories, 0 where a row is PAD or came after the training."""
        known = (rows >= 0) & (rows < len(self.categories))
        return np.where(known, self.categories[np.where(known, rows, 0)], MISSING)

    def chance_of(self, rows: np.ndarray) -> np.ndarray:
        """Return chances, 0 where a row is PAD or came after the training."""
        return np.where(self.category_of(rows) != MISSING, self.chances[np.minimum(rows, len(self.chances) - 1)], 0)

    @cached_property
    def popular(self) -> sparse.csr_array:
        """[G, N] chances of the `kept` most popular items of each category"""
        order = np.lexsort((-self.chances, self.categories))
        first = np.searchsorted(self.categories[order], np.arange(self.num_categories))
        rank = np.arange(len(order)) - first[self.categories[order]]
        rows = order[(rank < self.kept) & (self.chances[order] > 0)]
        shape = (self.num_categories, len(self.categories))
        return sparse.csr_array((self.chances[rows], (self.categories[rows], rows)), shape=shape)

    def scores_for(self, queries: SourceQuery) -> CategoryScores:
        weights = self.decay ** np.arange(queries.history.shape[1])[::-1]
        keys = np.arange(len(queries))[:, None] * self.num_categories + self.category_of(queries.history)
        size = len(queries) * self.num_categories
        summed = np.bincount(keys.ravel(), np.broadcast_to(weights, keys.shape).ravel(), minlength=size)
        shares = summed.reshape(-1, self.num_categories)
        shares[:, MISSING] = 0
        best = np.zeros(self.num_categories)
        np.maximum.at(best, self.categories, self.chances)
        largest = np.maximum((shares * best).max(axis=1, keepdims=True), 1e-12)
        scaled = (shares / largest).astype(np.float32)
        return CategoryScores(shares=scaled, newest=queries.newest_events, fitted=self, hidden=queries.hidden)

    def to_documents(self) -> tuple[Document, Arrays]:
        document = {"kept": self.kept, "decay": self.decay}
        return document, {"categories": self.categories, "chances": self.chances}

    @classmethod
    def from_documents(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> Self:
        parts = {name: arrays[name] for name in ("categories", "chances")}
        return cls(kept=document["kept"], decay=document["decay"], **parts)


class FamiliarCategories:
    """Configuration of the search by category."""

    def __init__(self, *, num: int, weight: float, decays: Sequence[float], column: str | None, kept: int) -> None:
        """
        num: candidates of a query
        weight: of its scores in the merge, until validation chose another one
        decays: grid of the weight of an event relative to the next newer one, above 0 to 1
        column: of the items, a category; None takes the one with most values
        kept: items of a category that may be candidates, the most popular ones
        """
        self.num, self.weight, self.decays, self.column, self.kept = num, weight, tuple(decays), column, kept
        check_source("familiar_categories", num, self.weight, self.decays)
        check_ranges("candidates.familiar_categories", kept=(kept, 1, 100_000))

    def fit(self, interactions: TrainingInteractions) -> FittedCategories | None:
        """Count events by category; None where items have no category."""
        categories = _categories(interactions.spec.items, interactions.table, self.column)
        if categories is None:
            return None
        counts = np.bincount(interactions.items, minlength=len(categories)) * (categories != MISSING)
        totals = np.bincount(categories, counts)
        chances = (counts / np.maximum(totals, 1)[categories]).astype(np.float32)
        return FittedCategories(categories=categories, chances=chances, kept=self.kept, decay=self.decays[0])


def _categories(table: TableSpec, items: ItemTable, name: str | None) -> np.ndarray | None:
    """Return the ids [N] of a category column of the catalogue, None without one."""
    starts = np.cumsum([0, *(column.slots for column in table.of_part("ids"))])
    columns = {
        column.name: (column.num_ids, start)
        for column, start in zip(table.of_part("ids"), starts.tolist(), strict=False)
        if column.kind == "category" and column.name != IDENTITY
    }
    if name is not None and name not in columns:
        raise ConfigError(
            f"candidates.familiar_categories.column is {name!r}, no category column of the items; "
            f"{suggestion(name, columns)}"
        )
    if not columns:
        return None
    _, start = columns[name] if name is not None else max(columns.values(), key=lambda one: one[0])
    return items.encoded["ids"][: len(items), start].astype(np.int64)
