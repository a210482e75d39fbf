"""SASRec as published (Kang & McAuley 2018): causal self-attention with learned absolute positions.

Shapes: B batch, L history, D dim, H heads; P = L + 1 positions.
"""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from recsys.nn.blocks import causal_mask
from recsys.retrieval.attention import LearnedPositions, MultiHeadAttention
from recsys.retrieval.transformer import check_heads
from recsys.retrieval.user_encoder import UserEncoder


class SASRecBlock(nn.Module):
    """Attention of normalised queries to states as they are, then a feed-forward layer as wide as the states (eq. 2 to 6).

    As in the authors' code, both residual connections add what the normalisation gave.
    """

    def __init__(self, *, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.feed_norm = nn.LayerNorm(dim)
        self.feed = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Dropout(dropout), nn.Linear(dim, dim), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, P, D]; mask [B, 1, P, P] True where a query may look at a key."""
        queries = self.query_norm(x)
        x = self.feed_norm(queries + self.attention(queries, x, mask))
        return x + self.feed(x)


class SASRecEncoder(UserEncoder):
    """Blocks of the authors' code, then layer normalisation; the towers bring the items' vectors and the loss."""

    block: ClassVar[Callable[..., nn.Module]] = SASRecBlock

    def __init__(self, *, dim: int, length: int, dropout: float, num_blocks: int, num_heads: int) -> None:
        super().__init__()
        check_heads(dim, num_blocks, num_heads)
        self.positions = LearnedPositions(dim=dim, num=length + 1)
        self.blocks = nn.ModuleList(
            type(self).block(dim=dim, num_heads=num_heads, dropout=dropout) for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, present: Tensor, gaps: Tensor) -> Tensor:
        states, mask = self.positions(tokens, F.pad(present, (1, 0), value=True)), causal_mask(present)
        for block in self.blocks:
            states = block(states, mask)
        return self.norm(states)
