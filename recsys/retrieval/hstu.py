"""HSTU (Zhai et al. 2024): attention without softmax, gated by the query, biased by distance in positions and in time.

Shapes: B batch, L history, D dim, H heads; P = L + 1 positions.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.nn.blocks import RelativePositionBias, causal_mask
from recsys.retrieval.transformer import check_heads
from recsys.retrieval.user_encoder import UserEncoder

NUM_BUCKETS = 128
BUCKET_WIDTH = 0.301
"""of a bucket of elapsed time, in natural logarithms of seconds, as in the authors' code"""


class HSTUEncoder(UserEncoder):
    """Layers of pointwise attention, then layer normalisation."""

    def __init__(self, *, dim: int, length: int, dropout: float, num_blocks: int, num_heads: int) -> None:
        super().__init__()
        check_heads(dim, num_blocks, num_heads)
        self.layers = nn.ModuleList(
            HSTULayer(dim=dim, num_heads=num_heads, length=length, dropout=dropout) for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, present: Tensor, gaps: Tensor) -> Tensor:
        states, mask, elapsed = tokens, causal_mask(present), elapsed_buckets(present, gaps)
        for layer in self.layers:
            states = layer(states, mask, elapsed)
        return self.norm(states)


class HSTULayer(nn.Module):
    """Equations 1 to 3 of the paper with a residual connection.

    Without a softmax the sum over a history grows with its length: how often an item was interacted with stays visible.
    """

    def __init__(self, *, dim: int, num_heads: int, length: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.length = num_heads, length
        self.norm = nn.LayerNorm(dim)
        self.project_in = nn.Linear(dim, 4 * dim)
        self.position_bias = RelativePositionBias(num_heads=num_heads, length=length)
        self.time_bias = nn.Parameter(torch.zeros(NUM_BUCKETS, num_heads))
        self.attended_norm = nn.LayerNorm(dim)
        self.project_out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, elapsed: Tensor) -> Tensor:
        """x [B, P, D]; mask [B, 1, P, P] True where a query may look at a key; elapsed [B, P, L] buckets of time."""
        gate, value, query, key = F.silu(self.project_in(self.norm(x))).chunk(4, dim=-1)
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (query, key, value))
        # the start token, the first key, has no time
        bias = self.position_bias(x.shape[1]) + F.pad(self.time_bias[elapsed].movedim(-1, 1), (1, 0))
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias
        weights = F.silu(scores).masked_fill(~mask, 0.0) / math.sqrt(self.length)
        attended = (weights @ value).transpose(1, 2).flatten(-2)
        return x + self.dropout(self.project_out(self.attended_norm(attended) * gate))


def elapsed_buckets(present: Tensor, gaps: Tensor) -> Tensor:
    """Buckets [B, P, L] of the time from each event until the one that follows a position, 0 for those behind it.

    Sums are doubles: a history of years has gaps of seconds.
    """
    seconds = torch.where(present, torch.expm1(gaps.double()), 0.0)
    ends = seconds.cumsum(1)
    elapsed = F.pad(ends, (1, 0)).unsqueeze(2) - (ends - seconds).unsqueeze(1)
    return (elapsed.clamp(min=1.0).log() / BUCKET_WIDTH).long().clamp(max=NUM_BUCKETS - 1)
