"""Several interests of a user by self-attention (ComiRec-SA, Cen et al. 2020), in the place of one vector between them.

MIND (Li et al. 2019) has the same aim and finds the interests by capsule routing.

Shapes: B batch, L history, D dim, K interests, H hidden width; P = L + 1 positions.
"""

from torch import Tensor, nn

from recsys.errors import check_ranges
from recsys.nn.blocks import RelativePositionBias, causal_mask
from recsys.retrieval.user_encoder import UserEncoder


class MultiInterestEncoder(UserEncoder):
    """K means of the events so far, each under weights of its own (eq. 3 and 4), then layer normalisation.

    A bias by the distance to the event stands for the paper's positions, which count from the oldest event.
    """

    def __init__(self, *, dim: int, length: int, dropout: float, interests: int, attention_dim: int) -> None:
        super().__init__()
        check_ranges("retrieval.user_encoder", interests=(interests, 1, 16), attention_dim=(attention_dim, 1, 4_096))
        self.interests = interests
        self.weigh = nn.Sequential(
            nn.Linear(dim, attention_dim, bias=False), nn.Tanh(), nn.Linear(attention_dim, interests, bias=False)
        )
        self.position_bias = RelativePositionBias(num_heads=interests, length=length)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, present: Tensor, gaps: Tensor) -> Tensor:
        scores = self.weigh(tokens).transpose(1, 2).unsqueeze(2) + self.position_bias(tokens.shape[1])
        weights = scores.masked_fill(~causal_mask(present), float("-inf")).softmax(-1)
        means = self.dropout(weights) @ tokens.unsqueeze(1)
        return self.norm(means).transpose(1, 2).flatten(-2)
