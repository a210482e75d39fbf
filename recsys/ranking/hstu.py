"""HSTU as a ranker (Zhai et al. 2024): each candidate stands at the end of the user's sequence and reads it layer by layer.

Shapes: B batch, L history, C candidates, D dim, H heads, F features of a request; P = L + 1 positions.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError, check_ranges
from recsys.nn.blocks import Batch, causal_mask
from recsys.nn.hstu import HSTULayer, elapsed_buckets
from recsys.ranking.base import RankerBase, present_events
from recsys.ranking.crossed import feed_forward
from recsys.ranking.model import LastLayer, RankerInputs, RankerSizes


class HSTURanker(RankerBase):
    """The request, the events with their labels, and each candidate as one sequence; a feed-forward network reads its end.

    Candidates never look at each other, so one pass over the history serves all of them (M-FALCON, section 3.4).
    """

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes, num_blocks: int) -> None:
        super().__init__(inputs=inputs, sizes=sizes)
        check_ranges("ranking.model", num_blocks=(num_blocks, 1, 48))
        if sizes.dim % sizes.num_heads:
            raise ConfigError(
                f"ranking.sizes.dim is {sizes.dim}, not a multiple of ranking.sizes.num_heads {sizes.num_heads}"
            )
        self.start = nn.Linear(self.request_width, sizes.dim)
        length = inputs.spec.history_length
        layers = nn.ModuleList(
            TargetHSTULayer(dim=sizes.dim, num_heads=sizes.num_heads, length=length, dropout=sizes.dropout)
            for _ in range(num_blocks)
        )
        self.layers = cast("Sequence[TargetHSTULayer]", layers)
        self.norm = nn.LayerNorm(sizes.dim)
        self.deep = feed_forward(sizes.dim + self.request_width + inputs.num_scores, sizes.expert_dim, sizes.dropout)
        self.add_last_layer(sizes.expert_dim)

    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        ends, scores = self.norm(self.sequence_ends(batch, request)), self.standard_scores(batch)
        wide = request.unsqueeze(1).expand(-1, ends.shape[1], -1)
        return self.linear([self.deep(torch.cat([ends, wide, scores], dim=-1))], scores, batch)

    def sequence_ends(self, batch: Batch, request: Tensor) -> Tensor:
        """Return the states [B, C, D] of the candidates behind the last layer; request [B, F]."""
        present = present_events(batch)
        mask, elapsed = causal_mask(present), elapsed_buckets(present, batch["history_gaps"])
        states = torch.cat([self.start(request).unsqueeze(1), self.history(batch)], dim=1)
        candidates = self.item_encoder(batch, "candidate")
        for layer in self.layers:
            candidates, states = layer.ends(candidates, states, mask, elapsed), layer(states, mask, elapsed)
        return candidates

    @property
    def shared(self) -> Tensor:
        return self.deep[-1].weight  # type: ignore[return-value]


class TargetHSTULayer(HSTULayer):
    """The layer of a sequence, and the same for tokens of which each stands at its end."""

    def ends(self, candidates: Tensor, x: Tensor, mask: Tensor, elapsed: Tensor) -> Tensor:
        """candidates [B, C, D] behind the sequence x [B, P, D] -> [B, C, D]; mask and elapsed as in `forward`.

        A candidate comes at the time of the request, which follows the last position.
        """
        gate, own_value, query, own_key = self.projected(candidates)
        _, value, _, key = self.projected(x)
        positions = self.position_bias(x.shape[1] + 1)[:, -1:]
        bias = positions[..., :-1] + self.time_biases(elapsed[:, -1:])
        weights = self.weights(query @ key.transpose(-1, -2), bias).masked_fill(~mask[:, :, -1:], 0.0)
        own_weights = self.weights((query * own_key).sum(-1, keepdim=True), positions[..., -1:])
        return self.gated(candidates, gate, weights @ value + own_weights * own_value)
