"""What a candidate source is: fitted on what is known, asked by a batch of users, it offers items and scores any item.

Shapes: B queries, H history, D dim, M events, N items, K offers, P pairs of a query and an item, E = RECENT events.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from recsys.candidates.operators import newest
from recsys.contracts import PAD
from recsys.errors import ConfigError, DataError, check_ranges
from recsys.features.encode import ItemTable
from recsys.features.spec import FeatureSpec
from recsys.index import Index

RECENT = 4
"""newest events of a history that are asked one by one what they say of an item"""
Document = dict[str, Any]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Known:
    """All that a source may be fitted on. DataError when nothing is."""

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
    """items may be recommended again to who interacted with them"""
    events_per_user: int = 2**62
    """what reads pairs of a user's events reads so many of the newest at most"""

    def __post_init__(self) -> None:
        if not len(self.users):
            raise DataError("no positive event lies in the training periods; wanted at least one to fit candidates on")

    @property
    def num_items(self) -> int:
        return len(self.table)

    @cached_property
    def capped(self) -> "Known":
        """Only the newest `events_per_user` of each user."""
        kept = newest(self.users, self.events_per_user)
        if kept.all():
            return self
        return replace(self, users=self.users[kept], items=self.items[kept], timestamps=self.timestamps[kept])


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What sources may know of B users."""

    vectors: np.ndarray
    """[B, D] float32, of the user tower"""
    history: np.ndarray
    """[B, H] catalogue rows of all that was met, newest last, PAD before"""
    hidden: np.ndarray | None = None
    """[N] bool, rows that nobody may be offered; None where all may"""

    def __len__(self) -> int:
        return len(self.history)

    @property
    def newest(self) -> np.ndarray:
        """[B, E] catalogue rows, the newest first, PAD after the last."""
        rows = np.full((len(self.history), RECENT), PAD, dtype=np.int64)
        newest = self.history[:, : -RECENT - 1 : -1]
        rows[:, : newest.shape[1]] = newest
        return rows


class Answer(Protocol):
    """The opinion of one source for B users."""

    def offer(self, k: int) -> np.ndarray:
        """[B, K] catalogue rows, best first, PAD where there is none; K <= k."""

    def only(self, queries: np.ndarray) -> "Answer":
        """That of some queries [B'], rising."""

    def score(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """[P] queries and [P] catalogue rows, any of them -> [P] float32, larger is better."""

    def recent(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """[P] queries and [P] catalogue rows -> [P, E] float32: what each of the newest events says, the newest first.

        0 where there is no such event, or where it says nothing.
        """


class Fitted(Protocol):
    """A source that can be asked."""

    kind: ClassVar[str]

    def answer(self, asked: Asked) -> Answer: ...

    def to_documents(self) -> tuple[Document, Arrays]:
        """What a bundle stores of it, beside the index."""

    @classmethod
    def from_documents(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> Self: ...


class Source(Protocol):
    """How to fit a source."""

    num: int
    """candidates it offers a query"""
    weights: tuple[float, ...]
    """of its scores in the merge, to choose from; the first holds until one is chosen"""
    decays: tuple[float, ...]
    """of the history, to choose from, as the weights are; empty where the source reads no history"""

    def fit(self, known: Known) -> Fitted | None:
        """None when the data have nothing that the source could read."""


def check_source(name: str, num: int, weights: tuple[float, ...], decays: tuple[float, ...] = ()) -> None:
    """ConfigError for what no source could do."""
    if not weights:
        raise ConfigError(f"candidates.{name}.weights is empty; give at least one weight")
    check_ranges(f"candidates.{name}", num=(num, 1, 1_000_000))
    for weight in weights:
        check_ranges(f"candidates.{name}", weights=(weight, 0.0, 1e6))
    for decay in decays:
        check_ranges(f"candidates.{name}", decays=(decay, 1e-6, 1.0))
