"""HSTU (Zhai et al. 2024): attention without softmax, gated by the query, biased by distance in positions and in time.

Shapes: B batch, L history, D dim; P = L + 1 positions.
"""

from torch import Tensor, nn

from recsys.nn.blocks import causal_mask
from recsys.nn.hstu import HSTULayer, elapsed_buckets
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

    def forward(self, tokens: Tensor, present: Tensor, gaps: Tensor) -> Tensor:
        states, mask, elapsed = tokens, causal_mask(present), elapsed_buckets(present, gaps)
        for layer in self.layers:
            states = layer(states, mask, elapsed)
        return self.norm(states)
