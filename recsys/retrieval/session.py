"""Attention over the current session beside a long-term encoder: the session as in NARM (Li et al. 2017), both joined by a gate
as in SLi-Rec (Yu et al. 2019).

Shapes: B batch, L history, D dim; P = L + 1 positions.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.errors import check_ranges
from recsys.features.history import log_gap
from recsys.nn.blocks import causal_mask
from recsys.retrieval.transformer import TransformerEncoder
from recsys.retrieval.user_encoder import UserEncoder


class SessionEncoder(UserEncoder):
    """A transformer over the whole history, and attention of its states over the events of the session they belong to.

    A gap above `gap_minutes` ends a session, also the gap to the request: the first request of a session reads none of the
    events before, except through the long-term state. Where there is no time the whole history is one session.
    """

    def __init__(
        self, *, dim: int, length: int, dropout: float, num_blocks: int, num_heads: int, gap_minutes: float
    ) -> None:
        super().__init__()
        check_ranges("retrieval.user_encoder", gap_minutes=(gap_minutes, 1e-3, 525_600.0))
        self.long_term = TransformerEncoder(
            dim=dim, length=length, dropout=dropout, num_blocks=num_blocks, num_heads=num_heads
        )
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.gate = nn.Linear(2 * dim + 1, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        self.limit = log_gap(gap_minutes)

    def forward(self, tokens: Tensor, present: Tensor, gaps: Tensor) -> Tensor:
        long_term, mask = self.long_term(tokens, present, gaps), session_mask(present, gaps > self.limit)
        session = self._attend(long_term, tokens, mask)
        num_events = torch.log1p(mask.sum(-1, keepdim=True) - 1.0)  # the start token is none
        gate = torch.sigmoid(self.gate(torch.cat([long_term, session, num_events], dim=-1)))
        return self.norm(long_term + gate * session)

    def _attend(self, states: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the mean [B, P, D] of the tokens of each position's session, weighted by their match with its state."""
        scores = self.query(states) @ self.key(tokens).transpose(-1, -2) / math.sqrt(tokens.shape[-1])
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        return self.dropout(weights) @ self.value(tokens)


def session_mask(present: Tensor, ends: Tensor) -> Tensor:
    """[B, P, P] True where a key is the start token or an event of the session that goes on at the query's position.

    present [B, L] bool; ends [B, L] bool, events after which another session begins.
    """
    number = F.pad((ends & present).long().cumsum(1), (1, 0))
    of_event = F.pad(number[:, :-1], (1, 0), value=-1)  # an event that ends a session belongs to it
    same = of_event[:, None, :] == number[:, :, None]
    same[..., 0] = True
    return causal_mask(present).squeeze(1) & same
