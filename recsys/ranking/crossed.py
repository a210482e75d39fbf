"""Features of request and candidate, joined and crossed: history attention, content similarity, DCN-V2's cross network.

Shapes: B batch, L history, C candidates, D dim, H heads, T objectives, K categories, S scores, W width of the joined features.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.features.spec import UNKNOWN, TableSpec
from recsys.nn.blocks import Batch
from recsys.ranking.base import HALF_LIVES_HOURS, RankerBase, decay, present_events
from recsys.ranking.model import RankerInputs, RankerSizes

NUM_SIMILARITIES = 2
NO_EVENT_ID = -1
"""an id that no event has"""


class HistoryPooling(nn.Module):
    """Mean of the history, the same for every candidate."""

    width: int
    """of both results together"""

    def __init__(self, dim: int, num_heads: int, num_columns: int) -> None:
        """num_heads and num_columns are those of attention, which has the same constructor"""
        super().__init__()
        self.width = dim

    def forward(
        self, candidates: Tensor, events: Tensor, present: Tensor, gaps: Tensor, same_category: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Arguments as in `TargetAttention` -> mean event [B, C, D], nothing [B, C, 0]."""
        mean = (events * present.unsqueeze(-1)).sum(1) / present.sum(1).clamp(min=1)[:, None]
        return mean.unsqueeze(1).expand(-1, candidates.shape[1], -1), candidates[..., :0]


class TargetAttention(HistoryPooling):
    """Each candidate weighs every event of the history by both items, their shared categories and the age of the event.

    The weights are sigmoids, not a softmax (DIN, Zhou et al. 2018; HSTU, Zhai et al. 2024), so that their sum measures how
    much of the history matches the candidate: a softmax cannot count. Beside them, the events that share a category's
    value with the candidate are counted as such (the hard search of SIM, Qi et al. 2020), decayed at several rates:
    inner products of embeddings learn equality slowly or never.
    """

    def __init__(self, dim: int, num_heads: int, num_columns: int) -> None:
        """num_columns: categories whose values are compared"""
        super().__init__(dim, num_heads, num_columns)
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim * num_heads)
        self.age = nn.Linear(len(HALF_LIVES_HOURS), num_heads)
        self.shared = nn.Linear(num_columns, num_heads, bias=False)
        self.width = num_heads * dim + 2 * num_heads + num_columns * (len(HALF_LIVES_HOURS) + 1)

    def forward(
        self, candidates: Tensor, events: Tensor, present: Tensor, gaps: Tensor, same_category: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """candidates [B, C, D], events [B, L, D], present [B, L], gaps [B, L], same_category K of [B, C, L] ->
        the mean event under the weights [B, C, H D], and the amount of the history that matches the candidate [B, C, ...].
        """
        mask = present.unsqueeze(-1).to(gaps.dtype)
        num = present.sum(-1).clamp(min=1)[:, None, None]
        decayed = decay(gaps) * mask
        weights = torch.sigmoid(
            self._similarity(candidates, events, self.age(decayed), same_category) + _mask_logits(present)
        )
        summed = weights @ torch.cat([events, mask], dim=-1).unsqueeze(1)
        attended = summed[..., :-1].transpose(1, 2).flatten(-2) / num
        sums = summed[..., -1].transpose(1, 2)
        counted = torch.cat([decayed / 4, mask / num], dim=-1)
        return attended, torch.cat([sums / 4, sums / num, *(column @ counted for column in same_category)], dim=-1)

    def _similarity(self, candidates: Tensor, events: Tensor, age: Tensor, same_category: Sequence[Tensor]) -> Tensor:
        """Logits of the weights, [B, H, C, L]; age [B, L, H]."""
        query = self.query(candidates).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        similarity = query @ events.unsqueeze(1).transpose(-1, -2) / math.sqrt(events.shape[-1])
        similarity = similarity + age.transpose(1, 2).unsqueeze(2)
        for column, weights in zip(same_category, self.shared.weight.T, strict=True):
            similarity = similarity + weights[:, None, None] * column.unsqueeze(1)
        return similarity


def _mask_logits(present: Tensor) -> Tensor:
    """[B, L] -> [B, 1, 1, L] to add to logits: 0 where there is an event, else so little that the weight is 0."""
    return torch.where(present, 0.0, -1e9)[:, None, None]


class CrossNetwork(nn.Module):
    """x <- x0 * (U V x + b) + x, low rank."""

    def __init__(self, *, width: int, rank: int, num_layers: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(width, rank, bias=False) for _ in range(num_layers))
        self.up = nn.ModuleList(nn.Linear(rank, width) for _ in range(num_layers))

    def forward(self, first: Tensor) -> Tensor:
        x = first
        for down, up in zip(self.down, self.up, strict=True):
            x = first * up(down(x)) + x
        return x


def single_value_slots(table: TableSpec) -> list[int]:
    """Columns in the ids that belong to categories of one value."""
    slots, start = [], 0
    for column in table.of_part("ids"):
        slots += [start] if column.slots == 1 else []
        start += column.slots
    return slots


def same_values(batch: Batch, slots: Sequence[int]) -> list[Tensor]:
    """For each category [B, C, L]: 1.0 where a candidate and an event have the same known value."""
    candidate, event = batch["candidate_ids"], batch["history_ids"]
    known = torch.where(candidate > UNKNOWN, candidate, NO_EVENT_ID)
    return [(known[:, :, None, slot] == event[:, None, :, slot]).float() for slot in slots]


def content_similarities(batch: Batch, present: Tensor) -> Tensor:
    """Largest and mean content cosine of a candidate to the history: [B, C, 2], zero without history."""
    vectors = F.normalize(batch["candidate_vectors"], dim=-1)
    history = F.normalize(batch["history_vectors"], dim=-1) * present.unsqueeze(-1)
    cosine = vectors @ history.transpose(1, 2)
    mean = cosine.sum(-1) / present.sum(-1, keepdim=True).clamp(min=1)
    largest = cosine.masked_fill(~present.unsqueeze(1), -1.0).amax(-1) * present.any(-1, keepdim=True)
    return torch.stack([largest, mean], dim=-1)


def feed_forward(width: int, dim: int, dropout: float) -> nn.Sequential:
    """Expert: [..., width] -> [..., dim]."""
    return nn.Sequential(
        nn.Linear(width, dim), nn.SiLU(), nn.Dropout(dropout), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim)
    )


class CrossedRanker(RankerBase):
    """A ranker whose last layer stands on crossed features; a subclass defines `last_layer` and `shared`."""

    pooling: ClassVar[type[HistoryPooling]] = TargetAttention
    """of the history"""

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes) -> None:
        super().__init__(inputs=inputs, sizes=sizes)
        spec = inputs.spec
        self.slots = single_value_slots(spec.items)
        self.attention = self.pooling(sizes.dim, sizes.num_heads, len(self.slots))
        self.has_numbers = "numbers" in spec.items.widths
        self.has_vectors = "vectors" in spec.items.widths
        candidate_width = 2 * sizes.dim + self.attention.width + spec.items.widths.get("numbers", 0)
        self.width = self.request_width + candidate_width + inputs.num_scores + NUM_SIMILARITIES
        self.cross = CrossNetwork(width=self.width, rank=sizes.cross_rank, num_layers=sizes.num_cross_layers)

    def crossed(self, batch: Batch, request: Tensor) -> tuple[Tensor, Tensor]:
        """Return crossed features [B, C, W] and standardised retrieval scores [B, C, S]; request [B, F]."""
        joined, scores = self.join(batch, request)
        return self.cross(joined), scores

    def join(self, batch: Batch, request: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, C, W] and standardised retrieval scores [B, C, S]; request [B, F]."""
        present = present_events(batch)
        candidates, events = self.item_encoder(batch, "candidate"), self.history(batch)
        attended, history_match = self.attention(
            candidates, events, present, batch["history_gaps"], self.same_category(batch)
        )
        request = request.unsqueeze(1).expand(-1, candidates.shape[1], -1)
        user = request[..., : self.dim]
        numbers = [batch["candidate_numbers"]] if self.has_numbers else []
        scores = self.standard_scores(batch)
        similarities = self.similarities(batch, present, candidates)
        joined = [candidates, attended, candidates * user, request, history_match, *numbers, scores, similarities]
        return torch.cat(joined, dim=-1), scores

    def same_category(self, batch: Batch) -> list[Tensor]:
        return same_values(batch, self.slots)

    def similarities(self, batch: Batch, present: Tensor, candidates: Tensor) -> Tensor:
        """`content_similarities`, zero without content."""
        if not self.has_vectors:
            return torch.zeros_like(candidates[..., :NUM_SIMILARITIES])
        return content_similarities(batch, present)
