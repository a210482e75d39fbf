"""The multi-objective ranker: collaborative, content and context signals in, one logit an objective out.

Each candidate attends to the user's history, its features meet in a low-rank cross network (DCN-V2, Wang et al. 2021),
and gated experts, shared ones and one an objective, feed the heads (CGC of PLE, Tang et al. 2020). What a place on the
screen adds is learnt beside it and not served (PAL, Guo et al. 2019). An objective that needs another one is learnt given
that one (ESMM, Ma et al. 2018). Candidates never see each other, so a score does not depend on the company it is in.

Shapes: B batch, L history, C candidates, D dim, H heads, T objectives, S sources, W width of the joined features.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.features.spec import UNKNOWN, FeatureSpec, TableSpec
from recsys.nn.blocks import Batch, ExactLinear, HistoryEncoder, TableEncoder
from recsys.ranking.funnel import Parents, follow

NUM_SIMILARITIES = 2
FADING_HOURS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, math.inf)
"""half-lives of what happened"""
PLACES_SPEED = 10.0
"""what a place adds differs by several units of a logit, which is far for a parameter that moves a learning rate a step"""
LOSABLE = ("history", "profile", "context")
"""what comes with a query and may fail to"""
NOWHERE = -1
"""an id that no event has"""
RARE = -3.0
"""logit of an objective before training: about 5%"""


class TargetAttention(nn.Module):
    """Each candidate weighs every event of the history by what both are, what they share and how long ago the event was.

    The weights are sigmoids, not a softmax (DIN, Zhou et al. 2018; HSTU, Zhai et al. 2024), so that their sum says how
    much of the history speaks for the candidate: a softmax cannot count. Beside them, the events that share a category's
    value with the candidate are counted as such (the hard search of SIM, Qi et al. 2020), fading at several rates:
    inner products of embeddings learn equality slowly or never.
    """

    def __init__(self, dim: int, num_heads: int, num_columns: int) -> None:
        """num_columns: categories whose values are compared"""
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim * num_heads)
        self.age = nn.Linear(len(FADING_HOURS), num_heads)
        self.shared = nn.Linear(num_columns, num_heads, bias=False)
        self.width = num_heads * dim + 2 * num_heads + num_columns * (len(FADING_HOURS) + 1)

    def forward(
        self, candidates: Tensor, events: Tensor, present: Tensor, gaps: Tensor, shared: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """candidates [B, C, D], events [B, L, D], present [B, L], gaps [B, L], shared K of [B, C, L] ->
        the mean event under the weights [B, C, H D], and how much of the history speaks for the candidate [B, C, ...].
        """
        there = present.unsqueeze(-1).to(gaps.dtype)
        num = present.sum(-1).clamp(min=1)[:, None, None]
        fading = _fading(gaps) * there
        weights = torch.sigmoid(self._likeness(candidates, events, self.age(fading), shared) + _hidden(present))
        summed = weights @ torch.cat([events, there], dim=-1).unsqueeze(1)
        attended = summed[..., :-1].transpose(1, 2).flatten(-2) / num
        sums = summed[..., -1].transpose(1, 2)
        counted = torch.cat([fading / 4, there / num], dim=-1)
        return attended, torch.cat([sums / 4, sums / num, *(column @ counted for column in shared)], dim=-1)

    def _likeness(self, candidates: Tensor, events: Tensor, age: Tensor, shared: Sequence[Tensor]) -> Tensor:
        """Logits of the weights, [B, H, C, L]; age [B, L, H]."""
        query = self.query(candidates).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        likeness = query @ events.unsqueeze(1).transpose(-1, -2) / math.sqrt(events.shape[-1])
        likeness = likeness + age.transpose(1, 2).unsqueeze(2)
        for column, weights in zip(shared, self.shared.weight.T, strict=True):
            likeness = likeness + weights[:, None, None] * column.unsqueeze(1)
        return likeness


def _present(batch: Batch) -> Tensor:
    """[B, L] bool, where there is an event."""
    return batch["history_ids"][..., 0] > 0


def _hidden(present: Tensor) -> Tensor:
    """[B, L] -> [B, 1, 1, L] to add to logits: nothing where there is an event, else so little that the weight is 0."""
    return torch.where(present, 0.0, -1e9)[:, None, None]


def _fading(gaps: Tensor) -> Tensor:
    """log(1 + seconds) from every event to the next one [B, L] -> 2^(-hours until now / FADING_HOURS) [B, L, 7]."""
    hours = torch.expm1(gaps).flip(-1).cumsum(-1).flip(-1).unsqueeze(-1) / 3600
    return torch.exp2(-hours / torch.tensor(FADING_HOURS, dtype=gaps.dtype, device=gaps.device))


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


def _single_slots(table: TableSpec) -> list[int]:
    """Places in the ids of the columns that have one value."""
    slots, start = [], 0
    for column in table.of_kind("category", "categories"):
        slots += [start] if column.slots == 1 else []
        start += column.slots
    return slots


def _expert(width: int, dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, dim), nn.SiLU(), nn.Dropout(dropout), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim)
    )


class MultiObjectiveRanker(nn.Module):
    """Logits [B, C, T] from request, candidate and retrieval-score tensors."""

    score_mean: Tensor
    score_scale: Tensor

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        num_scores: int,
        num_positions: int,
        parents: Parents,
        dim: int,
        num_heads: int,
        cross_rank: int,
        num_cross_layers: int,
        num_experts: int,
        expert_dim: int,
        dropout: float,
        id_dropout: float,
        feature_dropout: float,
    ) -> None:
        """
        feature_dropout: chance that a request loses all of its history, its profile or its context in training, each by
            itself, so that the model knows what to do where one of them fails to come
        num_scores: width of candidate_scores, the retrieval features of a candidate; 0 for logged slates
        num_positions: places whose influence is learnt beside everything else and left out when serving; 0 learns none
        num_experts: that all objectives share; each has one of its own besides
        parents: for each objective the one without which it is not reached
        """
        super().__init__()
        self.dim = dim
        self.item_encoder = TableEncoder(spec.items, dim=dim, id_column="item", id_dropout=id_dropout)
        self.event_encoder = HistoryEncoder(dim=dim, num_objectives=spec.num_objectives)
        self.profile_encoder = TableEncoder(spec.profile, dim=dim) if spec.profile.widths else None
        self.context_encoder = TableEncoder(spec.context, dim=dim) if spec.context.widths else None
        self.slots = _single_slots(spec.items)
        self.attention = TargetAttention(dim, num_heads, len(self.slots))
        self.register_buffer("score_mean", torch.zeros(num_scores))
        self.register_buffer("score_scale", torch.ones(num_scores))
        of_request = (spec.profile, spec.context)
        self.missing_numbers = {f"{table.name}_numbers": table.missing_numbers for table in of_request}
        self.numbers = tuple(f"{table.name}_numbers" for table in of_request if "numbers" in table.widths)
        self.has_numbers = "numbers" in spec.items.widths
        self.has_vectors = "vectors" in spec.items.widths
        num_habits = 1 + 2 * len(FADING_HOURS) * spec.num_objectives
        self.request_width = dim + num_habits + sum(table.widths.get("numbers", 0) for table in of_request)
        """features of a request, see `request`"""
        of_candidate = 2 * dim + self.attention.width + spec.items.widths.get("numbers", 0)
        width = self.request_width + of_candidate + num_scores + NUM_SIMILARITIES
        self.cross = CrossNetwork(width=width, rank=cross_rank, num_layers=num_cross_layers)
        self.experts = nn.ModuleList(
            _expert(width, expert_dim, dropout) for _ in range(num_experts + spec.num_objectives)
        )
        self.num_shared = num_experts
        self.feature_dropout = feature_dropout
        self.gates = nn.Linear(width, spec.num_objectives * (num_experts + 1))
        self.heads = ExactLinear(expert_dim, spec.num_objectives)
        self.parents = parents
        self.wide = ExactLinear(num_scores, spec.num_objectives) if num_scores else None
        self.positions = nn.Embedding(num_positions, spec.num_objectives) if num_positions else None
        self._start_from_retrieval()

    def _start_from_retrieval(self) -> None:
        """Before training the order is that of the merged retrieval score, column 0, so a poor fit cannot lose it."""
        nn.init.zeros_(self.heads.weight)
        nn.init.constant_(self.heads.bias, RARE)
        if self.wide is not None:
            nn.init.zeros_(self.wide.weight)
            nn.init.zeros_(self.wide.bias)
            with torch.no_grad():
                self.wide.weight[:, 0] = 1.0
        if self.positions is not None:
            nn.init.zeros_(self.positions.weight)

    def forward(self, batch: Batch) -> Tensor:
        """With candidate_positions [B, C] of what was shown, the logits are those in these places, else in the first."""
        return self.with_request(self._forgetful(batch) if self.training and self.feature_dropout else batch)[0]

    def with_request(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same, and what it knows of the request, see `request`."""
        request = self.request(batch)
        return follow(self._logits(*self._said(batch, request), batch), self.parents), request

    def last_layer(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """Logits [B, C, T], each given its parent, for each objective the features [B, C, E] it is linear in (what the
        experts say as the objective mixes it, a one, and the retrieval scores), and what is known of the request.
        """
        request = self.request(batch)
        said, gates, scores = self._said(batch, request)
        num, ones = self.num_shared, torch.ones_like(gates[..., 0, :1])
        own = gates[..., num:] * torch.eye(len(self.parents), device=gates.device)
        mixed = torch.cat([gates[..., :num], own], dim=-1) @ torch.stack(said, dim=-2)
        features = tuple(torch.cat([one, ones, scores], dim=-1) for one in mixed.unbind(-2))
        return self._logits(said, gates, scores, batch), features, request

    def learnt(self) -> Tensor:
        """[T, E] how far training moved the weights of those features from where they began."""
        weights = [self.heads.weight, (self.heads.bias - RARE).unsqueeze(-1)]
        if self.wide is not None:
            first = torch.eye(self.wide.in_features, device=self.wide.weight.device)[0]
            weights[1] = weights[1] + self.wide.bias.unsqueeze(-1)
            weights.append(self.wide.weight - first)
        return torch.cat(weights, dim=-1).detach()

    def _forgetful(self, batch: Batch) -> dict[str, Tensor]:
        """Some requests without what a query of nothing would lack."""
        size, device = batch["history_ids"].shape[0], batch["history_ids"].device
        lost = {name: torch.rand(size, device=device) < self.feature_dropout for name in LOSABLE}
        kept = dict(batch)
        for name, tensor in batch.items():
            if (group := name.partition("_")[0]) in lost:
                empty = tensor.new_tensor(self.missing_numbers.get(name, 0))
                kept[name] = torch.where(lost[group].view(-1, *[1] * (tensor.dim() - 1)), empty, tensor)
        return kept

    def _said(self, batch: Batch, request: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """What each expert says [B, C, expert_dim], how each objective weighs the shared ones and its own [B, C, T, .],
        and the standardised scores.
        """
        joined, scores = self._join(batch, request)
        crossed = self.cross(joined)
        gates = self.gates(crossed).unflatten(-1, (len(self.parents), -1)).softmax(-1)
        return [expert(crossed) for expert in self.experts], gates, scores

    def _logits(self, said: Sequence[Tensor], gates: Tensor, scores: Tensor, batch: Batch) -> Tensor:
        """-> [B, C, T]. The heads are linear, so what the experts say is weighed behind them."""
        votes = [self.heads(one) for one in said]
        own = torch.stack([one[..., place] for place, one in enumerate(votes[self.num_shared :])], dim=-1)
        logits = (torch.stack([*votes[: self.num_shared], own], dim=-1) * gates).sum(-1)
        if self.wide is not None:
            logits = logits + self.wide(scores)
        return self._placed(logits, batch)

    def _placed(self, logits: Tensor, batch: Batch) -> Tensor:
        """With what the places add, where they are told."""
        if self.positions is None or "candidate_positions" not in batch:
            return logits
        last = self.positions.num_embeddings - 1
        places = self.positions(batch["candidate_positions"].clamp(max=last)) - self.positions.weight[0]
        return logits + PLACES_SPEED * places

    @property
    def shared(self) -> nn.Parameter:
        """Weights that all objectives have in common: the last layer of the first shared expert."""
        return self.experts[0][-1].weight  # type: ignore[index]

    def fit_scores(self, scores: Tensor) -> None:
        """Standardise candidate_scores [R, num_scores] by the training examples."""
        if not scores.shape[-1]:
            return
        self.score_mean.copy_(scores.mean(0))
        self.score_scale.copy_(scores.std(0, correction=0).clamp(min=1e-3))

    def request(self, batch: Batch) -> Tensor:
        """What is known of a request whatever its candidates, [B, request_width]: who asks and when as one vector, habits,
        numbers.
        """
        user = batch["history_gaps"].new_zeros(batch["history_gaps"].shape[0], self.dim)
        if self.context_encoder is not None:
            user = user + self.context_encoder(batch, "context")
        if self.profile_encoder is not None:
            user = user + self.profile_encoder(batch, "profile")
        return torch.cat([user, self._habits(batch), *(batch[name] for name in self.numbers)], dim=-1)

    def _join(self, batch: Batch, request: Tensor) -> tuple[Tensor, Tensor]:
        """-> features [B, C, W] and standardised retrieval scores [B, C, S']."""
        present = _present(batch)
        candidates = self.item_encoder(batch, "candidate")
        events = self.event_encoder(self.item_encoder(batch, "history"), batch["history_labels"], batch["history_gaps"])
        attended, speaking = self.attention(candidates, events, present, batch["history_gaps"], self._shared(batch))
        request = request.unsqueeze(1).expand(-1, candidates.shape[1], -1)
        user = request[..., : self.dim]
        numbers = [batch["candidate_numbers"]] if self.has_numbers else []
        scores = ((batch["candidate_scores"] - self.score_mean) / self.score_scale).clamp(-5, 5)
        similarities = self._similarities(batch, present, candidates)
        joined = [candidates, attended, candidates * user, request, speaking, *numbers, scores, similarities]
        return torch.cat(joined, dim=-1), scores

    def _habits(self, batch: Batch) -> Tensor:
        """How many events there are, how many of them reached each objective, and which share, fading at every rate:
        [B, 1 + 14 T], zero without a history. Logarithm and root, because one event in fifty says much beside none.
        """
        present = _present(batch)
        weights = _fading(batch["history_gaps"]) * present.unsqueeze(-1)
        reached = (weights.transpose(1, 2) @ batch["history_labels"].clamp(0, 1)).flatten(1)
        most = weights.sum(1).clamp(min=1e-6).repeat_interleave(batch["history_labels"].shape[-1], dim=-1)
        return torch.cat([present.sum(-1, keepdim=True).log1p(), reached.log1p(), (reached / most).sqrt()], dim=-1)

    def _shared(self, batch: Batch) -> list[Tensor]:
        """For each category [B, C, L]: 1.0 where a candidate and an event have the same known value."""
        candidate, event = batch["candidate_ids"], batch["history_ids"]
        known = torch.where(candidate > UNKNOWN, candidate, NOWHERE)
        return [(known[:, :, None, slot] == event[:, None, :, slot]).float() for slot in self.slots]

    def _similarities(self, batch: Batch, present: Tensor, candidates: Tensor) -> Tensor:
        """Largest and mean content cosine of a candidate to the history: [B, C, 2], zero without content or history."""
        if not self.has_vectors:
            return torch.zeros_like(candidates[..., :NUM_SIMILARITIES])
        vectors = F.normalize(batch["candidate_vectors"], dim=-1)
        history = F.normalize(batch["history_vectors"], dim=-1) * present.unsqueeze(-1)
        cosine = vectors @ history.transpose(1, 2)
        mean = cosine.sum(-1) / present.sum(-1, keepdim=True).clamp(min=1)
        return torch.stack([cosine.amax(-1), mean], dim=-1)
