"""Inputs of baselines: the events they are fitted on, and the histories of queried users.

Shapes: U users, N items of the catalogue, M events, B queried users.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy import sparse

from recsys.candidates.operators import cooccurrence, newest_events, transitions
from recsys.data.description import Order
from recsys.errors import DataError
from recsys.replay.replay import Replay

UNLIMITED = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class Histories:
    """Item histories of B users, oldest first, repeated items included. ValueError when malformed."""

    indptr: np.ndarray
    """[B + 1] int64, the history of user b is items[indptr[b]:indptr[b + 1]]"""
    items: np.ndarray
    """[M] int64, catalogue rows"""

    def __post_init__(self) -> None:
        if not len(self.indptr) or self.indptr[0] != 0 or self.indptr[-1] != len(self.items):
            raise ValueError(f"indptr must run from 0 to {len(self.items)}, the number of events")
        if len(self.items) and self.items.min() < 0:
            raise ValueError("histories hold a negative item; catalogue rows start at 0")

    @staticmethod
    def of(lists: Sequence[Sequence[int]]) -> "Histories":
        """Build from one sequence of catalogue rows per user, oldest first."""
        indptr = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        return Histories(indptr=indptr, items=np.array([item for row in lists for item in row], dtype=np.int64))

    @staticmethod
    def grouped(users: np.ndarray, items: np.ndarray, num_users: int) -> "Histories":
        """Build for users 0 to num_users - 1 from events [M] that are ordered within each user."""
        order = np.argsort(users, kind="stable")
        return Histories(indptr=np.searchsorted(users[order], np.arange(num_users + 1)), items=items[order])

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @property
    def lengths(self) -> np.ndarray:
        """[B] int64."""
        return np.diff(self.indptr)

    @property
    def users(self) -> np.ndarray:
        """Return [M] int64, the user row of each event."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def batch(self, rows: slice | np.ndarray) -> "Histories":
        """Return the histories of some users, in the order of `rows`."""
        chosen = np.arange(len(self))[rows]
        lengths = self.lengths[chosen]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        positions = np.arange(indptr[-1]) + np.repeat(self.indptr[chosen] - indptr[:-1], lengths)
        return Histories(indptr=indptr, items=self.items[positions])

    def matrix(self, num_items: int, decay: float = 1.0) -> sparse.csr_array:
        """Return [B, N] float32: decay^age of the newest event on the item; age is the number of later events."""
        if len(self.items) and self.items.max() >= num_items:
            raise ValueError(f"a history holds catalogue row {self.items.max()}, the catalogue has {num_items} items")
        users = self.users
        ages = self.indptr[1:][users] - 1 - np.arange(len(users))
        pairs, newest = np.unique((users * num_items + self.items)[::-1], return_index=True)
        weights = np.power(decay, ages[::-1][newest]).astype(np.float32)
        indptr = np.searchsorted(pairs, num_items * np.arange(len(self) + 1))
        return sparse.csr_array((weights, pairs % num_items, indptr), shape=(len(self), num_items))


class Scorer(Protocol):
    """A fitted baseline."""

    def scores(self, histories: Histories) -> np.ndarray:
        """[B, N] float32, larger is better."""


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """Positive events to fit on. DataError when there are none, ValueError when malformed."""

    users: np.ndarray
    """[M] int64, 0 <= user < num_users; events are ordered within each user"""
    items: np.ndarray
    """[M] int64, 0 <= item < num_items"""
    timestamps: np.ndarray
    """[M] float64, unix seconds, UTC, where `order` is time"""
    num_users: int
    num_items: int
    order: Order
    """order of the events, from the data description"""
    events_per_user: int = UNLIMITED
    """the newest, at most, of which pairs are counted"""

    def __post_init__(self) -> None:
        if not len(self.users) == len(self.items) == len(self.timestamps):
            raise ValueError("users, items and timestamps differ in length; give one of each an event")
        if not len(self.users):
            raise DataError(
                "the periods to fit on have no positive events; wanted at least one to fit a baseline, widen them"
            )
        for name, rows, limit in (("users", self.users, self.num_users), ("items", self.items, self.num_items)):
            if rows.min() < 0 or rows.max() >= limit:
                raise ValueError(f"{name} run from {rows.min()} to {rows.max()}, wanted 0 to {limit - 1}")

    @staticmethod
    def of(replay: Replay, known: np.ndarray, events_per_user: int = UNLIMITED) -> "Interactions":
        """Return the positives among the rows `known` [R] bool."""
        rows = replay.grouped[(known & replay.positives)[replay.grouped]]
        return Interactions(
            users=replay.users[rows],
            items=replay.items[rows],
            timestamps=replay.timestamps[rows],
            num_users=len(replay.names),
            num_items=len(replay.rows_of_items),
            order=replay.dataset.description.order,
            events_per_user=events_per_user,
        )

    @cached_property
    def capped(self) -> "Interactions":
        """Only the newest `events_per_user` of each user: what may count pairs of a user's events."""
        kept = newest_events(self.users, self.events_per_user)
        if kept.all():
            return self
        return replace(self, users=self.users[kept], items=self.items[kept], timestamps=self.timestamps[kept])

    def transitions(self, window: int) -> sparse.csr_array:
        """[N, N] float32, as `operators.transitions`; counted once a window, for many points of a grid share it."""
        if window not in self._transitions:
            self._transitions[window] = transitions(self.users, self.items, self.num_items, window)
        return self._transitions[window]

    @cached_property
    def _transitions(self) -> dict[int, sparse.csr_array]:
        return {}

    @cached_property
    def histories(self) -> Histories:
        """Return the histories of all users, empty for users without known events."""
        return Histories.grouped(self.users, self.items, self.num_users)

    @cached_property
    def matrix(self) -> sparse.csr_array:
        """Return [U, N] float32, 1 where the user interacted with the item."""
        return self.histories.matrix(self.num_items)

    @cached_property
    def popularity(self) -> np.ndarray:
        """Return [N] int64, number of users of each item."""
        return np.bincount(self.matrix.indices, minlength=self.num_items)

    @cached_property
    def together(self) -> sparse.csr_array:
        """Return [N, N] float32, number of common users of two items; empty diagonal."""
        return cooccurrence(self.matrix)
