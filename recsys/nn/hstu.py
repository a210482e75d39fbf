"""A layer of HSTU (Zhai et al. 2024): attention without softmax, gated by the query, biased by distance in positions and time.

Shapes: B batch, L history, D dim, H heads, Q queries, K keys; P = L + 1 positions.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.nn.blocks import RelativePositionBias

NUM_BUCKETS = 128
BUCKET_WIDTH = 0.301
"""of a bucket of elapsed time, in natural logarithms of seconds, as in the authors' code"""


class HSTULayer(nn.Module):
    """Equations 1 to 3 of the paper with a residual connection.

    Without a softmax the sum over a history grows with its length: how often an item was interacted with stays visible.
    """

    def __init__(self, *, dim: int, num_heads: int, length: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.length = num_heads, max(length, 1)
        self.norm = nn.LayerNorm(dim)
        self.project_in = nn.Linear(dim, 4 * dim)
        self.position_bias = RelativePositionBias(num_heads=num_heads, length=length)
        self.time_bias = nn.Parameter(torch.zeros(NUM_BUCKETS, num_heads))
        self.attended_norm = nn.LayerNorm(dim)
        self.project_out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, elapsed: Tensor) -> Tensor:
        """x [B, P, D]; mask [B, 1, P, P] True where a query may look at a key; elapsed [B, P, L] buckets of time."""
        gate, value, query, key = self.projected(x)
        weights = self.weights(
            query @ key.transpose(-1, -2), self.position_bias(x.shape[1]) + self.time_biases(elapsed)
        )
        return self.gated(x, gate, weights.masked_fill(~mask, 0.0) @ value)

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gate [B, Q, D], and value, query and key by heads, [B, H, Q, D / H]."""
        gate, *parts = F.silu(self.project_in(self.norm(x))).chunk(4, dim=-1)
        value, query, key = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        return gate, value, query, key

    def time_biases(self, elapsed: Tensor) -> Tensor:
        """Buckets [B, Q, L] of the time from each event -> [B, H, Q, P]; the start token, the first key, has no time."""
        return F.pad(self.time_bias[elapsed].movedim(-1, 1), (1, 0))

    def weights(self, products: Tensor, bias: Tensor) -> Tensor:
        """Inner products of queries and keys with their bias -> weights of the values."""
        dim_of_head = self.project_out.in_features // self.num_heads
        return F.silu(products / math.sqrt(dim_of_head) + bias) / math.sqrt(self.length)

    def gated(self, x: Tensor, gate: Tensor, attended: Tensor) -> Tensor:
        """attended [B, H, Q, D / H] -> [B, Q, D], added to x."""
        joined = attended.transpose(1, 2).flatten(-2)
        return x + self.dropout(self.project_out(self.attended_norm(joined) * gate))


def elapsed_buckets(present: Tensor, gaps: Tensor) -> Tensor:
    """Buckets [B, P, L] of the time from each event until the one that follows a position, 0 for those behind it.

    Sums are doubles: a history of years has gaps of seconds.
    """
    seconds = torch.where(present, torch.expm1(gaps.double()), 0.0)
    ends = seconds.cumsum(1)
    elapsed = F.pad(ends, (1, 0)).unsqueeze(2) - (ends - seconds).unsqueeze(1)
    return (elapsed.clamp(min=1.0).log() / BUCKET_WIDTH).long().clamp(max=NUM_BUCKETS - 1)
