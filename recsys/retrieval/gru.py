"""Gated recurrent unit over the history (GRU4Rec, Hidasi et al. 2016).

Shapes: B batch, L history, D dim; P = L + 1 positions.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from recsys.errors import check_ranges
from recsys.retrieval.user_encoder import UserEncoder


class GRUEncoder(UserEncoder):
    """Layers of gated recurrent units, then layer normalisation."""

    def __init__(self, *, dim: int, length: int, dropout: float, num_layers: int) -> None:
        super().__init__()
        check_ranges("retrieval.user_encoder", num_layers=(num_layers, 1, 16))
        self.gru = nn.GRU(dim, dim, num_layers=num_layers, batch_first=True, dropout=dropout if num_layers > 1 else 0.0)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, present: Tensor, gaps: Tensor) -> Tensor:
        # padding would change the state, so events move to the front of the sequence and padding behind its end
        num_events = F.pad(present.long().cumsum(1), (1, 0))
        end = tokens.shape[1]
        position = num_events.masked_fill(~F.pad(present, (1, 0), value=True), end).unsqueeze(-1).expand_as(tokens)
        sequence = tokens.new_zeros(tokens.shape[0], end + 1, tokens.shape[2]).scatter(1, position, tokens)[:, :end]
        states, _ = self.gru(sequence)
        return self.norm(states.gather(1, num_events.unsqueeze(-1).expand_as(tokens)))
