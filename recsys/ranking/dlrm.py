"""DLRM (Naumov et al. 2019): inner products of all pairs of feature vectors, then a feed-forward network.

Shapes: B batch, C candidates, F features of a request.
"""

from itertools import combinations

import torch
from torch import Tensor, nn

from recsys.nn.blocks import Batch
from recsys.ranking.base import RankerBase, present_events
from recsys.ranking.model import LastLayer, RankerInputs, RankerSizes

NUM_VECTORS = 4


class DLRMRanker(RankerBase):
    """Vectors of the request's numbers, the user and moment, the mean of the history, and the candidate."""

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes, bottom_dim: int) -> None:
        """bottom_dim: hidden width of the network that turns the request's features into a vector"""
        super().__init__(inputs=inputs, sizes=sizes)
        self.bottom = nn.Sequential(
            nn.Linear(self.request_width, bottom_dim), nn.ReLU(), nn.Linear(bottom_dim, sizes.dim)
        )
        width = 2 * sizes.dim + NUM_VECTORS * (NUM_VECTORS - 1) // 2 + inputs.num_scores
        self.top = nn.Linear(width, sizes.expert_dim)
        self.dropout = nn.Dropout(sizes.dropout)
        self.add_last_layer(sizes.expert_dim)

    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        present = present_events(batch).unsqueeze(-1).float()
        history = (self.history(batch) * present).sum(1) / present.sum(1).clamp(min=1)
        candidates, scores = self.item_encoder(batch, "candidate"), self.standard_scores(batch)
        of_request = [self.bottom(request), request[:, : self.dim], history]
        wide = [one.unsqueeze(1).expand_as(candidates) for one in of_request]
        products = torch.stack([(one * other).sum(-1) for one, other in combinations([*wide, candidates], 2)], dim=-1)
        hidden = self.top(torch.cat([wide[0], candidates, products, scores], dim=-1)).relu()
        return self.linear([self.dropout(hidden)], scores, batch)

    @property
    def shared(self) -> Tensor:
        return self.top.weight
