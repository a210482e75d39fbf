"""DCN-V2 alone (Wang et al. 2021): cross network and one linear layer, no attention, experts or gates.

Shapes: B batch, C candidates, F features of a request.
"""

from torch import Tensor, nn

from recsys.nn.blocks import Batch
from recsys.ranking.crossed import CrossedRanker, HistoryPooling
from recsys.ranking.model import LastLayer, RankerInputs, RankerSizes


class DCNv2Ranker(CrossedRanker):
    """Logits linear in the crossed features."""

    pooling = HistoryPooling

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes) -> None:
        super().__init__(inputs=inputs, sizes=sizes)
        self.project = nn.Linear(self.width, sizes.expert_dim)
        self.add_last_layer(sizes.expert_dim)

    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        crossed, scores = self.crossed(batch, request)
        return self.linear([self.project(crossed)], scores, batch)

    @property
    def shared(self) -> Tensor:
        return self.project.weight
