"""Item-item operators as a source: which there are, how they are fitted, and pruned to an item's strongest neighbours.

Shapes: M events, N items.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from scipy import sparse

from recsys.candidates.contract import Known, check_source
from recsys.candidates.neighbours import ItemNeighbours
from recsys.candidates.operators import (
    LARGEST_DENSE,
    SUPPORT,
    autoencoder,
    blocks,
    cooccurrence,
    cosine,
    damped,
    dense_cost,
    near_gram,
    normalised,
    pruned,
    transitions,
)
from recsys.errors import ConfigError, check_ranges

GROUP = "candidates.item_item.operator"
CELLS = 2**24
"""of a dense operator, made sparse at a time"""


class Events(Protocol):
    """What operators read of `Known`."""

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


class Operator(Protocol):
    """How to fit [N, N], row: item of the history, column: item it speaks for."""

    def fit(self, known: Events, most: int) -> sparse.csr_array:
        """With the `most` strongest entries of a row."""


class Cosine:
    """Shrunken cosine of the users of two items."""

    def __init__(self, *, shrinkage: float) -> None:
        """shrinkage: added to the denominator, tames rare items"""
        check_ranges(GROUP, shrinkage=(shrinkage, 0.0, 1e9))
        self.shrinkage = shrinkage

    def fit(self, known: Events, most: int) -> sparse.csr_array:
        seen = _seen(known)
        popularity = _popularity(seen)
        parts = (cosine(cooccurrence(seen, rows), popularity, self.shrinkage, rows.start) for rows in blocks(seen))
        return sparse.csr_array(sparse.vstack([pruned(part, most) for part in parts]))


class CosineAndTransitions:
    """What is met together and what follows within a window, in one operator.

    S / mean(S) + weight T / mean(T), means over the entries that are not zero, where
    S[i, j] = |i and j| / (|i| |j|)^damping and T[i, j] sums 1 / distance over all pairs of events, i then j, at most
    `window` apart, divided by (sum of row i + 2) and by (popularity of j + 1)^power. Nothing follows in a set.
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

    def fit(self, known: Events, most: int) -> sparse.csr_array:
        seen = _seen(known)
        popularity, parts = _popularity(seen), blocks(seen)
        following = sparse.csr_array((known.num_items, known.num_items), dtype=np.float32)
        if known.ordered:
            counts = transitions(known.users, known.items, known.num_items, self.window)
            following = self.weight * _to_unit_mean(normalised(counts, popularity, SUPPORT, self.power))

        def together(rows: slice) -> sparse.csr_array:
            return damped(cooccurrence(seen, rows), popularity, self.damping, rows.start)

        mean = _mean(together, parts)
        return sparse.csr_array(
            sparse.vstack([pruned(together(rows) / mean + following[rows], most) for rows in parts])
        )


class Ease:
    """The linear autoencoder with zero diagonal (Steck 2019), for small catalogues, denoising and aware of sittings.

    What a user met within minutes is alike in more ways than what the same user met in other months, and a user of a
    thousand items says less of any two of them than a user of ten; see `near_gram`.
    """

    def __init__(
        self,
        *,
        regularisation: float,
        denoising: float,
        activity: float,
        nearness: float,
        half_life_minutes: float,
    ) -> None:
        """
        regularisation: added to the weight of every item
        denoising: p / (1 - p) where a share p of what a user met is dropped before it is to be restored (Steck,
            Autoencoders that don't overfit towards the identity, NeurIPS 2020); 0 drops nothing
        activity: users of n items count n^-activity
        nearness: what two items that were met together count beside 1, where there is a clock
        half_life_minutes: between two events, after which nearness is worth half
        """
        check_ranges(
            GROUP,
            regularisation=(regularisation, 1e-6, 1e9),
            denoising=(denoising, 0.0, 1e3),
            activity=(activity, 0.0, 2.0),
            nearness=(nearness, 0.0, 1e3),
            half_life_minutes=(half_life_minutes, 1e-3, 1e6),
        )
        self.regularisation, self.denoising, self.activity = regularisation, denoising, activity
        self.nearness, self.half_life = nearness, 60 * half_life_minutes

    def fit(self, known: Events, most: int) -> sparse.csr_array:
        """ConfigError when the catalogue is too large."""
        if known.num_items > LARGEST_DENSE:
            raise ConfigError(
                f"{GROUP} is Ease, which inverts a matrix of {known.num_items:,} items ({dense_cost(known.num_items)}), "
                f"wanted at most {LARGEST_DENSE:,}; choose Cosine or CosineAndTransitions"
            )
        clock = not np.isnan(known.timestamps).any()
        gram = near_gram(
            known.users,
            known.items,
            known.timestamps if clock else np.zeros(len(known.items)),
            known.num_items,
            activity=self.activity,
            nearness=self.nearness if clock else 0.0,
            half_life=self.half_life,
        )
        dense = autoencoder(gram, self.regularisation + self.denoising * gram.diagonal())
        step = max(1, CELLS // len(dense))
        parts = (sparse.csr_array(dense[start : start + step]) for start in range(0, len(dense), step))
        return sparse.csr_array(sparse.vstack([pruned(part, most) for part in parts]))


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
        return ItemNeighbours.of(self.operator.fit(known.capped, self.neighbours), self.decays[0])


def check_history_source(
    name: str, num: int, weights: tuple[float, ...], decays: tuple[float, ...], neighbours: int
) -> None:
    """ConfigError for what no source of neighbours could do."""
    check_source(name, num, weights, decays)
    if not decays:
        raise ConfigError(f"candidates.{name}.decays is empty; give at least one, 1 does not fade")
    check_ranges(f"candidates.{name}", neighbours=(neighbours, 1, 100_000))


def _seen(known: Events) -> sparse.csr_array:
    """[U, N] 1 where the user met the item, however often."""
    ones, shape = np.ones(len(known.users), np.float32), (known.users.max() + 1, known.num_items)
    seen = sparse.csr_array((ones, (known.users, known.items)), shape=shape)
    seen.data[:] = 1
    return seen


def _popularity(seen: sparse.csr_array) -> np.ndarray:
    """[N] users who met the item."""
    return np.bincount(seen.indices, minlength=seen.shape[1])


def _mean(part: Callable[[slice], sparse.csr_array], parts: Sequence[slice]) -> float:
    """Of all entries that are not zero, 1 where there is none."""
    sums, nums = zip(*((one.data.sum(dtype=np.float64), one.nnz) for one in map(part, parts)), strict=True)
    return float(sum(sums) / sum(nums)) if sum(nums) else 1.0


def _to_unit_mean(matrix: sparse.csr_array) -> sparse.csr_array:
    return matrix / matrix.data.mean(dtype=np.float64) if matrix.nnz else matrix
