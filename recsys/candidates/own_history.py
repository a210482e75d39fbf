"""The user's own items as candidates, where these may be recommended again: each speaks for itself.

Shapes: N items.
"""

from collections.abc import Sequence

from scipy import sparse

from recsys.candidates.contract import Known, check_source
from recsys.candidates.neighbours import ItemNeighbours


class OwnHistory:
    """The items of the history by how often and how lately they came: an item scores the sum of decay^age of its events."""

    def __init__(self, *, num: int, weights: Sequence[float], decays: Sequence[float]) -> None:
        """
        num: candidates it offers a query
        weights: of its scores in the merge, to choose from
        decays: weight of an event relative to the next newer one, above 0 to 1, to choose from
        """
        self.num, self.weights, self.decays = num, tuple(weights), tuple(decays)
        check_source("history", num, self.weights, self.decays)

    def fit(self, known: Known) -> ItemNeighbours | None:
        """None where nothing is shown again."""
        if not known.repeats:
            return None
        return ItemNeighbours.of(sparse.eye_array(known.num_items, format="csr"), self.decays[0])
