"""Item-item operators as a source: which there are, how they are fitted, and pruned to an item's strongest neighbours.

Shapes: M events, N items.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from scipy import sparse

from recsys.candidates.contract import Known, check_source
from recsys.candidates.neighbours import ItemNeighbours
from recsys.candidates.operators import (
    LARGEST_DENSE,
    SUPPORT,
    cooccurrence,
    cosine,
    damped,
    ease,
    normalised,
    pruned,
    transitions,
)
from recsys.errors import ConfigError, check_ranges

GROUP = "candidates.item_item.operator"


class Operator(Protocol):
    """How to fit [N, N], row: item of the history, column: item it speaks for."""

    def fit(self, users: np.ndarray, items: np.ndarray, num_items: int) -> sparse.csr_array:
        """Events: users [M] codes from 0, items [M] catalogue rows, in order within each user."""


class Cosine:
    """Shrunken cosine of the users of two items."""

    def __init__(self, *, shrinkage: float) -> None:
        """shrinkage: added to the denominator, tames rare items"""
        check_ranges(GROUP, shrinkage=(shrinkage, 0.0, 1e9))
        self.shrinkage = shrinkage

    def fit(self, users: np.ndarray, items: np.ndarray, num_items: int) -> sparse.csr_array:
        seen = _seen(users, items, num_items)
        return cosine(cooccurrence(seen), _popularity(seen), self.shrinkage)


class CosineAndTransitions:
    """What is met together and what follows within a window, in one operator.

    S / mean(S) + weight T / mean(T), means over the entries that are not zero, where
    S[i, j] = |i and j| / (|i| |j|)^damping and T[i, j] sums 1 / distance over all pairs of events, i then j, at most
    `window` apart, divided by (sum of row i + 2) and by (popularity of j + 1)^power.
    """

    def __init__(self, *, damping: float, window: int, power: float, weight: float) -> None:
        """
        damping: 0 counts what is met together, 0.5 is the cosine
        window: events
        power: takes weight from popular items that follow; below 0 gives it to them
        weight: of the transitions
        """
        check_ranges(
            GROUP,
            damping=(damping, 0.0, 1.0),
            window=(window, 1, 1_000),
            power=(power, -1.0, 1.0),
            weight=(weight, 0.0, 1e6),
        )
        self.damping, self.window, self.power, self.weight = damping, window, power, weight

    def fit(self, users: np.ndarray, items: np.ndarray, num_items: int) -> sparse.csr_array:
        seen = _seen(users, items, num_items)
        popularity = _popularity(seen)
        together = damped(cooccurrence(seen), popularity, self.damping)
        following = normalised(transitions(users, items, num_items, self.window), popularity, SUPPORT, self.power)
        return _to_unit_mean(together) + self.weight * _to_unit_mean(following)


class Ease:
    """The linear autoencoder with zero diagonal, in closed form (Steck 2019), for small catalogues."""

    def __init__(self, *, regularisation: float) -> None:
        """regularisation: added to the popularity of every item"""
        check_ranges(GROUP, regularisation=(regularisation, 1e-6, 1e9))
        self.regularisation = regularisation

    def fit(self, users: np.ndarray, items: np.ndarray, num_items: int) -> sparse.csr_array:
        """ConfigError when the catalogue is too large."""
        if num_items > LARGEST_DENSE:
            raise ConfigError(
                f"{GROUP} is Ease, which inverts a matrix of {num_items:,} items, wanted at most {LARGEST_DENSE:,}; "
                "choose Cosine or CosineAndTransitions"
            )
        seen = _seen(users, items, num_items)
        return sparse.csr_array(ease(cooccurrence(seen), _popularity(seen), self.regularisation))


class ItemItem:
    """How to fit the neighbours of items from what users met."""

    def __init__(
        self, *, num: int, weights: Sequence[float], decays: Sequence[float], neighbours: int, operator: Operator
    ) -> None:
        """
        num: candidates it offers a query
        weights: of its scores in the merge, to choose from
        decays: weight of an event relative to the next newer one, above 0 to 1, to choose from
        neighbours: kept an item
        operator: Cosine, CosineAndTransitions or Ease
        """
        self.num, self.weights, self.decays = num, tuple(weights), tuple(decays)
        self.neighbours, self.operator = neighbours, operator
        check_history_source("item_item", self.num, self.weights, self.decays, neighbours)

    def fit(self, known: Known) -> ItemNeighbours:
        matrix = self.operator.fit(known.users, known.items, known.num_items)
        return ItemNeighbours.of(pruned(matrix, self.neighbours), self.decays[0])


def check_history_source(
    name: str, num: int, weights: tuple[float, ...], decays: tuple[float, ...], neighbours: int
) -> None:
    """ConfigError for what no source of neighbours could do."""
    check_source(name, num, weights, decays)
    if not decays:
        raise ConfigError(f"candidates.{name}.decays is empty; give at least one, 1 does not fade")
    check_ranges(f"candidates.{name}", neighbours=(neighbours, 1, 100_000))


def _seen(users: np.ndarray, items: np.ndarray, num_items: int) -> sparse.csr_array:
    """[U, N] 1 where the user met the item, however often."""
    seen = sparse.csr_array((np.ones(len(users), np.float32), (users, items)), shape=(users.max() + 1, num_items))
    seen.data[:] = 1
    return seen


def _popularity(seen: sparse.csr_array) -> np.ndarray:
    """[N] users who met the item."""
    return np.bincount(seen.indices, minlength=seen.shape[1])


def _to_unit_mean(matrix: sparse.csr_array) -> sparse.csr_array:
    return matrix / matrix.data.mean(dtype=np.float64) if matrix.nnz else matrix
