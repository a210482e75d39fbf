"""The multi-objective ranker: collaborative, content and context signals in, one logit an objective out.

Each candidate attends to the user's history (DIN, Zhou et al. 2018), its features meet in a low-rank cross network
(DCN-V2, Wang et al. 2021), and gated experts feed one head an objective (MMoE, Ma et al. 2018). Candidates never see
each other, so a score does not depend on the company it is in.

Shapes: B batch, L history, C candidates, D dim, T objectives, S sources, E experts, W width of the joined features.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.features.spec import FeatureSpec
from recsys.nn.blocks import Batch, HistoryEncoder, TableEncoder

NUM_SIMILARITIES = 2
RARE = -3.0
"""logit of an objective before training: about 5%"""


class TargetAttention(nn.Module):
    """Each candidate picks the events that matter to it; a null event stands for an empty history."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.null = nn.Parameter(torch.zeros(1, 1, dim))

    def forward(self, candidates: Tensor, events: Tensor, present: Tensor) -> Tensor:
        """candidates [B, C, D], events [B, L, D], present [B, L] -> [B, C, D]."""
        events = torch.cat([self.null.expand(events.shape[0], -1, -1), events], dim=1)
        present = torch.cat([torch.ones_like(present[:, :1]), present], dim=1)
        scores = self.query(candidates) @ self.key(events).transpose(1, 2) / math.sqrt(events.shape[-1])
        weights = scores.masked_fill(~present.unsqueeze(1), float("-inf")).softmax(-1)
        return weights @ events


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


class MultiObjectiveRanker(nn.Module):
    """Logits [B, C, T] from request, candidate and retrieval-score tensors."""

    score_mean: Tensor
    score_scale: Tensor

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        num_scores: int,
        dim: int,
        cross_rank: int,
        num_cross_layers: int,
        num_experts: int,
        expert_dim: int,
        dropout: float,
        id_dropout: float,
    ) -> None:
        """num_scores: width of candidate_scores, the retrieval features of a candidate."""
        super().__init__()
        self.item_encoder = TableEncoder(spec.items, dim=dim, id_column="item", id_dropout=id_dropout)
        self.event_encoder = HistoryEncoder(dim=dim, num_objectives=spec.num_objectives)
        self.profile_encoder = TableEncoder(spec.profile, dim=dim) if spec.profile.widths else None
        self.context_encoder = TableEncoder(spec.context, dim=dim) if spec.context.widths else None
        self.attention = TargetAttention(dim)
        self.register_buffer("score_mean", torch.zeros(num_scores))
        self.register_buffer("score_scale", torch.ones(num_scores))
        width = 4 * dim + num_scores + NUM_SIMILARITIES
        self.cross = CrossNetwork(width=width, rank=cross_rank, num_layers=num_cross_layers)
        self.experts = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, expert_dim), nn.SiLU(), nn.Dropout(dropout), nn.Linear(expert_dim, expert_dim)
            )
            for _ in range(num_experts)
        )
        self.gates = nn.ModuleList(nn.Linear(width, num_experts) for _ in range(spec.num_objectives))
        self.heads = nn.ModuleList(nn.Linear(expert_dim, 1) for _ in range(spec.num_objectives))
        self.wide = nn.Linear(num_scores, spec.num_objectives)
        self.has_vectors = "vectors" in spec.items.widths
        self._start_from_retrieval()

    def _start_from_retrieval(self) -> None:
        """Before training the order is that of the merged retrieval score, column 0, so a poor fit cannot lose it."""
        for name, parameter in [*self.heads.named_parameters(), *self.wide.named_parameters()]:
            nn.init.constant_(parameter, RARE if name.endswith(".bias") else 0.0)
        with torch.no_grad():
            self.wide.weight[:, 0] = 1.0

    def forward(self, batch: Batch) -> Tensor:
        joined, scores = self._join(batch)
        crossed = self.cross(joined)
        experts = torch.stack([expert(crossed) for expert in self.experts], dim=-1)
        logits = [
            head((experts * gate(crossed).softmax(-1).unsqueeze(-2)).sum(-1))
            for gate, head in zip(self.gates, self.heads, strict=True)
        ]
        return torch.cat(logits, dim=-1) + self.wide(scores)

    def fit_scores(self, scores: Tensor) -> None:
        """Standardise candidate_scores [R, num_scores] by the training examples."""
        self.score_mean.copy_(scores.mean(0))
        self.score_scale.copy_(scores.std(0).clamp(min=1e-3))

    def _join(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """-> features [B, C, W] and standardised retrieval scores [B, C, S']."""
        present = batch["history_ids"][..., 0] > 0
        candidates = self.item_encoder(batch, "candidate")
        events = self.event_encoder(self.item_encoder(batch, "history"), batch["history_labels"], batch["history_gaps"])
        attended = self.attention(candidates, events, present)
        user = torch.zeros_like(candidates[:, 0])
        if self.context_encoder is not None:
            user = user + self.context_encoder(batch, "context")
        if self.profile_encoder is not None:
            user = user + self.profile_encoder(batch, "profile")
        user = user.unsqueeze(1).expand(-1, candidates.shape[1], -1)
        scores = ((batch["candidate_scores"] - self.score_mean) / self.score_scale).clamp(-5, 5)
        similarities = self._similarities(batch, present, candidates)
        joined = [candidates, attended, candidates * (attended + user), user, scores, similarities]
        return torch.cat(joined, dim=-1), scores

    def _similarities(self, batch: Batch, present: Tensor, candidates: Tensor) -> Tensor:
        """Largest and mean content cosine of a candidate to the history: [B, C, 2], zero without content or history."""
        if not self.has_vectors:
            return torch.zeros_like(candidates[..., :NUM_SIMILARITIES])
        vectors = F.normalize(batch["candidate_vectors"], dim=-1)
        history = F.normalize(batch["history_vectors"], dim=-1) * present.unsqueeze(-1)
        cosine = vectors @ history.transpose(1, 2)
        mean = cosine.sum(-1) / present.sum(-1, keepdim=True).clamp(min=1)
        return torch.stack([cosine.amax(-1), mean], dim=-1)
