"""PLE (Tang et al. 2020): levels of shared experts and experts of each objective, on the features of the default ranker.

Shapes: B batch, C candidates, T objectives, W width of the input, E expert_dim, N experts that a gate mixes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.errors import check_ranges
from recsys.nn.blocks import Batch
from recsys.ranking.crossed import CrossedRanker, feed_forward
from recsys.ranking.model import LastLayer, RankerInputs, RankerSizes


class PLERanker(CrossedRanker):
    """num_experts shared experts and one for each objective on every level; the default ranker has a single level."""

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes, num_levels: int) -> None:
        """num_levels: of experts"""
        super().__init__(inputs=inputs, sizes=sizes)
        check_ranges("ranking.model", num_levels=(num_levels, 1, 8))
        num_objectives = inputs.spec.num_objectives
        widths = [self.width, *[sizes.expert_dim] * (num_levels - 1)]
        self.levels = nn.ModuleList(ExtractionLevel(width, sizes, num_objectives) for width in widths[:-1])
        self.experts = GatedExperts(widths[-1], sizes, num_objectives)
        self.add_last_layer(sizes.expert_dim)

    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        crossed, scores = self.crossed(batch, request)
        inputs, common = [crossed] * len(self.parents), crossed
        for level in self.levels:
            inputs, common = level(inputs, common)
        shared, own, gates = self.experts(inputs, common)
        return self.mixture(shared, own, gates, scores, batch)

    @property
    def shared(self) -> Tensor:
        """Last weights of the first shared expert of the last level."""
        return self.experts.shared[0][-1].weight  # type: ignore[index]


class GatedExperts(nn.Module):
    """Shared experts, one for each objective, and a gate for each objective over the shared ones and its own."""

    def __init__(self, width: int, sizes: RankerSizes, num_objectives: int) -> None:
        super().__init__()
        self.shared, self.own = (
            nn.ModuleList(feed_forward(width, sizes.expert_dim, sizes.dropout) for _ in range(num))
            for num in (sizes.num_experts, num_objectives)
        )
        self.gates = nn.ModuleList(nn.Linear(width, sizes.num_experts + 1) for _ in range(num_objectives))

    def forward(self, inputs: Sequence[Tensor], common: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """T inputs and the common one [B, C, W] -> outputs [B, C, E] of shared and own experts, gates [B, C, T, N]."""
        shared = [expert(common) for expert in self.shared]
        own = [expert(one) for expert, one in zip(self.own, inputs, strict=True)]
        gates = [gate(one).softmax(-1) for gate, one in zip(self.gates, inputs, strict=True)]
        return shared, own, torch.stack(gates, dim=-2)


class ExtractionLevel(nn.Module):
    """Gated experts whose mixtures are the inputs of the next level, and a common one, mixed of all experts."""

    def __init__(self, width: int, sizes: RankerSizes, num_objectives: int) -> None:
        super().__init__()
        self.experts = GatedExperts(width, sizes, num_objectives)
        self.common_gate = nn.Linear(width, sizes.num_experts + num_objectives)

    def forward(self, inputs: Sequence[Tensor], common: Tensor) -> tuple[list[Tensor], Tensor]:
        """T inputs and the common one [B, C, W] -> T and one [B, C, E]."""
        shared, own, gates = self.experts(inputs, common)
        mixed = [mix([*shared, one], gate) for one, gate in zip(own, gates.unbind(-2), strict=True)]
        return mixed, mix([*shared, *own], self.common_gate(common).softmax(-1))


def mix(outputs: Sequence[Tensor], gate: Tensor) -> Tensor:
    """Mixture [B, C, E] of N outputs [B, C, E] by gate [B, C, N]."""
    return (torch.stack(list(outputs), dim=-1) * gate.unsqueeze(-2)).sum(-1)
