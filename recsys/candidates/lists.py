"""Lists that are the same for everybody: the popular and the fresh.

Shapes: B queries, M events, N items, K offers, P pairs of a query and an item.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from recsys.candidates.contract import RECENT, Arrays, Asked, Document, Known, check_source
from recsys.errors import ConfigError, check_ranges
from recsys.index import Index

DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class ListAnswer:
    """One list for B queries."""

    rows: np.ndarray
    """[N'] int64, best first"""
    scores: np.ndarray
    """[R] float32 by catalogue row; rows beyond have 0"""
    num_queries: int

    def offer(self, k: int) -> np.ndarray:
        return np.broadcast_to(self.rows[:k], (self.num_queries, len(self.rows[:k])))

    def only(self, queries: np.ndarray) -> "ListAnswer":
        return replace(self, num_queries=len(queries))

    def score(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        inside = row < len(self.scores)
        scores = np.zeros(len(row), dtype=np.float32)
        scores[inside] = self.scores[row[inside]]
        return scores

    def recent(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """No event speaks for a list."""
        return np.zeros((len(row), RECENT), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class ItemList:
    """One list for everybody."""

    rows: np.ndarray
    """[N'] int64, best first"""
    scores: np.ndarray
    """[N'] float32, share of the first one's merit, falling"""
    newest_of: int | None = None
    """length of a list of the newest by their first event, which items that come later lead; None for another list"""
    kind: ClassVar[str] = "list"

    def answer(self, asked: Asked) -> ListAnswer:
        rows = self.rows if asked.hidden is None else self.rows[~asked.hidden[self.rows]]
        return ListAnswer(rows=rows, scores=self._by_row, num_queries=len(asked))

    def led_by(self, newest: np.ndarray) -> "ItemList":
        """A list of the newest with others before it, the newest of them first; any other list as it is."""
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


class Popular:
    """The items met most often in the newest days of what is known; the score is the share of the first one's events."""

    def __init__(self, *, num: int, weights: Sequence[float], days: float, kept: int) -> None:
        """
        num: candidates it offers a query
        weights: of its scores in the merge, to choose from
        days: window before the end of the training data
        kept: length of the stored list, long enough to outlast what a user has seen
        """
        self.num, self.weights, self.days, self.kept = num, tuple(weights), days, kept
        self.decays: tuple[float, ...] = ()
        check_source("popular", num, self.weights)
        check_ranges("candidates.popular", days=(days, 1e-6, 1e6))
        check_kept("popular", kept, num)

    def fit(self, known: Known) -> ItemList:
        """Without time every event counts."""
        age = np.nan_to_num(known.timestamps.max() - known.timestamps)
        counts = np.bincount(known.items[age < self.days * DAY], minlength=known.num_items)
        order = np.lexsort((np.arange(known.num_items), -counts))[: self.kept]
        order = order[counts[order] > 0]
        return ItemList(rows=order, scores=(counts[order] / counts.max()).astype(np.float32))


class Fresh:
    """The newest items; the score falls evenly from 1 for the newest, items of one moment have the same."""

    def __init__(self, *, num: int, weights: Sequence[float], kept: int, column: str | None) -> None:
        """
        num: candidates it offers a query
        weights: of its scores in the merge, to choose from
        kept: length of the stored list, long enough to outlast what a user has seen
        column: number or timestamp of the items that rises with their date, which items without events have too; null
            takes the first known event
        """
        self.num, self.weights, self.kept, self.column = num, tuple(weights), kept, column
        self.decays: tuple[float, ...] = ()
        check_source("fresh", num, self.weights)
        check_kept("fresh", kept, num)

    def fit(self, known: Known) -> ItemList | None:
        """None without a column and without time."""
        born = _first_events(known) if self.column is None else self._dates(known)
        if self.column is None and np.isnan(born).all():
            return None
        dated = np.flatnonzero(~np.isnan(born))
        order = dated[np.lexsort((dated, -born[dated]))][: self.kept]
        num_newer = np.searchsorted(-born[order], -born[order])
        return ItemList(
            rows=order,
            scores=(1 - num_newer / self.kept).astype(np.float32),
            newest_of=self.kept if self.column is None else None,
        )

    def _dates(self, known: Known) -> np.ndarray:
        """[N] NaN where the item has none."""
        names = [column.name for column in known.spec.items.of_kind("number")]
        if self.column not in names:
            raise ConfigError(
                f"candidates.fresh.column is {self.column!r}, which is no number of the items; "
                f"choose one of {names} or null for the first known event"
            )
        place = 2 * names.index(self.column)
        values, missing = known.table.encoded["numbers"][:-1, place : place + 2].T
        return np.where(missing > 0, np.nan, values)


def _first_events(known: Known) -> np.ndarray:
    """[N] unix seconds of each item's first known event, NaN where there is none."""
    first = np.full(known.num_items, np.nan)
    np.fmin.at(first, known.items, known.timestamps)
    return first


def check_kept(name: str, kept: int, num: int) -> None:
    """ConfigError for a list that cannot hold what it offers."""
    check_ranges(f"candidates.{name}", kept=(kept, 1, 10_000_000))
    if kept < num:
        raise ConfigError(f"candidates.{name}.kept is {kept}, less than num {num}; store at least num items")
