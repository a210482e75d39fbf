"""DeepFM (Guo et al. 2017): a factorisation machine and a feed-forward network on the same vectors.

Shapes: B batch, C candidates, N fields, D dim, F features of a request.
"""

import torch
from torch import Tensor

from recsys.nn.blocks import Batch
from recsys.ranking.crossed import feed_forward
from recsys.ranking.fields import FieldRanker
from recsys.ranking.model import LastLayer, RankerInputs, RankerSizes


class DeepFMRanker(FieldRanker):
    """Logits linear in the sum of the fields, in the sum of their products by pairs, and in the network's output.

    The paper adds up the dimensions of the products; here each objective weighs them.
    """

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes) -> None:
        super().__init__(inputs=inputs, sizes=sizes)
        width = self.num_fields * sizes.dim + inputs.num_scores
        self.deep = feed_forward(width, sizes.expert_dim, sizes.dropout)
        self.add_last_layer(2 * sizes.dim + sizes.expert_dim)

    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        fields, scores = self.fields(batch, request), self.standard_scores(batch)
        deep = self.deep(torch.cat([fields.flatten(-2), scores], dim=-1))
        features = torch.cat([fields.sum(-2), pair_products(fields), deep], dim=-1)
        return self.linear([features], scores, batch)

    @property
    def shared(self) -> Tensor:
        return self.deep[-1].weight  # type: ignore[return-value]


def pair_products(fields: Tensor) -> Tensor:
    """Sum of the products of all pairs of fields, [..., N, D] -> [..., D] (Rendle 2010, lemma 3.1)."""
    return (fields.sum(-2).square() - fields.square().sum(-2)) / 2
