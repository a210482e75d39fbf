"""Parts that rankers share: encoders of the request and the candidate, the last layer, position bias, feature dropout.

Shapes: B batch, L history, C candidates, D dim, T objectives, S scores, N experts, E expert_dim.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from recsys.nn.blocks import Batch, ExactLinear, HistoryEncoder, TableEncoder
from recsys.ranking.model import LastLayer, RankerInputs, RankerModel, RankerSizes
from recsys.ranking.objective_chain import chain_logits, with_ancestors
from recsys.tensors import part_name

HALF_LIVES_HOURS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, math.inf)
"""at which the weight of an event decays"""
POSITION_BIAS_SCALE = 10.0
"""position biases differ by several units of a logit, which is far for a parameter that moves a learning rate a step"""
DROPPABLE_GROUPS = ("history", "profile", "context")
"""features that come with a query and may fail to"""
INITIAL_LOGIT = -3.0
"""of an objective before training: about 5%"""
MAX_STANDARD_SCORE = 5.0


def present_events(batch: Batch) -> Tensor:
    """[B, L] bool, where there is an event."""
    return batch["history_ids"][..., 0] > 0


def decay(gaps: Tensor) -> Tensor:
    """log(1 + seconds) from every event to the next one [B, L] -> 2^(-hours until now / HALF_LIVES_HOURS) [B, L, 7]."""
    hours = torch.expm1(gaps).flip(-1).cumsum(-1).flip(-1).unsqueeze(-1) / 3600
    return torch.exp2(-hours / torch.tensor(HALF_LIVES_HOURS, dtype=gaps.dtype, device=gaps.device))


class RankerBase(RankerModel):
    """Everything of a ranker but `last_layer` and `shared`.

    A subclass builds its own layers after `super().__init__`, calls `add_last_layer` at the end, and returns from
    `last_layer` what `linear` or `mixture` makes of its features.
    """

    score_mean: Tensor
    score_scale: Tensor
    heads: ExactLinear
    wide: ExactLinear | None
    positions: nn.Embedding | None

    def __init__(self, *, inputs: RankerInputs, sizes: RankerSizes) -> None:
        super().__init__()
        spec, dim = inputs.spec, sizes.dim
        self.dim = dim
        self.inputs = inputs
        self.parents = inputs.parents
        self.item_encoder = TableEncoder(spec.items, dim=dim, id_column="item", id_dropout=sizes.id_dropout)
        self.event_encoder = HistoryEncoder(dim=dim, num_objectives=spec.num_objectives)
        self.profile_encoder = TableEncoder(spec.profile, dim=dim) if spec.profile.widths else None
        self.context_encoder = TableEncoder(spec.context, dim=dim) if spec.context.widths else None
        self.register_buffer("score_mean", torch.zeros(inputs.num_scores))
        self.register_buffer("score_scale", torch.ones(inputs.num_scores))
        request_tables = (spec.profile, spec.context)
        self.missing_numbers = {part_name(table.name, "numbers"): table.missing_numbers for table in request_tables}
        self.numbers = tuple(part_name(table.name, "numbers") for table in request_tables if "numbers" in table.widths)
        num_habits = 1 + 2 * len(HALF_LIVES_HOURS) * spec.num_objectives
        self.request_width = dim + num_habits + sum(table.widths.get("numbers", 0) for table in request_tables)
        """number of features of a request, see `request`"""
        self.feature_dropout = sizes.feature_dropout

    def add_last_layer(self, width: int, *, wide: bool = True) -> None:
        """Add heads on features of this width, linear terms of the retrieval scores if `wide`, and position biases.

        Before training the order is that of the merged retrieval score, column 0, so a poor fit cannot lose it.
        """
        num_scores, num_objectives = self.inputs.num_scores, self.inputs.spec.num_objectives
        self.heads = ExactLinear(width, num_objectives)
        self.wide = ExactLinear(num_scores, num_objectives) if wide and num_scores else None
        num_positions = self.inputs.num_positions
        self.positions = nn.Embedding(num_positions, num_objectives) if num_positions else None
        nn.init.zeros_(self.heads.weight)
        nn.init.constant_(self.heads.bias, INITIAL_LOGIT)
        if self.wide is not None:
            nn.init.zeros_(self.wide.weight)
            nn.init.zeros_(self.wide.bias)
            with torch.no_grad():
                self.wide.weight[:, 0] = 1.0
        if self.positions is not None:
            nn.init.zeros_(self.positions.weight)

    @property
    def retrieval_first(self) -> bool:
        return self.wide is not None

    def forward(self, batch: Batch) -> Tensor:
        if self.training and self.feature_dropout:
            batch = self.drop_feature_groups(batch)
        return chain_logits(self.last_layer(batch, self.request(batch)).logits, self.parents)

    def request(self, batch: Batch) -> Tensor:
        """Return [B, request_width]: the user and the moment as one vector, habits, numbers."""
        user = batch["history_gaps"].new_zeros(batch["history_gaps"].shape[0], self.dim)
        if self.context_encoder is not None:
            user = user + self.context_encoder(batch, "context")
        if self.profile_encoder is not None:
            user = user + self.profile_encoder(batch, "profile")
        return torch.cat([user, self.habits(batch), *(batch[name] for name in self.numbers)], dim=-1)

    def weight_change(self) -> Tensor:
        """Return [T, E] how far training moved heads and linear terms from where they began."""
        weights = [self.heads.weight, (self.heads.bias - INITIAL_LOGIT).unsqueeze(-1)]
        if self.wide is not None:
            first = torch.eye(self.wide.in_features, device=self.wide.weight.device)[0]
            weights[1] = weights[1] + self.wide.bias.unsqueeze(-1)
            weights.append(self.wide.weight - first)
        return torch.cat(weights, dim=-1).detach()

    @torch.no_grad()
    def order_by_retrieval(self, objective: int) -> None:
        if self.wide is None:
            super().order_by_retrieval(objective)
            return
        for own in with_ancestors(objective, self.parents):
            self.heads.weight[own], self.heads.bias[own] = 0.0, INITIAL_LOGIT
            self.wide.weight[own], self.wide.bias[own] = 0.0, 0.0
            self.wide.weight[own, 0] = 1.0

    def fit_scores(self, scores: Tensor) -> None:
        if not scores.shape[-1]:
            return
        self.score_mean.copy_(scores.mean(0))
        self.score_scale.copy_(scores.std(0, correction=0).clamp(min=1e-3))

    def standard_scores(self, batch: Batch) -> Tensor:
        """Retrieval scores of the candidates, standardised, [B, C, S]."""
        scores = (batch["candidate_scores"] - self.score_mean) / self.score_scale
        beyond = (scores.abs() - MAX_STANDARD_SCORE).clamp(min=0)
        # outliers count little more than the largest score, but the order of the best candidates has to stay
        return scores.clamp(-MAX_STANDARD_SCORE, MAX_STANDARD_SCORE) + scores.sign() * beyond.log1p()

    def history(self, batch: Batch) -> Tensor:
        """Events of the history as vectors, [B, L, D]."""
        items = self.item_encoder(batch, "history")
        return self.event_encoder(items, batch["history_labels"], batch["history_gaps"])

    @staticmethod
    def habits(batch: Batch) -> Tensor:
        """Number of events, number that reached each objective, and their share, decayed at every rate:
        [B, 1 + 14 T], zero without a history. Logarithm and root, because one event in fifty differs much from none.
        """
        present = present_events(batch)
        weights = decay(batch["history_gaps"]) * present.unsqueeze(-1)
        reached = (weights.transpose(1, 2) @ batch["history_labels"].clamp(0, 1)).flatten(1)
        most = weights.sum(1).clamp(min=1e-6).repeat_interleave(batch["history_labels"].shape[-1], dim=-1)
        return torch.cat([present.sum(-1, keepdim=True).log1p(), reached.log1p(), (reached / most).sqrt()], dim=-1)

    def linear(self, features: Sequence[Tensor], scores: Tensor, batch: Batch) -> LastLayer:
        """Return the last layer on features [B, C, width] of each objective; a single tensor serves all of them.

        scores: `standard_scores`
        """
        if len(features) == 1:
            logits, features = self.heads(features[0]), [features[0]] * len(self.parents)
        else:
            logits = torch.stack([self.heads(one)[..., index] for index, one in enumerate(features)], dim=-1)
        return self._layer(logits, lambda: features, scores, batch)

    def mixture(
        self, shared: Sequence[Tensor], own: Sequence[Tensor], gates: Tensor, scores: Tensor, batch: Batch
    ) -> LastLayer:
        """Return the last layer on outputs [B, C, E] of shared experts and, if any, one of each objective's own, mixed by
        gates [B, C, T, N]: N - 1 shared ones and the own one, or N shared ones.
        """
        # heads are linear, so they come before the mixture, which then is one of numbers in the place of vectors
        expert_logits = [self.heads(one) for one in (*shared, *own)]
        columns = expert_logits[: len(shared)]
        if own:
            of_own = [one[..., index] for index, one in enumerate(expert_logits[len(shared) :])]
            columns = [*columns, torch.stack(of_own, dim=-1)]
        logits = (torch.stack(columns, dim=-1) * gates).sum(-1)

        def features() -> Sequence[Tensor]:
            weights = gates
            if own:
                eye = torch.eye(len(self.parents), device=gates.device)
                weights = torch.cat([gates[..., : len(shared)], gates[..., len(shared) :] * eye], dim=-1)
            return (weights @ torch.stack([*shared, *own], dim=-2)).unbind(-2)

        return self._layer(logits, features, scores, batch)

    def _layer(
        self, logits: Tensor, features: Callable[[], Sequence[Tensor]], scores: Tensor, batch: Batch
    ) -> LastLayer:
        terms = [] if self.wide is None else [scores]
        if self.wide is not None:
            logits = logits + self.wide(scores)

        def with_linear_terms() -> tuple[Tensor, ...]:
            ones = torch.ones_like(logits[..., :1])
            return tuple(torch.cat([one, ones, *terms], dim=-1) for one in features())

        return LastLayer(self.add_position_bias(logits, batch), with_linear_terms)

    def add_position_bias(self, logits: Tensor, batch: Batch) -> Tensor:
        """Add the biases of candidate_positions relative to the first position, where the batch has them."""
        if self.positions is None or "candidate_positions" not in batch:
            return logits
        last = self.positions.num_embeddings - 1
        biases = self.positions(batch["candidate_positions"].clamp(max=last)) - self.positions.weight[0]
        return logits + POSITION_BIAS_SCALE * biases

    def drop_feature_groups(self, batch: Batch) -> dict[str, Tensor]:
        """Replace groups of some requests by what an empty query has, each by itself."""
        size, device = batch["history_ids"].shape[0], batch["history_ids"].device
        dropped = {name: torch.rand(size, device=device) < self.feature_dropout for name in DROPPABLE_GROUPS}
        kept = dict(batch)
        for name, tensor in batch.items():
            if (group := name.partition("_")[0]) in dropped:
                empty = tensor.new_tensor(self.missing_numbers.get(name, 0))
                kept[name] = torch.where(dropped[group].view(-1, *[1] * (tensor.dim() - 1)), empty, tensor)
        return kept
