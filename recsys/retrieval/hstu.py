"""HSTU (Zhai et al. 2024, "Actions speak louder than words"): attention without softmax, gated by the query.

Shapes: B batch, L history, D dim, H heads; P = L + 1 positions.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from recsys.nn.blocks import RelativePositionBias, causal_mask
from recsys.retrieval.transformer import check_heads
from recsys.retrieval.user_encoder import UserEncoder


class HSTUEncoder(UserEncoder):
    """Layers of pointwise attention, then layer normalisation."""

    def __init__(self, *, dim: int, length: int, dropout: float, num_blocks: int, num_heads: int) -> None:
        super().__init__()
        check_heads(dim, num_blocks, num_heads)
        self.layers = nn.ModuleList(
            HSTULayer(dim=dim, num_heads=num_heads, length=length, dropout=dropout) for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        states, mask = tokens, causal_mask(present)
        for layer in self.layers:
            states = layer(states, mask)
        return self.norm(states)


class HSTULayer(nn.Module):
    """Equations 1 to 3 of the paper with a residual connection; the bias reads positions and no times.

    Without a softmax the sum over a history grows with its length: how often an item was met stays visible.
    """

    def __init__(self, *, dim: int, num_heads: int, length: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.length = num_heads, length
        self.norm = nn.LayerNorm(dim)
        self.project_in = nn.Linear(dim, 4 * dim)
        self.position_bias = RelativePositionBias(num_heads=num_heads, length=length)
        self.attended_norm = nn.LayerNorm(dim)
        self.project_out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, P, D]; mask [B, 1, P, P] True where a query may look at a key."""
        gate, value, query, key = F.silu(self.project_in(self.norm(x))).chunk(4, dim=-1)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + self.position_bias(x.shape[1])
        weights = F.silu(scores).masked_fill(~mask, 0.0) / math.sqrt(self.length)
        attended = (weights @ value).transpose(1, 2).flatten(-2)
        return x + self.dropout(self.project_out(self.attended_norm(attended) * gate))
