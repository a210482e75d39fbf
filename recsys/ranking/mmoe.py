"""MMoE (Ma et al. 2018): all experts belong to all objectives, on the features of the default ranker.

Shapes: B batch, C candidates, T objectives, F features of a request.
"""

from torch import Tensor, nn

from recsys.nn.blocks import Batch
from recsys.ranking.crossed import CrossedRanker, feed_forward
from recsys.ranking.model import LastLayer, RankerInputs, RankerSizes


class MMoERanker(CrossedRanker):
    """num_experts + T experts, as many as the default ranker has in all, mixed by a gate for each objective."""

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes) -> None:
        super().__init__(inputs=inputs, sizes=sizes)
        num_objectives = inputs.spec.num_objectives
        num_experts = sizes.num_experts + num_objectives
        self.experts = nn.ModuleList(
            feed_forward(self.width, sizes.expert_dim, sizes.dropout) for _ in range(num_experts)
        )
        self.gates = nn.Linear(self.width, num_objectives * num_experts)
        self.add_last_layer(sizes.expert_dim)

    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        crossed, scores = self.crossed(batch, request)
        gates = self.gates(crossed).unflatten(-1, (len(self.parents), -1)).softmax(-1)
        return self.mixture([expert(crossed) for expert in self.experts], [], gates, scores, batch)

    @property
    def shared(self) -> Tensor:
        return self.experts[0][-1].weight  # type: ignore[index]
