"""The items of the user's own history as candidates, for catalogues where items may be recommended again.

Shapes: N items.
"""

from collections.abc import Sequence

from scipy import sparse

from recsys.candidates.candidate_source import TrainingInteractions, check_source
from recsys.candidates.neighbours import ItemNeighbours


class OwnHistory:
    """Items of the history by frequency and recency: an item scores the sum of decay^age over its events."""

    def __init__(self, *, num: int, weight: float, decays: Sequence[float]) -> None:
        """
        num: candidates of a query
        weight: of its scores in the merge, until validation chose another one
        decays: grid of the weight of an event relative to the next newer one, above 0 to 1
        """
        self.num, self.weight, self.decays = num, weight, tuple(decays)
        check_source("history", num, self.weight, self.decays)

    def fit(self, interactions: TrainingInteractions) -> ItemNeighbours | None:
        """Make every item its own neighbour; None where items may not be recommended again."""
        if not interactions.repeats:
            return None
        return ItemNeighbours.of(sparse.eye_array(interactions.num_items, format="csr"), self.decays[0])
