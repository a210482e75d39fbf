"""AutoInt (Song et al. 2019): self-attention of the feature vectors to each other.

Shapes: B batch, C candidates, N fields, D dim, H heads, F features of a request.
"""

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError, check_ranges
from recsys.nn.blocks import Batch
from recsys.ranking.fields import FieldRanker
from recsys.ranking.model import LastLayer, RankerInputs, RankerSizes


class AutoIntRanker(FieldRanker):
    """Interacting layers, then one linear layer on all fields together."""

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes, num_layers: int) -> None:
        """num_layers: of attention; each one crosses what the one before has crossed"""
        super().__init__(inputs=inputs, sizes=sizes)
        check_ranges("ranking.model", num_layers=(num_layers, 1, 16))
        if sizes.dim % sizes.num_heads:
            raise ConfigError(
                f"ranking.sizes.dim is {sizes.dim}, not a multiple of ranking.sizes.num_heads {sizes.num_heads}"
            )
        self.layers = nn.Sequential(*(InteractingLayer(sizes.dim, sizes.num_heads) for _ in range(num_layers)))
        self.project = nn.Linear(self.num_fields * sizes.dim + inputs.num_scores, sizes.expert_dim)
        self.dropout = nn.Dropout(sizes.dropout)
        self.add_last_layer(sizes.expert_dim)

    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        fields, scores = self.layers(self.fields(batch, request)), self.standard_scores(batch)
        features = self.project(self.dropout(torch.cat([fields.flatten(-2), scores], dim=-1)))
        return self.linear([features], scores, batch)

    @property
    def shared(self) -> Tensor:
        return self.project.weight


class InteractingLayer(nn.Module):
    """Equations 5 to 8 of the paper: attention by inner products and a linear residual connection, rectified."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.project_in = nn.Linear(dim, 3 * dim, bias=False)
        self.residual = nn.Linear(dim, dim, bias=False)

    def forward(self, fields: Tensor) -> Tensor:
        """[..., N, D] -> [..., N, D]"""
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)
            for part in self.project_in(fields).chunk(3, dim=-1)
        )
        attended = (query @ key.transpose(-1, -2)).softmax(-1) @ value
        return (attended.transpose(-2, -3).flatten(-2) + self.residual(fields)).relu()
