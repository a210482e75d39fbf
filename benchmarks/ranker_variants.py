"""Other ways to build and to train the ranker, each as what takes the place of a part of it (see `ranker_peers.as_peer`).

Shapes: B requests, C candidates, T objectives, D dim, E experts.
"""

from collections.abc import Mapping
from typing import Any

import torch
from ranker_peers import ALTERED, Altered
from torch import Tensor, nn

from recsys.features.spec import MISSING
from recsys.nn.blocks import Batch, TableEncoder, begin
from recsys.ranking.multi_objective import MultiObjectiveRanker
from recsys.training import ranking
from recsys.training.ranking import RankingTask

MMOE, BOTTOM, STEM, AFRESH = "MMoE", "shared bottom", "STEM", "embeddings afresh every epoch"


class Shared(MultiObjectiveRanker):
    """All experts belong to all objectives: MMoE (Ma et al. 2018), or, with one of them, a shared bottom (Caruana 1997)."""

    def _said(self, batch: Batch, request: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """The own experts do not speak."""
        joined, scores = self._join(batch, request)
        crossed, num = self.cross(joined), self.num_shared
        gates = self.gates(crossed).unflatten(-1, (len(self.parents), -1))[..., :num].softmax(-1)
        shared = [expert(crossed) for expert in self.experts[:num]]
        own = [torch.zeros_like(shared[0])] * len(self.parents)
        return [*shared, *own], torch.cat([gates, torch.zeros_like(gates[..., :1])], dim=-1), scores


class OwnEmbeddings(MultiObjectiveRanker):
    """Each objective's own expert reads embeddings of its own beside the shared ones (STEM, Su et al. 2024)."""

    def __init__(self, **knobs: Any) -> None:
        super().__init__(**knobs)
        spec, dim, width = knobs["spec"], knobs["dim"], self.gates.in_features
        self.own = nn.ModuleList(
            TableEncoder(spec.items, dim=dim, id_column="item", id_dropout=knobs["id_dropout"]) for _ in self.parents
        )
        self.reading = nn.ModuleList(nn.Linear(2 * dim, width) for _ in self.parents)

    def _said(self, batch: Batch, request: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        joined, scores = self._join(batch, request)
        crossed, num = self.cross(joined), self.num_shared
        gates = self.gates(crossed).unflatten(-1, (len(self.parents), -1)).softmax(-1)
        own = [
            expert(crossed + reading(self._likings(encoder, batch)))
            for expert, reading, encoder in zip(self.experts[num:], self.reading, self.own, strict=True)
        ]
        return [*(expert(crossed) for expert in self.experts[:num]), *own], gates, scores

    def _likings(self, encoder: nn.Module, batch: Batch) -> Tensor:
        """The candidate, and how it meets the mean of the history: [B, C, 2 D]."""
        present = (batch["history_ids"][..., :1] != MISSING).float()
        mean = (encoder(batch, "history") * present).sum(1) / present.sum(1).clamp(min=1)
        candidates = encoder(batch, "candidate")
        return torch.cat([candidates, candidates * mean.unsqueeze(1)], dim=-1)


def _afresh(task: RankingTask) -> None:
    """What an id overfits in one epoch is forgotten, what is made of it stays (MEDA, Fan et al. 2024)."""
    if not task.current_epoch:
        return
    for encoder in (one for one in task.ranker.modules() if isinstance(one, TableEncoder)):
        for column, embedding in zip(encoder.columns, encoder.embeddings, strict=True):
            begin(embedding, means_something=column.name == encoder.id_column)


VARIANTS: Mapping[str, Altered] = {
    MMOE: {(ranking, "MultiObjectiveRanker"): Shared},
    BOTTOM: {(ranking, "MultiObjectiveRanker"): Shared},
    STEM: {(ranking, "MultiObjectiveRanker"): OwnEmbeddings},
    AFRESH: {(RankingTask, "on_train_epoch_start"): _afresh},
}
ALTERED |= VARIANTS
