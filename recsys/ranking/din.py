"""DIN (Zhou et al. 2018): each candidate weighs the events of the history by a small network.

Shapes: B batch, L history, C candidates, D dim, H hidden width of the weights' network, F features of a request.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.errors import check_ranges
from recsys.nn.blocks import Batch
from recsys.ranking.base import RankerBase, present_events
from recsys.ranking.crossed import feed_forward
from recsys.ranking.model import LastLayer, RankerInputs, RankerSizes


class DINRanker(RankerBase):
    """A feed-forward network on the candidate, its sum of the history and the request.

    SiLU stands for the paper's Dice, of which it is the form without statistics of a batch.
    """

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes, attention_dim: int) -> None:
        """attention_dim: hidden width of the network that weighs an event"""
        super().__init__(inputs=inputs, sizes=sizes)
        check_ranges("ranking.model", attention_dim=(attention_dim, 1, 1_024))
        self.attention = ActivationUnit(sizes.dim, attention_dim)
        width = 2 * sizes.dim + self.request_width + inputs.num_scores
        self.deep = feed_forward(width, sizes.expert_dim, sizes.dropout)
        self.add_last_layer(sizes.expert_dim)

    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        candidates, scores = self.item_encoder(batch, "candidate"), self.standard_scores(batch)
        attended = self.attention(candidates, self.history(batch), present_events(batch))
        wide = request.unsqueeze(1).expand(-1, candidates.shape[1], -1)
        return self.linear([self.deep(torch.cat([candidates, attended, wide, scores], dim=-1))], scores, batch)

    @property
    def shared(self) -> Tensor:
        return self.deep[-1].weight  # type: ignore[return-value]


class ActivationUnit(nn.Module):
    """Sum of the events under weights that are no shares: a history that matches more weighs more (section 4.3).

    The network reads the event, the candidate, their difference and their product. Its first layer is linear in the first
    two, so the difference needs no weights of its own, and nothing as large as [B, C, L, D] is made.
    """

    def __init__(self, dim: int, attention_dim: int) -> None:
        super().__init__()
        self.event = nn.Linear(dim, attention_dim)
        self.candidate = nn.Linear(dim, attention_dim, bias=False)
        self.product = nn.Parameter(torch.empty(attention_dim, dim).uniform_(-1, 1) / math.sqrt(dim))
        self.weight = nn.Linear(attention_dim, 1)

    def forward(self, candidates: Tensor, events: Tensor, present: Tensor) -> Tensor:
        """candidates [B, C, D], events [B, L, D], present [B, L] -> [B, C, D]"""
        products = (candidates.unsqueeze(2) * self.product) @ events.unsqueeze(1).transpose(-1, -2)
        own = self.candidate(candidates).unsqueeze(2) + self.event(events).unsqueeze(1)
        hidden = F.silu(products.transpose(-1, -2) + own)
        weights = self.weight(hidden).squeeze(-1) * present.unsqueeze(1)
        return weights @ events
