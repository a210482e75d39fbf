"""The interfaces of candidate sources: a configuration fits a source, the source scores a batch of users.

Shapes: B queries, H history, D dim, M events, N items, K candidates, P pairs of a query and an item, E = RECENT_EVENTS.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from recsys.candidates.operators import newest_events
from recsys.contracts import PAD
from recsys.errors import DataError, check_ranges
from recsys.features.encode import ItemTable
from recsys.features.spec import FeatureSpec
from recsys.index import Index
from recsys.tensors import Arrays

RECENT_EVENTS = 4
"""newest events of a history whose scores the ranker reads one by one"""
Document = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrainingInteractions:
    """Training data of the sources. DataError when there is no event."""

    users: np.ndarray
    """[M] int64 codes from 0 of the positive events, which stand in canonical order"""
    items: np.ndarray
    """[M] int64 catalogue rows"""
    timestamps: np.ndarray
    """[M] unix seconds UTC, NaN where there is no time"""
    table: ItemTable
    spec: FeatureSpec
    index: Index
    ordered: bool
    """events of a user stand in the order in which they happened; else they are a set"""
    repeats: bool = False
    """items may be recommended again to users who interacted with them"""
    events_per_user: int = 2**62
    """the newest events of a user, at most, for sources that read pairs of events"""

    def __post_init__(self) -> None:
        if not len(self.users):
            raise DataError("no positive event lies in the training periods; wanted at least one to fit candidates on")

    @property
    def num_items(self) -> int:
        return len(self.table)

    @property
    def contents(self) -> dict[str, Any]:
        """Return all but the index, whose vectors and kind stand for it."""
        return {name: value for name, value in vars(self).items() if name not in ("index", "capped")}

    @cached_property
    def capped(self) -> "TrainingInteractions":
        """The newest `events_per_user` events of each user."""
        kept = newest_events(self.users, self.events_per_user)
        if kept.all():
            return self
        return replace(self, users=self.users[kept], items=self.items[kept], timestamps=self.timestamps[kept])


@dataclass(frozen=True, kw_only=True)
class SourceQuery:
    """A batch of B users as the sources read it."""

    vectors: np.ndarray
    """[B, D] float32, of the user tower; a user with I interests has their vectors side by side, [B, I D]"""
    history: np.ndarray
    """[B, H] catalogue rows of the interaction history, newest last, PAD in front"""
    hidden: np.ndarray | None = None
    """[N] bool, rows that may not be recommended to anybody; None where all may"""

    def __len__(self) -> int:
        return len(self.history)

    @property
    def newest_events(self) -> np.ndarray:
        """[B, E] catalogue rows, the newest first, PAD after the last."""
        rows = np.full((len(self.history), RECENT_EVENTS), PAD, dtype=np.int64)
        newest = self.history[:, : -RECENT_EVENTS - 1 : -1]
        rows[:, : newest.shape[1]] = newest
        return rows


class SourceScores(Protocol):
    """Candidates and scores of one source for B users."""

    def top_k(self, k: int) -> np.ndarray:
        """[B, K] catalogue rows, best first, PAD where there is none; K <= k."""

    def select(self, queries: np.ndarray) -> "SourceScores":
        """Return the scores of a subset of the queries, ascending indices [B']."""

    def score(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """[P] queries and [P] catalogue rows, any of them -> [P] float32, larger is better."""

    def event_scores(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """[P] queries and [P] catalogue rows -> [P, E] float32: the score from each of the newest events alone, newest first.

        0 where there is no such event, or where the source has no score for it.
        """


class CandidateSource(ABC):
    """A fitted source. What it stores travels in the bundle; a pickle does not.

    Six members, of which the last three need a definition only where they apply.
    """

    kind: ClassVar[str]
    """name of the class in a bundle: its import path, unless the class says a shorter one"""
    decay: float | None = None
    """weight of an event of the history relative to the next newer one; None where the source reads no history"""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" not in cls.__dict__:
            cls.kind = f"{cls.__module__}:{cls.__qualname__}"

    @abstractmethod
    def scores_for(self, queries: SourceQuery) -> SourceScores:
        """Return the candidates and scores of a batch; those of a query do not depend on the others."""

    @abstractmethod
    def to_documents(self) -> tuple[Document, Arrays]:
        """Return the document and the arrays that a bundle stores of the source, beside the index."""

    @classmethod
    @abstractmethod
    def from_documents(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> Self:
        """Return the source that `to_documents` described."""

    def with_decay(self, decay: float) -> Self:
        """Return a copy with another decay; called only where `decay` is no None."""
        raise NotImplementedError

    def with_new_items(self, index: Index, newest: np.ndarray) -> Self:
        """Return a copy for an index to which rows were appended; `newest`: those that came since the training."""
        return self


class SourceConfig(Protocol):
    """Configuration of a source, which fits it."""

    num: int
    """candidates of a query"""
    weight: float
    """of its scores in the merge, until `tune` chose another one"""
    decays: tuple[float, ...]
    """grid of decays of the history; the first holds until `tune` chose one; empty where the source reads no history"""

    def fit(self, interactions: TrainingInteractions) -> CandidateSource | None:
        """Fit the source; None when the data have nothing that it could read."""


def check_source(name: str, num: int, weight: float, decays: tuple[float, ...] = ()) -> None:
    """Raise ConfigError for values out of range."""
    check_ranges(f"candidates.{name}", num=(num, 1, 1_000_000), weight=(weight, 0.0, 1e6))
    for decay in decays:
        check_ranges(f"candidates.{name}", decays=(decay, 1e-6, 1.0))
