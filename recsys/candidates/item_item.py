"""Item-item operators as a source, pruned to the strongest neighbours of each item.

Shapes: M events, N items.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from scipy import sparse

from recsys.candidates.candidate_source import TrainingInteractions, check_source
from recsys.candidates.neighbours import ItemNeighbours
from recsys.candidates.operators import (
    LARGEST_DENSE,
    TRANSITION_SUPPORT,
    TooManyItemsError,
    autoencoder,
    cooccurrence,
    cosine,
    damped_cooccurrence,
    dense_cost,
    normalised_transitions,
    row_blocks,
    strongest_per_row,
    time_weighted_gram,
    transitions,
)
from recsys.errors import ConfigError, check_ranges

OPERATOR_KEY = "candidates.item_item.operator"
DENSE_CELLS = 2**24
"""entries of a dense operator that become sparse at a time"""


class InteractionLog(Protocol):
    """Fields of `TrainingInteractions` that operators read."""

    @property
    def users(self) -> np.ndarray: ...

    @property
    def items(self) -> np.ndarray: ...

    @property
    def timestamps(self) -> np.ndarray: ...

    @property
    def num_items(self) -> int: ...

    @property
    def ordered(self) -> bool: ...


class ItemItemOperator(Protocol):
    """Configuration of a matrix [N, N], row: item of the history, column: its neighbour."""

    def fit(self, interactions: InteractionLog, limit: int) -> sparse.csr_array | None:
        """Fit the matrix and keep the `limit` strongest entries of a row; None where it reads what the log lacks."""


class Cosine:
    """Shrunken cosine of the users of two items."""

    def __init__(self, *, shrinkage: float) -> None:
        """shrinkage: added to the denominator, tames rare items"""
        check_ranges(OPERATOR_KEY, shrinkage=(shrinkage, 0.0, 1e9))
        self.shrinkage = shrinkage

    def fit(self, interactions: InteractionLog, limit: int) -> sparse.csr_array:
        user_items = _user_item_matrix(interactions)
        user_counts = _user_counts(user_items)
        parts = (
            cosine(cooccurrence(user_items, rows), user_counts, self.shrinkage, rows.start)
            for rows in row_blocks(user_items)
        )
        return sparse.csr_array(sparse.vstack([strongest_per_row(part, limit) for part in parts]))


class Cooccurrence:
    """Damped number of common users of two items, |i and j| / (|i| |j|)^damping."""

    def __init__(self, *, damping: float) -> None:
        """damping: 0 counts common users, 0.5 is the cosine"""
        check_ranges(OPERATOR_KEY, damping=(damping, 0.0, 1.0))
        self.damping = damping

    def fit(self, interactions: InteractionLog, limit: int) -> sparse.csr_array:
        user_items = _user_item_matrix(interactions)
        user_counts = _user_counts(user_items)
        parts = (
            damped_cooccurrence(cooccurrence(user_items, rows), user_counts, self.damping, rows.start)
            for rows in row_blocks(user_items)
        )
        return sparse.csr_array(sparse.vstack([strongest_per_row(part, limit) for part in parts]))


class Transitions:
    """Transitions within a window: T[i, j] sums 1 / distance over all pairs of events, i then j, at most `window` apart,
    divided by (sum of row i + 2) and by (users of j + 1)^power.
    """

    def __init__(self, *, window: int, power: float) -> None:
        """
        window: events
        power: takes weight from transitions to popular items; below 0 gives it to them
        """
        check_ranges(OPERATOR_KEY, window=(window, 1, 1_000), power=(power, -1.0, 1.0))
        self.window, self.power = window, power

    def fit(self, interactions: InteractionLog, limit: int) -> sparse.csr_array | None:
        """None where histories are sets, in which nothing follows."""
        if not interactions.ordered:
            return None
        counts = transitions(interactions.users, interactions.items, interactions.num_items, self.window)
        user_counts = _user_counts(_user_item_matrix(interactions))
        return strongest_per_row(normalised_transitions(counts, user_counts, TRANSITION_SUPPORT, self.power), limit)


class Ease:
    """The linear autoencoder with zero diagonal (EASE, Steck 2019), denoising and time-aware, for small catalogues.

    Two items of a user count more the closer in time the interactions were, and those of a user of a thousand items
    count less than those of a user of ten; see `time_weighted_gram`.
    """

    def __init__(
        self,
        *,
        regularisation: float,
        denoising: float,
        activity: float,
        nearness: float,
        half_life_minutes: float,
        most_items: int,
    ) -> None:
        """
        regularisation: added to the weight of every item
        denoising: p / (1 - p) for input dropout with probability p (Steck, Autoencoders that don't overfit towards the
            identity, NeurIPS 2020); 0 drops nothing
        activity: users of n items count n^-activity
        nearness: weight, added to 1, of two items of a user at the same time; needs timestamps
        half_life_minutes: time between two events that halves nearness
        most_items: of a larger catalogue the operator is not fitted
        """
        check_ranges(
            OPERATOR_KEY,
            regularisation=(regularisation, 1e-6, 1e9),
            denoising=(denoising, 0.0, 1e3),
            activity=(activity, 0.0, 2.0),
            nearness=(nearness, 0.0, 1e3),
            half_life_minutes=(half_life_minutes, 1e-3, 1e6),
            most_items=(most_items, 1, LARGEST_DENSE),
        )
        self.regularisation, self.denoising, self.activity = regularisation, denoising, activity
        self.nearness, self.half_life, self.most_items = nearness, 60 * half_life_minutes, most_items

    def fit(self, interactions: InteractionLog, limit: int) -> sparse.csr_array:
        """Fit in closed form; ConfigError when the catalogue is too large."""
        num_items = interactions.num_items
        if num_items > self.most_items:
            raise TooManyItemsError(
                f"{OPERATOR_KEY} is Ease, which inverts a matrix of {num_items:,} items ({dense_cost(num_items)}), "
                f"wanted at most {self.most_items:,}; choose Cosine or Cooccurrence"
            )
        timed = not np.isnan(interactions.timestamps).any()
        gram = time_weighted_gram(
            interactions.users,
            interactions.items,
            interactions.timestamps if timed else np.zeros(len(interactions.items)),
            num_items,
            activity=self.activity,
            nearness=self.nearness if timed else 0.0,
            half_life=self.half_life,
        )
        dense = autoencoder(gram, self.regularisation + self.denoising * gram.diagonal())
        step = max(1, DENSE_CELLS // len(dense))
        parts = (sparse.csr_array(dense[start : start + step]) for start in range(0, len(dense), step))
        return sparse.csr_array(sparse.vstack([strongest_per_row(part, limit) for part in parts]))


class ItemItem:
    """Configuration of item-to-item neighbours from interactions."""

    def __init__(
        self,
        *,
        num: int,
        weight: float,
        decays: Sequence[float],
        neighbours: int,
        operator: ItemItemOperator,
    ) -> None:
        """
        num: candidates of a query
        weight: of its scores in the merge, until validation chose another one
        decays: grid of the weight of an event relative to the next newer one, above 0 to 1
        neighbours: kept an item
        operator: Cooccurrence, Transitions, Cosine or Ease
        """
        self.num, self.weight, self.decays = num, weight, tuple(decays)
        self.neighbours, self.operator = neighbours, operator
        check_history_source("item_item", self.num, self.weight, self.decays, neighbours)

    def fit(self, interactions: TrainingInteractions) -> ItemNeighbours | None:
        matrix = self.operator.fit(interactions.capped, self.neighbours)
        return None if matrix is None else ItemNeighbours.of(matrix, self.decays[0])


def check_history_source(name: str, num: int, weight: float, decays: tuple[float, ...], neighbours: int) -> None:
    """Raise ConfigError for values out of range."""
    check_source(name, num, weight, decays)
    if not decays:
        raise ConfigError(f"candidates.{name}.decays is empty; give at least one, 1 does not fade")
    check_ranges(f"candidates.{name}", neighbours=(neighbours, 1, 100_000))


def _user_item_matrix(interactions: InteractionLog) -> sparse.csr_array:
    """[U, N] 1 where the user interacted with the item, however often."""
    ones, shape = np.ones(len(interactions.users), np.float32), (interactions.users.max() + 1, interactions.num_items)
    user_items = sparse.csr_array((ones, (interactions.users, interactions.items)), shape=shape)
    user_items.data[:] = 1
    return user_items


def _user_counts(user_items: sparse.csr_array) -> np.ndarray:
    """[N] users of each item."""
    return np.bincount(user_items.indices, minlength=user_items.shape[1])
