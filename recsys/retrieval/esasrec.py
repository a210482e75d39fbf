"""eSASRec (Tikhonovich et al. 2025): SASRec with blocks of LiGR (Borisyuk et al. 2025), whose residuals are gated.

Shapes: B batch, D dim; P = L + 1 positions.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from recsys.retrieval.attention import MultiHeadAttention
from recsys.retrieval.sasrec import SASRecEncoder


class LiGRBlock(nn.Module):
    """x + sigmoid(W x) * f(norm(x)), for self-attention and then for a gated feed-forward layer (SwiGLU)."""

    def __init__(self, *, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim=dim, num_heads=num_heads, dropout=dropout)
        self.attention_gate = nn.Linear(dim, dim)
        self.feed_norm = nn.LayerNorm(dim)
        self.feed_in = nn.Linear(dim, 8 * dim, bias=False)
        self.feed_out = nn.Linear(4 * dim, dim, bias=False)
        self.feed_gate = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, P, D]; mask [B, 1, P, P] True where a query may look at a key."""
        normed = self.attention_norm(x)
        x = x + self.attention_gate(x).sigmoid() * self.dropout(self.attention(normed, normed, mask))
        gate, value = self.feed_in(self.feed_norm(x)).chunk(2, dim=-1)
        return x + self.feed_gate(x).sigmoid() * self.dropout(self.feed_out(F.silu(gate) * value))


class ESASRecEncoder(SASRecEncoder):
    """Learned absolute positions and LiGR blocks, then layer normalisation."""

    block = LiGRBlock
