"""The default ranker: collaborative, content and context signals in, one logit an objective out.

Each candidate attends to the user's history, its features meet in a low-rank cross network (DCN-V2, Wang et al. 2021),
and gated experts, shared ones and one an objective, feed the heads (CGC of PLE, Tang et al. 2020). A position bias is
learnt beside them and removed at serving (PAL, Guo et al. 2019). An objective that needs another one is learnt given
that one (ESMM, Ma et al. 2018). Candidates never see each other, so a score does not depend on the other candidates.

Shapes: B batch, C candidates, T objectives, F features of a request, W width of the crossed features.
"""

from torch import Tensor, nn

from recsys.nn.blocks import Batch
from recsys.ranking.crossed import CrossedRanker, feed_forward
from recsys.ranking.model import LastLayer, RankerInputs, RankerSizes


class MultiObjectiveRanker(CrossedRanker):
    """num_experts shared experts and one for each objective, mixed by the objective's gate."""

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes) -> None:
        super().__init__(inputs=inputs, sizes=sizes)
        num_objectives = inputs.spec.num_objectives
        self.num_shared = sizes.num_experts
        self.experts = nn.ModuleList(
            feed_forward(self.width, sizes.expert_dim, sizes.dropout) for _ in range(self.num_shared + num_objectives)
        )
        self.gates = nn.Linear(self.width, num_objectives * (self.num_shared + 1))
        self.add_last_layer(sizes.expert_dim)

    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        crossed, scores = self.crossed(batch, request)
        gates = self.gates(crossed).unflatten(-1, (len(self.parents), -1)).softmax(-1)
        shared = [expert(crossed) for expert in self.experts[: self.num_shared]]
        return self.mixture(shared, self.own_outputs(crossed, batch), gates, scores, batch)

    def own_outputs(self, crossed: Tensor, batch: Batch) -> list[Tensor]:
        """Output [B, C, expert_dim] of each objective's own expert on crossed features [B, C, W]."""
        return [expert(crossed) for expert in self.experts[self.num_shared :]]

    @property
    def shared(self) -> Tensor:
        """Last weights of the first shared expert."""
        return self.experts[0][-1].weight  # type: ignore[index]
