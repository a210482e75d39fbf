"""DCN-V2 in its parallel form (Wang et al. 2021) on fields: a cross network beside a feed-forward network.

Shapes: B batch, C candidates, N fields, D dim, F features of a request.
"""

import torch
from torch import Tensor

from recsys.errors import check_ranges
from recsys.nn.blocks import Batch
from recsys.ranking.crossed import CrossNetwork, feed_forward
from recsys.ranking.fields import FieldRanker
from recsys.ranking.model import LastLayer, RankerInputs, RankerSizes


class FieldDCNRanker(FieldRanker):
    """Logits linear in the crossed fields, with the numbers of the candidate as they are, and in the network's output."""

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes, initial_scale: float) -> None:
        """initial_scale: of the candidate's embeddings before training, relative to other rankers; ids of few rows stay near"""
        super().__init__(inputs=inputs, sizes=sizes)
        check_ranges("ranking.model", initial_scale=(initial_scale, 0.0, 1.0))
        num_numbers = inputs.spec.items.widths.get("numbers", 0)
        width = self.num_fields * sizes.dim + num_numbers + inputs.num_scores
        self.has_numbers = num_numbers > 0
        self.cross = CrossNetwork(width=width, rank=sizes.cross_rank, num_layers=sizes.num_cross_layers)
        self.deep = feed_forward(width, sizes.expert_dim, sizes.dropout)
        self.add_last_layer(width + sizes.expert_dim)
        with torch.no_grad():
            for embedding in self.item_encoder.embeddings:
                embedding.weight.mul_(initial_scale)

    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        fields, scores = self.fields(batch, request), self.standard_scores(batch)
        numbers = [batch["candidate_numbers"]] if self.has_numbers else []
        features = torch.cat([fields.flatten(-2), *numbers, scores], dim=-1)
        return self.linear([torch.cat([self.cross(features), self.deep(features)], dim=-1)], scores, batch)

    @property
    def shared(self) -> Tensor:
        return self.deep[-1].weight  # type: ignore[return-value]
