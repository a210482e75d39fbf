"""Item-to-item nearest neighbours among the vectors of the item tower.

The one vector of a user with several interests lies between them; a sum over the history's items finds neighbours of each.

Shapes: N items, D dim, K neighbours.
"""

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from recsys.candidates.candidate_source import TrainingInteractions
from recsys.candidates.item_item import check_history_source
from recsys.candidates.neighbours import ItemNeighbours
from recsys.contracts import PAD
from recsys.errors import check_ranges

SEARCH_BATCH = 1024
"""items that query the index at once"""


class ItemEmbeddingKNN:
    """Configuration of nearest neighbours by item vectors, weighted by cosine^power."""

    def __init__(self, *, num: int, weight: float, decays: Sequence[float], neighbours: int, power: float) -> None:
        """
        num: candidates of a query
        weight: of its scores in the merge, until validation chose another one
        decays: grid of the weight of an event relative to the next newer one, above 0 to 1
        neighbours: kept an item
        power: of the cosine; the larger, the less distant neighbours count
        """
        self.num, self.weight, self.decays = num, weight, tuple(decays)
        self.neighbours, self.power = neighbours, power
        check_history_source("similar", num, self.weight, self.decays, neighbours)
        check_ranges("candidates.similar", power=(power, 1e-3, 1e3))

    def fit(self, interactions: TrainingInteractions) -> ItemNeighbours:
        vectors = interactions.index.vectors(np.arange(interactions.num_items))
        num_results = min(self.neighbours + 1, interactions.num_items)  # the nearest is the item itself
        starts = range(0, interactions.num_items, SEARCH_BATCH)
        scores, rows = zip(
            *(interactions.index.search(vectors[at : at + SEARCH_BATCH], num_results) for at in starts), strict=True
        )
        return ItemNeighbours.of(
            self._matrix(np.concatenate(scores), np.concatenate(rows), np.linalg.norm(vectors, axis=1)), self.decays[0]
        )

    def _matrix(self, scores: np.ndarray, rows: np.ndarray, lengths: np.ndarray) -> sparse.csr_array:
        """[N, N] from inner products and rows [N, K + 1], best first."""
        items = np.arange(len(rows))[:, None]
        not_self = (rows != items) & (rows != PAD)
        kept = not_self & (not_self.cumsum(axis=1) <= self.neighbours) & (scores > 0)
        cosines = scores / np.maximum(lengths[:, None] * lengths[rows], 1e-12)
        kept_cells = np.nonzero(kept)
        return sparse.csr_array(
            (cosines[kept] ** self.power, (kept_cells[0], rows[kept])), shape=(len(rows), len(rows)), dtype=np.float32
        )
