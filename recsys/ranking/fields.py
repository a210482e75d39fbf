"""Feature vectors of one length, the fields, as rankers of feature interactions read them.

Shapes: B batch, C candidates, N fields, D dim, F features of a request.
"""

import torch
from torch import Tensor, nn

from recsys.nn.blocks import Batch
from recsys.ranking.base import RankerBase, present_events
from recsys.ranking.model import RankerInputs, RankerSizes


class FieldRanker(RankerBase):
    """A ranker on fields: three of the request, and one for each column of the candidate; a subclass crosses them."""

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes) -> None:
        super().__init__(inputs=inputs, sizes=sizes)
        self.request_field = nn.Linear(self.request_width, sizes.dim)
        self.num_fields = 3 + self.item_encoder.num_fields

    def fields(self, batch: Batch, request: Tensor) -> Tensor:
        """Return [B, C, N, D]: user and moment, all features of the request [B, F], mean of the history, the candidate's."""
        present = present_events(batch).unsqueeze(-1).float()
        history = (self.history(batch) * present).sum(1) / present.sum(1).clamp(min=1)
        candidates = self.item_encoder.fields(batch, "candidate")
        of_request = (request[:, : self.dim], self.request_field(request), history)
        wide = [one.unsqueeze(1).expand_as(candidates[0]) for one in of_request]
        return torch.stack([*wide, *candidates], dim=-2)
