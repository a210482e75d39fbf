"""STEM (Su et al. 2024): each objective's own expert reads embeddings of its own beside the shared ones.

Shapes: B batch, L history, C candidates, D dim, W width of the crossed features.
"""

import torch
from torch import Tensor, nn

from recsys.nn.blocks import Batch, TableEncoder
from recsys.ranking.base import present_events
from recsys.ranking.model import RankerInputs, RankerSizes
from recsys.ranking.multi_objective import MultiObjectiveRanker


class STEMRanker(MultiObjectiveRanker):
    """The default ranker with a second table of item embeddings for each objective."""

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes) -> None:
        super().__init__(inputs=inputs, sizes=sizes)
        spec, dim = inputs.spec, sizes.dim
        self.own_encoders = nn.ModuleList(
            TableEncoder(spec.items, dim=dim, id_column="item", id_dropout=sizes.id_dropout) for _ in self.parents
        )
        self.project = nn.ModuleList(nn.Linear(2 * dim, self.width) for _ in self.parents)

    def own_outputs(self, crossed: Tensor, batch: Batch) -> list[Tensor]:
        experts = self.experts[self.num_shared :]
        return [
            expert(crossed + project(_affinity(encoder, batch)))
            for expert, project, encoder in zip(experts, self.project, self.own_encoders, strict=True)
        ]


def _affinity(encoder: nn.Module, batch: Batch) -> Tensor:
    """Candidate, and its product with the mean of the history: [B, C, 2 D]."""
    present = present_events(batch).unsqueeze(-1).float()
    mean = (encoder(batch, "history") * present).sum(1) / present.sum(1).clamp(min=1)
    candidates = encoder(batch, "candidate")
    return torch.cat([candidates, candidates * mean.unsqueeze(1)], dim=-1)
