"""Shared bottom (Caruana 1997): one expert for all objectives, on the features of the default ranker.

Shapes: B batch, C candidates, F features of a request.
"""

from torch import Tensor

from recsys.nn.blocks import Batch
from recsys.ranking.crossed import CrossedRanker, feed_forward
from recsys.ranking.model import LastLayer, RankerInputs, RankerSizes


class SharedBottomRanker(CrossedRanker):
    """A linear head for each objective on one feed-forward network."""

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes) -> None:
        super().__init__(inputs=inputs, sizes=sizes)
        self.bottom = feed_forward(self.width, sizes.expert_dim, sizes.dropout)
        self.add_last_layer(sizes.expert_dim)

    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        crossed, scores = self.crossed(batch, request)
        return self.linear([self.bottom(crossed)], scores, batch)

    @property
    def shared(self) -> Tensor:
        return self.bottom[-1].weight  # type: ignore[return-value]
