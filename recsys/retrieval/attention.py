"""Multi-head attention under a mask and learned absolute positions, of the encoders that are built as published.

Shapes: B batch, L history, Q queries, K keys, D dim, H heads; P = L + 1 positions.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention (Vaswani et al. 2017), its projections without bias."""

    def __init__(self, *, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query, self.key, self.value, self.project_out = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """queries [B, Q, D], keys [B, K, D] -> [B, Q, D]; mask [B, 1, Q or 1, K] True where a query may look at a key."""
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query(queries), self.key(keys), self.value(keys))
        )
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.project_out(attended.transpose(1, 2).flatten(-2))


class LearnedPositions(nn.Module):
    """A learned vector for each position, counted from the first event that is present: padding moves none."""

    def __init__(self, *, dim: int, num: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num, dim).normal_(std=1 / math.sqrt(dim)))

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """tokens [B, P, D], present [B, P] -> [B, P, D]"""
        return tokens + self.weight[present.long().cumsum(1) - 1]
