"""FinalMLP (Mao et al. 2023): two feed-forward networks on the same features, gated differently, fused by a bilinear form.

Shapes: B batch, C candidates, N fields, D dim, E expert_dim, H heads of the fusion, F features of a request.
"""

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError, check_ranges
from recsys.nn.blocks import Batch
from recsys.ranking.crossed import feed_forward
from recsys.ranking.fields import FieldRanker
from recsys.ranking.model import LastLayer, RankerInputs, RankerSizes


class FinalMLPRanker(FieldRanker):
    """One stream whose features are gated by the request, one whose features are gated by the candidate.

    The paper adds up the terms of the bilinear form; here each objective weighs them.
    """

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes, fusion_heads: int) -> None:
        """fusion_heads: parts of the two outputs that meet each by itself"""
        super().__init__(inputs=inputs, sizes=sizes)
        check_ranges("ranking.model", fusion_heads=(fusion_heads, 1, 64))
        if sizes.expert_dim % fusion_heads:
            raise ConfigError(
                f"ranking.sizes.expert_dim is {sizes.expert_dim}, not a multiple of ranking.model.fusion_heads {fusion_heads}"
            )
        width = self.num_fields * sizes.dim + inputs.num_scores
        self.gates = nn.ModuleList(feature_gate(one, width) for one in (self.request_width, sizes.dim))
        self.streams = nn.ModuleList(feed_forward(width, sizes.expert_dim, sizes.dropout) for _ in range(2))
        self.fusion = Bilinear(sizes.expert_dim, fusion_heads)
        self.add_last_layer(3 * sizes.expert_dim)

    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        fields, scores = self.fields(batch, request), self.standard_scores(batch)
        features = torch.cat([fields.flatten(-2), scores], dim=-1)
        conditions = (request.unsqueeze(1), self.item_encoder(batch, "candidate"))
        first, second = (
            stream(2 * gate(condition) * features)
            for stream, gate, condition in zip(self.streams, self.gates, conditions, strict=True)
        )
        return self.linear([torch.cat([first, second, self.fusion(first, second)], dim=-1)], scores, batch)

    @property
    def shared(self) -> Tensor:
        return self.fusion.weight


def feature_gate(width: int, num_features: int) -> nn.Sequential:
    """Gate between 0 and 1 for each feature, from a condition [..., width]."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, num_features), nn.Sigmoid())


class Bilinear(nn.Module):
    """Terms of x' W y, for each of H parts of x and y."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads, width // num_heads, width // num_heads))
        nn.init.xavier_normal_(self.weight)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """first, second [..., E] -> [..., E]"""
        parts = second.unflatten(-1, (self.weight.shape[0], 1, -1))
        return first * (parts @ self.weight.transpose(-1, -2)).flatten(-3)
