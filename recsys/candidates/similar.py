"""Neighbours in the item tower: what lies near any item of a history, however far from the one vector of the user.

A user of several interests has one vector between them; a sum over the history finds what each alone would.

Shapes: N items, D dim, K neighbours.
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from recsys.candidates.contract import Known
from recsys.candidates.linear import check_history_source
from recsys.candidates.neighbours import ItemNeighbours
from recsys.contracts import PAD
from recsys.errors import check_ranges

BATCH = 1024
"""items whose neighbours are searched at once"""


class Similar:
    """How to fit the neighbours of items from their vectors: cosine^power, of the nearest only."""

    def __init__(
        self, *, num: int, weights: Sequence[float], decays: Sequence[float], neighbours: int, power: float
    ) -> None:
        """
        num: candidates it offers a query
        weights: of its scores in the merge, to choose from
        decays: weight of an event relative to the next newer one, above 0 to 1, to choose from
        neighbours: kept an item
        power: of the cosine; the larger, the less what is only somewhat alike counts
        """
        self.num, self.weights, self.decays = num, tuple(weights), tuple(decays)
        self.neighbours, self.power = neighbours, power
        check_history_source("similar", num, self.weights, self.decays, neighbours)
        check_ranges("candidates.similar", power=(power, 1e-3, 1e3))

    def fit(self, known: Known) -> ItemNeighbours:
        vectors = known.index.vectors(np.arange(known.num_items))
        wanted = min(self.neighbours + 1, known.num_items)  # the nearest is the item itself
        starts = range(0, known.num_items, BATCH)
        scores, rows = zip(*(known.index.search(vectors[at : at + BATCH], wanted) for at in starts), strict=True)
        return ItemNeighbours.of(
            self._matrix(np.concatenate(scores), np.concatenate(rows), np.linalg.norm(vectors, axis=1)), self.decays[0]
        )

    def _matrix(self, scores: np.ndarray, rows: np.ndarray, lengths: np.ndarray) -> sparse.csr_array:
        """[N, N] from inner products and rows [N, K + 1], best first."""
        items = np.arange(len(rows))[:, None]
        other = (rows != items) & (rows != PAD)
        kept = other & (other.cumsum(axis=1) <= self.neighbours) & (scores > 0)
        cosines = scores / np.maximum(lengths[:, None] * lengths[rows], 1e-12)
        places = np.nonzero(kept)
        return sparse.csr_array(
            (cosines[kept] ** self.power, (places[0], rows[kept])), shape=(len(rows), len(rows)), dtype=np.float32
        )
