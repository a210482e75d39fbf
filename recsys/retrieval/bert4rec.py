"""BERT4Rec (Sun et al. 2019): every event reads all others, and a mask token at the end asks for the next one.

Shapes: B batch, L history, D dim, H heads; P = L + 1 positions.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.retrieval.attention import LearnedPositions, MultiHeadAttention
from recsys.retrieval.transformer import check_heads
from recsys.retrieval.user_encoder import UserEncoder


class BERT4RecEncoder(UserEncoder):
    """A bidirectional pass over each history up to a position, with the mask token behind it, whose state is read.

    Training so takes P passes a window, serving one. Every position is trained as the last one of the paper's Cloze task:
    the others of its masked events would read later ones.
    """

    def __init__(self, *, dim: int, length: int, dropout: float, num_blocks: int, num_heads: int) -> None:
        super().__init__()
        check_heads(dim, num_blocks, num_heads)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02))
        self.positions = LearnedPositions(dim=dim, num=length + 2)
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(BERTBlock(dim=dim, num_heads=num_heads, dropout=dropout) for _ in range(num_blocks))
        self.project = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim))

    def forward(self, tokens: Tensor, present: Tensor, gaps: Tensor) -> Tensor:
        size, length, _ = tokens.shape
        until = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        prefixes = (F.pad(present, (1, 0), value=True).unsqueeze(1) & until).flatten(0, 1)
        return self._masked(tokens.repeat_interleave(length, 0), prefixes).unflatten(0, (size, length))

    def last(self, tokens: Tensor, present: Tensor, gaps: Tensor) -> Tensor:
        return self._masked(tokens, F.pad(present, (1, 0), value=True))

    def _masked(self, tokens: Tensor, present: Tensor) -> Tensor:
        """State [B, D] of a mask token behind tokens [B, P, D], of which present [B, P] are read."""
        present = F.pad(present, (0, 1), value=True)
        tokens = torch.cat([tokens, self.mask_token.expand(tokens.shape[0], -1, -1)], dim=1)
        states = self.norm(self.positions(tokens, present))
        for block in self.blocks:
            states = block(states, present[:, None, None])
        return self.project(states[:, -1])


class BERTBlock(nn.Module):
    """Self-attention and a feed-forward layer (GELU), each normalised behind its residual connection."""

    def __init__(self, *, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.attention_norm = nn.LayerNorm(dim)
        self.feed = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.feed_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, P, D]; mask [B, 1, 1, P] True where a token is read."""
        x = self.attention_norm(x + self.dropout(self.attention(x, x, mask)))
        return self.feed_norm(x + self.dropout(self.feed(x)))
