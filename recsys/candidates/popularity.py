"""Non-personalised item lists: popular items and recent items.

Shapes: B queries, M events, N items, K candidates, P pairs of a query and an item.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from recsys.candidates.candidate_source import (
    RECENT_EVENTS,
    CandidateSource,
    Document,
    SourceQuery,
    TrainingInteractions,
    check_source,
)
from recsys.errors import ConfigError, check_ranges
from recsys.features.encode import DAY
from recsys.index import Index
from recsys.tensors import Arrays


@dataclass(frozen=True, kw_only=True)
class ItemListScores:
    """One list as the candidates of B queries."""

    rows: np.ndarray
    """[N'] int64, best first"""
    scores: np.ndarray
    """[R] float32 by catalogue row; rows beyond have 0"""
    num_queries: int

    def top_k(self, k: int) -> np.ndarray:
        return np.broadcast_to(self.rows[:k], (self.num_queries, len(self.rows[:k])))

    def select(self, queries: np.ndarray) -> "ItemListScores":
        return replace(self, num_queries=len(queries))

    def score(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        inside = row < len(self.scores)
        scores = np.zeros(len(row), dtype=np.float32)
        scores[inside] = self.scores[row[inside]]
        return scores

    def event_scores(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Zeros: a list does not depend on the history."""
        return np.zeros((len(row), RECENT_EVENTS), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class ItemList(CandidateSource):
    """The same candidates for all users."""

    rows: np.ndarray
    """[N'] int64, best first"""
    scores: np.ndarray
    """[N'] float32, relative to the score of the first, descending"""
    newest_of: int | None = None
    """maximal length of a list of recent items by first event, to which `with_new_items` adds; None for other lists"""
    kind: ClassVar[str] = "list"

    def scores_for(self, queries: SourceQuery) -> ItemListScores:
        rows = self.rows if queries.hidden is None else self.rows[~queries.hidden[self.rows]]
        return ItemListScores(rows=rows, scores=self._by_row, num_queries=len(queries))

    def with_new_items(self, index: Index, newest: np.ndarray) -> "ItemList":
        """Return a list of recent items with the rows `newest`, newest first, in front; any other list unchanged."""
        if self.newest_of is None or not len(newest):
            return self
        rows = np.concatenate([newest, self.rows])[: self.newest_of]
        later = np.maximum(self.scores - len(newest) / self.newest_of, 0)
        scores = np.concatenate([1 - np.arange(len(newest)) / self.newest_of, later])[: len(rows)]
        return replace(self, rows=rows, scores=scores.astype(np.float32))

    @cached_property
    def _by_row(self) -> np.ndarray:
        scores = np.zeros(self.rows.max(initial=-1) + 1, dtype=np.float32)
        scores[self.rows] = self.scores
        return scores

    def to_documents(self) -> tuple[Document, Arrays]:
        return {"newest_of": self.newest_of}, {"rows": self.rows, "scores": self.scores}

    @classmethod
    def from_documents(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> Self:
        return cls(rows=arrays["rows"], scores=arrays["scores"], newest_of=document.get("newest_of"))


class PopularItems:
    """The items with the most events in the last days of the training data; scores are relative to the first item's events."""

    def __init__(self, *, num: int, weight: float, days: float, kept: int) -> None:
        """
        num: candidates of a query
        weight: of its scores in the merge, until validation chose another one
        days: window before the end of the training data
        kept: length of the stored list, long enough to leave items when a user's seen ones are removed
        """
        self.num, self.weight, self.days, self.kept = num, weight, days, kept
        self.decays: tuple[float, ...] = ()
        check_source("popular", num, self.weight)
        check_ranges("candidates.popular", days=(days, 1e-6, 1e6))
        check_kept("popular", kept, num)

    def fit(self, interactions: TrainingInteractions) -> ItemList:
        """Count the events of the window; without timestamps all events."""
        age = np.nan_to_num(interactions.timestamps.max() - interactions.timestamps)
        counts = np.bincount(interactions.items[age < self.days * DAY], minlength=interactions.num_items)
        order = np.lexsort((np.arange(interactions.num_items), -counts))[: self.kept]
        order = order[counts[order] > 0]
        return ItemList(rows=order, scores=(counts[order] / counts.max()).astype(np.float32))


class RecentItems:
    """The newest items; scores fall linearly from 1 for the newest, items of the same time have the same score."""

    def __init__(self, *, num: int, weight: float, kept: int, column: str | None) -> None:
        """
        num: candidates of a query
        weight: of its scores in the merge, until validation chose another one
        kept: length of the stored list, long enough to leave items when a user's seen ones are removed
        column: number or timestamp of the items that rises with their date, which items without events have too; null
            takes the time of the first event
        """
        self.num, self.weight, self.kept, self.column = num, weight, kept, column
        self.decays: tuple[float, ...] = ()
        check_source("fresh", num, self.weight)
        check_kept("fresh", kept, num)

    def fit(self, interactions: TrainingInteractions) -> ItemList | None:
        """Sort items by date; None without a column and without timestamps."""
        dates = _first_event_times(interactions) if self.column is None else self._dates(interactions)
        if self.column is None and np.isnan(dates).all():
            return None
        dated = np.flatnonzero(~np.isnan(dates))
        order = dated[np.lexsort((dated, -dates[dated]))][: self.kept]
        num_newer = np.searchsorted(-dates[order], -dates[order])
        return ItemList(
            rows=order,
            scores=(1 - num_newer / self.kept).astype(np.float32),
            newest_of=self.kept if self.column is None else None,
        )

    def _dates(self, interactions: TrainingInteractions) -> np.ndarray:
        """[N] values of the column, NaN where the item has none."""
        names = [column.name for column in interactions.spec.items.of_kind("number")]
        if self.column not in names:
            raise ConfigError(
                f"candidates.fresh.column is {self.column!r}, which is no number of the items; "
                f"choose one of {names} or null for the first known event"
            )
        column = 2 * names.index(self.column)
        values, missing = interactions.table.encoded["numbers"][:-1, column : column + 2].T
        return np.where(missing > 0, np.nan, values)


def _first_event_times(interactions: TrainingInteractions) -> np.ndarray:
    """[N] unix seconds of each item's first event, NaN where there is none."""
    first = np.full(interactions.num_items, np.nan)
    np.fmin.at(first, interactions.items, interactions.timestamps)
    return first


def check_kept(name: str, kept: int, num: int) -> None:
    """Raise ConfigError for a list shorter than the candidates of a query."""
    check_ranges(f"candidates.{name}", kept=(kept, 1, 10_000_000))
    if kept < num:
        raise ConfigError(f"candidates.{name}.kept is {kept}, less than num {num}; store at least num items")
