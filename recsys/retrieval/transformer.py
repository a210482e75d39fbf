"""Causal transformer over the history (SASRec, Kang & McAuley 2018) with relative positions.

Shapes: B batch, L history, D dim, H heads; P = L + 1 positions.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from recsys.errors import ConfigError, check_ranges
from recsys.nn.blocks import RelativePositionBias, causal_mask
from recsys.retrieval.user_encoder import UserEncoder


class TransformerEncoder(UserEncoder):
    """Blocks of self-attention and a gated feed-forward layer, then layer normalisation."""

    def __init__(self, *, dim: int, length: int, dropout: float, num_blocks: int, num_heads: int) -> None:
        super().__init__()
        check_heads(dim, num_blocks, num_heads)
        self.blocks = nn.ModuleList(
            CausalBlock(dim=dim, num_heads=num_heads, length=length, dropout=dropout) for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, present: Tensor, gaps: Tensor) -> Tensor:
        states, mask = tokens, causal_mask(present)
        for block in self.blocks:
            states = block(states, mask)
        return self.norm(states)


class CausalBlock(nn.Module):
    """Pre-norm causal self-attention with a learned relative-position bias, then a gated feed-forward (SwiGLU)."""

    def __init__(self, *, dim: int, num_heads: int, length: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.project_in = nn.Linear(dim, 3 * dim, bias=False)
        self.project_out = nn.Linear(dim, dim, bias=False)
        self.position_bias = RelativePositionBias(num_heads=num_heads, length=length)
        self.feed_norm = nn.LayerNorm(dim)
        self.feed_in = nn.Linear(dim, 4 * dim, bias=False)
        self.feed_out = nn.Linear(2 * dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, P, D]; mask [B, 1, P, P] True where a query may look at a key."""
        x = x + self.dropout(self._attend(self.attention_norm(x), mask))
        gate, value = self.feed_in(self.feed_norm(x)).chunk(2, dim=-1)
        return x + self.dropout(self.feed_out(F.silu(gate) * value))

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.project_in(x).chunk(3, dim=-1)
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + self.position_bias(x.shape[1])
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        return self.project_out((self.dropout(weights) @ value).transpose(1, 2).flatten(-2))


def check_heads(dim: int, num_blocks: int, num_heads: int) -> None:
    """Raise ConfigError for sizes of attention out of range."""
    check_ranges("retrieval.user_encoder", num_blocks=(num_blocks, 0, 48), num_heads=(num_heads, 1, 64))
    if dim % num_heads:
        raise ConfigError(f"retrieval.dim is {dim}, not a multiple of retrieval.user_encoder.num_heads {num_heads}")
