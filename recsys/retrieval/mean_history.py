"""Mean of the history (Covington et al. 2016), the simplest encoder: order and time are not read.

Shapes: B batch, L history, D dim; P = L + 1 positions.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.retrieval.user_encoder import UserEncoder


class MeanHistoryEncoder(UserEncoder):
    """Mean pooling of the start token and the events so far, then a feed-forward layer with a residual connection."""

    def __init__(self, *, dim: int, length: int, dropout: float) -> None:
        super().__init__()
        self.feed = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, present: Tensor, gaps: Tensor) -> Tensor:
        counted = F.pad(present, (1, 0), value=True).unsqueeze(-1).to(tokens.dtype)
        means = torch.cumsum(tokens * counted, dim=1) / torch.cumsum(counted, dim=1)
        return self.norm(means + self.feed(means))
