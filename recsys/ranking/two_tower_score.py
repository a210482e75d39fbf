"""A two-tower score alone (Huang et al. 2013): for each objective an inner product of request and candidate.

Shapes: B batch, C candidates, D dim, F features of a request, T objectives.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.nn.blocks import Batch
from recsys.ranking.base import RankerBase, present_events
from recsys.ranking.model import LastLayer, RankerInputs, RankerSizes


class TwoTowerScoreRanker(RankerBase):
    """Weighted inner product of a vector of the request, its mean event inside, with one of the candidate, plus biases.

    The logits of one objective for all requests and candidates are a matrix of rank D + 2. Retrieval scores are no part.
    """

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes) -> None:
        super().__init__(inputs=inputs, sizes=sizes)
        num_objectives = inputs.spec.num_objectives
        self.user = nn.Linear(self.request_width + sizes.dim, num_objectives * (sizes.dim + 1))
        self.item = nn.Linear(sizes.dim, num_objectives * (sizes.dim + 1))
        self.add_last_layer(sizes.dim + 2, wide=False)

    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        present = present_events(batch).unsqueeze(-1).float()
        mean = (self.history(batch) * present).sum(1) / present.sum(1).clamp(min=1)
        users = self.user(torch.cat([request, mean], dim=-1)).unflatten(-1, (-1, self.dim + 1)).unsqueeze(1)
        items = self.item(self.item_encoder(batch, "candidate")).unflatten(-1, (-1, self.dim + 1))
        # a constant 1 behind the request and before the candidate's bias makes both biases features of the product
        products = F.pad(users, (0, 1), value=1.0) * torch.cat(
            [items[..., :-1], torch.ones_like(items[..., :1]), items[..., -1:]], dim=-1
        )
        return self.linear(products.unbind(-2), self.standard_scores(batch), batch)

    @property
    def shared(self) -> Tensor:
        """Weights of the request's tower, in which each objective has rows of its own."""
        return self.user.weight
