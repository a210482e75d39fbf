"""The two-tower retrieval model.

Both towers end in unit vectors, so the score is a cosine; a user with several interests has a vector for each, and the score
is the largest cosine. The encoder of histories is a choice of conf/retrieval/user_encoder.

Shapes: B batch, L history, D dim, K interests, T objectives, N items; P = L + 1 positions, the first before any event.
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.features.spec import FeatureSpec
from recsys.nn.blocks import Batch, HistoryEncoder, TableEncoder
from recsys.retrieval.user_encoder import UserEncoderFactory


class TwoTower(nn.Module):
    """User tower over history, profile and context; item tower over id and content. Both share the item encoder."""

    def __init__(
        self, *, spec: FeatureSpec, dim: int, dropout: float, id_dropout: float, user_encoder: UserEncoderFactory
    ) -> None:
        super().__init__()
        self.item_encoder = TableEncoder(spec.items, dim=dim, id_column="item", id_dropout=id_dropout)
        self.item_head = nn.Linear(dim, dim, bias=False)
        self.event_encoder = HistoryEncoder(dim=dim, num_objectives=spec.num_objectives)
        self.start = nn.Parameter(torch.zeros(1, 1, dim))
        self.dropout = nn.Dropout(dropout)
        self.user_encoder = user_encoder(dim=dim, length=spec.history_length, dropout=dropout)
        self.profile_encoder = TableEncoder(spec.profile, dim=dim) if spec.profile.widths else None
        self.context_encoder = TableEncoder(spec.context, dim=dim) if spec.context.widths else None
        self.user_head = nn.Sequential(
            nn.Linear(3 * dim, 2 * dim), nn.SiLU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim)
        )
        nn.init.eye_(self.item_head.weight)
        nn.init.normal_(self.start, std=0.02)

    def items(self, batch: Batch) -> Tensor:
        """item_* tensors of R rows -> [R, D] unit vectors."""
        return self.vectors(self.item_encoder(batch, "item"))

    def vectors(self, encoded: Tensor) -> Tensor:
        """Outputs of `item_encoder` [..., D] -> unit vectors."""
        return F.normalize(self.item_head(encoded), dim=-1)

    def users(self, batch: Batch) -> Tensor:
        """Request tensors -> unit vectors of the interests, [B, K D]; an empty history takes the state of the start token."""
        present, gaps = batch["history_ids"][..., 0] > 0, batch["history_gaps"]
        tokens = self._tokens(self.item_encoder(batch, "history"), batch["history_labels"], gaps)
        return self.head(self.user_encoder.last(tokens, present, gaps), batch)

    def histories(self, items: Tensor, present: Tensor, labels: Tensor, gaps: Tensor) -> Tensor:
        """Encode the history up to each of its positions, [B, P, K D].

        items [B, L, D] from `item_encoder`; present [B, L] bool; labels [B, L, T]; gaps [B, L].
        """
        return self.user_encoder(self._tokens(items, labels, gaps), present, gaps)

    def _tokens(self, items: Tensor, labels: Tensor, gaps: Tensor) -> Tensor:
        events = self.event_encoder(items, labels, gaps)
        return self.dropout(torch.cat([self.start.expand(events.shape[0], -1, -1), events], dim=1))

    @property
    def interests(self) -> int:
        """Vectors of a user."""
        return self.user_encoder.interests

    def head(self, histories: Tensor, batch: Batch) -> Tensor:
        """History states [M, K D] with the profile_* and context_* tensors of M rows -> unit vectors [M, K D]."""
        states = histories.chunk(self.interests, dim=-1)
        absent = torch.zeros_like(states[0])
        profile = absent if self.profile_encoder is None else self.profile_encoder(batch, "profile")
        context = absent if self.context_encoder is None else self.context_encoder(batch, "context")
        moved = (one + self.user_head(torch.cat([one, profile, context], dim=-1)) for one in states)
        return torch.cat([F.normalize(one, dim=-1) for one in moved], dim=-1)


class TowerEnsemble(nn.Module):
    """Ensemble of one or more two-tower models: vectors are concatenated, so the cosine is the mean of the members'.

    With several interests each combination of the members' is one of the ensemble: the largest of their cosines is then the
    mean of the members' largest.
    """

    def __init__(self, members: Sequence[TwoTower]) -> None:
        super().__init__()
        self.members = cast("Sequence[TwoTower]", nn.ModuleList(members))

    def items(self, batch: Batch) -> Tensor:
        """item_* tensors of R rows -> [R, members * D] unit vectors."""
        return self._concatenated([member.items(batch) for member in self.members])

    def users(self, batch: Batch) -> Tensor:
        """Request tensors -> unit vectors, [B, K^members * members * D]."""
        interests = [member.users(batch).chunk(member.interests, dim=-1) for member in self.members]
        return torch.cat([self._concatenated(one) for one in product(*interests)], dim=-1)

    def _concatenated(self, vectors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(vectors), dim=-1) / math.sqrt(len(vectors))
