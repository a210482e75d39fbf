"""Linear item-item baselines: neighbours, transitions, their mix, and EASE.

A user without history gets zero scores from all of them.
Shapes: N items of the catalogue, B queried users.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from recsys.candidates.operators import (
    LARGEST_DENSE,
    TRANSITION_SUPPORT,
    cosine,
    damped_cooccurrence,
    dense_cost,
    ease,
    most_pairs,
    normalised_transitions,
)
from recsys.errors import check_ranges
from recsys.evaluation.baselines import NotApplicableError
from recsys.replay.interactions import Histories, Interactions

MOST_PAIRS = 100_000_000
"""limit of item pairs of a baseline, which keeps all of them in memory"""
PAIR_BYTES = 48
"""memory of a pair with the copies that a fit makes"""
TIE_BREAK = 1e-7
"""weight of popularity below all other evidence"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearScorer:
    """history @ operator: zeros for a user without history, and ties lose."""

    operator: np.ndarray | sparse.csr_array
    """[N, N] float32, row: item of the history, column: scored item"""

    def scores(self, histories: Histories) -> np.ndarray:
        return _product(histories.matrix(self.operator.shape[0]), self.operator)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixScorer:
    """h S / max + weight h T / max, maxima per user, h decaying with the age of an event; ties by popularity."""

    similarity: sparse.csr_array | None
    """S [N, N]; None leaves the first term out"""
    following: sparse.csr_array
    """T [N, N]"""
    popularity: np.ndarray
    """[N]"""
    weight: float
    decay: float

    def scores(self, histories: Histories) -> np.ndarray:
        history = histories.matrix(len(self.popularity), self.decay)
        scores = self.weight * _to_unit_maximum(_product(history, self.following))
        if self.similarity is not None:
            scores += _to_unit_maximum(_product(history, self.similarity))
        return scores + np.float32(TIE_BREAK) * self.popularity.astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemKNN:
    """Shrunken cosine between the sets of users of two items, nearest neighbours only.

    Sarwar et al., Item-based collaborative filtering, WWW 2001; shrinkage as in Ferrari Dacrema et al., Are we really
    making much progress, RecSys 2019.
    """

    neighbours: int
    """kept for each item, and all that tie with the last one, so that the order of the catalogue cannot matter"""
    shrinkage: float
    """takes weight from pairs with little support"""

    def __post_init__(self) -> None:
        check_ranges("item-kNN", neighbours=(self.neighbours, 1, 1_000_000), shrinkage=(self.shrinkage, 0.0, 1e9))

    def fit(self, interactions: Interactions) -> LinearScorer:
        known = _counted(interactions)
        similar = cosine(known.together, known.popularity, self.shrinkage)
        return LinearScorer(operator=_nearest(similar, self.neighbours))


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowTransitions:
    """Transitions to items that follow within a window of events, from a decayed history; popularity breaks ties.

    The transition half of `Mix`; a first-order Markov chain (Rendle et al., Factorizing personalized Markov chains,
    WWW 2010) with a window instead of a step.
    """

    window: int
    """events"""
    power: float
    """takes weight from popular items that follow: their column is divided by (popularity + 1)^power"""
    decay: float
    """weight of an event relative to the next newer one"""

    def __post_init__(self) -> None:
        check_ranges("window transitions", **_ranges(self))

    def fit(self, interactions: Interactions) -> MixScorer:
        """LeftOut when histories are sets."""
        return _mix(interactions, None, window=self.window, power=self.power, decay=self.decay, weight=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Sum of co-occurrence and transitions, from a decayed history.

    score = h S / max + weight h T / max + 1e-7 popularity, each maximum that of the user over all items, where
    S[i, j] = |i and j| / (|i| |j|)^damping; T[i, j] sums 1 / distance over all pairs of events, i then j, at most `window`
    apart, divided by (sum of row i + 2) and by (popularity of j + 1)^power; h = decay^age, age 0 for the newest event.
    """

    damping: float
    """0 is the co-occurrence count, 0.5 the cosine"""
    window: int
    """events"""
    power: float
    """takes weight from popular items that follow"""
    decay: float
    """weight of an event relative to the next newer one"""
    weight: float
    """of the transitions"""

    def __post_init__(self) -> None:
        check_ranges("mix", damping=(self.damping, 0.0, 1.0), weight=(self.weight, 0.0, 1e6), **_ranges(self))

    def fit(self, interactions: Interactions) -> MixScorer:
        """LeftOut when histories are sets."""
        return _mix(
            interactions, self.damping, window=self.window, power=self.power, decay=self.decay, weight=self.weight
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EASE:
    """The linear autoencoder with zero diagonal, Steck 2019."""

    regularisation: float
    most_items: int

    def __post_init__(self) -> None:
        check_ranges(
            "EASE", regularisation=(self.regularisation, 1e-6, 1e9), most_items=(self.most_items, 1, LARGEST_DENSE)
        )

    def fit(self, interactions: Interactions) -> LinearScorer:
        """LeftOut when the catalogue is too large."""
        num_items = interactions.num_items
        if num_items > self.most_items:
            raise NotApplicableError(
                f"{num_items:,} items are too many to invert ({dense_cost(num_items)}), wanted at most {self.most_items:,}"
            )
        known = _counted(interactions)
        return LinearScorer(operator=ease(known.together, known.popularity, self.regularisation))


def _mix(
    interactions: Interactions, damping: float | None, *, window: int, power: float, decay: float, weight: float
) -> MixScorer:
    if interactions.order == "none":
        raise NotApplicableError("histories are sets, nothing says what followed")
    known = interactions.capped if damping is None else _counted(interactions)
    popularity = known.popularity
    counts = known.transitions(window)
    return MixScorer(
        similarity=None if damping is None else damped_cooccurrence(known.together, popularity, damping),
        following=normalised_transitions(counts, popularity, TRANSITION_SUPPORT, power),
        popularity=interactions.popularity,
        weight=weight,
        decay=decay,
    )


def _counted(interactions: Interactions) -> Interactions:
    """Return the events whose pairs are counted; NotApplicableError where there may be more than MOST_PAIRS."""
    known = interactions.capped
    if (pairs := int(most_pairs(known.matrix).sum())) > MOST_PAIRS:
        raise NotApplicableError(
            f"up to {pairs:,} pairs of items have common users ({PAIR_BYTES * pairs / 2**30:,.1f} GiB), wanted at most "
            f"{MOST_PAIRS:,}; a smaller candidates.events_per_user has fewer"
        )
    return known


def _ranges(baseline: WindowTransitions | Mix) -> dict[str, tuple[float, float, float]]:
    return {
        "window": (baseline.window, 1, 1_000),
        "power": (baseline.power, 0.0, 1.0),
        "decay": (baseline.decay, 1e-6, 1.0),
    }


def _product(history: sparse.csr_array, operator: np.ndarray | sparse.csr_array) -> np.ndarray:
    product: Any = history @ operator
    return product.toarray() if sparse.issparse(product) else product


def _to_unit_maximum(scores: np.ndarray) -> np.ndarray:
    """Divide every row by its largest value; rows of zeros stay."""
    largest = scores.max(axis=1, keepdims=True)
    return scores / np.where(largest > 0, largest, 1)


def _nearest(similar: sparse.csr_array, neighbours: int) -> sparse.csr_array:
    """Keep the largest entries of each row, and those equal to the last of them."""
    entries = similar.tocoo()
    order = np.lexsort((-entries.data, entries.row))
    rank = np.arange(len(order)) - np.searchsorted(entries.row[order], entries.row[order])
    last = order[rank == neighbours - 1]
    threshold = np.zeros(similar.shape[0], dtype=entries.data.dtype)
    threshold[entries.row[last]] = entries.data[last]
    kept = entries.data >= threshold[entries.row]
    entries_kept = (entries.data[kept], (entries.row[kept], entries.col[kept]))
    return sparse.csr_array(entries_kept, shape=similar.shape)
