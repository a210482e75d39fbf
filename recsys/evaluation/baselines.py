"""What every model has to beat: popularity and linear item-item models, each fitted in seconds.

Shapes: U users, N items of the catalogue, M training events, B users to score.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import linalg, sparse

from recsys.candidates.linear import cosine
from recsys.errors import ConfigError, DataError

SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Interactions:
    """The positive events of the training period. DataError when there are none, ValueError when malformed."""

    users: np.ndarray
    """[M] int64, 0 <= user < num_users"""
    items: np.ndarray
    """[M] int64, 0 <= item < num_items"""
    timestamps: np.ndarray
    """[M] float64, unix seconds, UTC"""
    num_users: int
    num_items: int

    def __post_init__(self) -> None:
        if not len(self.users) == len(self.items) == len(self.timestamps):
            raise ValueError("users, items and timestamps differ in length; give one of each an event")
        if not len(self.users):
            raise DataError(
                "the training period has no positive events; wanted at least one to fit a baseline, widen it"
            )
        for name, rows, limit in (("users", self.users, self.num_users), ("items", self.items, self.num_items)):
            if rows.min() < 0 or rows.max() >= limit:
                raise ValueError(f"{name} run from {rows.min()} to {rows.max()}, wanted 0 to {limit - 1}")

    def matrix(self) -> sparse.csr_array:
        """[U, N] float32, 1 where the user met the item, however often."""
        ones = np.ones(len(self.users), dtype=np.float32)
        matrix = sparse.csr_array((ones, (self.users, self.items)), shape=(self.num_users, self.num_items))
        matrix.data[:] = 1
        return matrix


class Scorer(Protocol):
    """A fitted baseline."""

    def scores(self, history: sparse.csr_array) -> np.ndarray:
        """[B, N] float32, larger is better, from history [B, N] (the weight of every item met; usually 1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PopularityScorer:
    """The same scores for everybody, histories do not matter."""

    counts: np.ndarray
    """[N] events of every item"""

    def scores(self, history: sparse.csr_array) -> np.ndarray:
        if history.shape[1] != len(self.counts):
            raise ValueError(f"the history has {history.shape[1]} items, the baseline was fitted on {len(self.counts)}")
        return np.tile(self.counts.astype(np.float32), (history.shape[0], 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScorer:
    """history @ operator. A user without history gets zeros only: the model knows nothing of them, and ties lose."""

    operator: np.ndarray | sparse.csr_array
    """[N, N], row: item of the history, column: item it speaks for"""

    def scores(self, history: sparse.csr_array) -> np.ndarray:
        product: Any = history @ self.operator
        return np.asarray(product.toarray() if sparse.issparse(product) else product, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Popularity:
    """Number of events of an item in the training data."""

    def fit(self, interactions: Interactions) -> PopularityScorer:
        return PopularityScorer(counts=np.bincount(interactions.items, minlength=interactions.num_items))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentPopularity:
    """Number of events of an item within the last days of the training data (both ends included)."""

    days: float
    """above 0, counted back from the newest event"""

    def __post_init__(self) -> None:
        _require("days", self.days, lambda days: days > 0, "a number above 0")

    def fit(self, interactions: Interactions) -> PopularityScorer:
        """DataError when an event has no timestamp."""
        if not np.isfinite(interactions.timestamps).all():
            raise DataError("an event has no timestamp, recent popularity needs one for each; leave this baseline out")
        start = interactions.timestamps.max() - self.days * SECONDS_PER_DAY
        recent = interactions.items[interactions.timestamps >= start]
        return PopularityScorer(counts=np.bincount(recent, minlength=interactions.num_items))


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemKNN:
    """Cosine between the sets of users of two items, |A and B| / (sqrt(|A| |B|) + shrinkage), nearest rows only.

    No item is its own neighbour. A user without history gets zeros only. Sarwar et al., Item-based collaborative
    filtering, WWW 2001; shrinkage as in Ferrari Dacrema et al., Are we really making much progress, RecSys 2019.
    """

    neighbours: int
    """kept for each item, and all that tie with the last one, so that the order of the catalogue cannot matter"""
    shrinkage: float
    """at least 0; takes weight from pairs with little support"""

    def __post_init__(self) -> None:
        _require(
            "neighbours",
            self.neighbours,
            lambda count: isinstance(count, int) and count >= 1,
            "a whole number of at least 1",
        )
        _require("shrinkage", self.shrinkage, lambda value: value >= 0, "a number of at least 0")

    def fit(self, interactions: Interactions) -> LinearScorer:
        row, column, similarity = cosine(interactions.matrix(), self.shrinkage)
        keep = _nearest(row, similarity, self.neighbours, interactions.num_items)
        entries = (similarity[keep].astype(np.float32), (row[keep], column[keep]))
        shape = (interactions.num_items, interactions.num_items)
        return LinearScorer(operator=sparse.csr_array(entries, shape=shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class EASE:
    """The linear autoencoder with zero diagonal, in closed form; dense, N^3 time and about 24 N^2 bytes.

    Minimises |X - XB|^2 + regularisation |B|^2 with diag(B) = 0: with P = (X'X + regularisation I)^-1,
    B[i, j] = -P[i, j] / P[j, j]. A user without history gets zeros only.
    Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019.
    """

    regularisation: float
    """above 0"""

    def __post_init__(self) -> None:
        _require("regularisation", self.regularisation, lambda value: value > 0, "a number above 0")

    def fit(self, interactions: Interactions) -> LinearScorer:
        matrix = interactions.matrix().astype(np.float64)
        gram = (matrix.T @ matrix).toarray()
        np.fill_diagonal(gram, gram.diagonal() + self.regularisation)
        precision = linalg.inv(gram, overwrite_a=True, assume_a="pos")
        weights = precision / -precision.diagonal()
        np.fill_diagonal(weights, 0.0)
        return LinearScorer(operator=weights.astype(np.float32))


def _nearest(row: np.ndarray, similarity: np.ndarray, neighbours: int, num_rows: int) -> np.ndarray:
    """[entries] bool: the entry is among the largest of its row, or equal to the last of them."""
    order = np.lexsort((-similarity, row))
    sorted_rows = row[order]
    starts = np.searchsorted(sorted_rows, np.arange(num_rows))
    last = order[np.arange(len(order)) - starts[sorted_rows] == neighbours - 1]
    threshold = np.zeros(num_rows)
    threshold[row[last]] = similarity[last]
    return similarity >= threshold[row]


def _require(key: str, value: Any, accepts: Callable[[float], bool], wanted: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not accepts(value):
        raise ConfigError(f"{key} is {value!r}, wanted {wanted}; correct {key} in the configuration of the baseline")
