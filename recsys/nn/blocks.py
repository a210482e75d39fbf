"""Building blocks of the towers and the ranker.

Shapes: B batch, L sequence, D dim, H heads, I id slots, F numbers, V vector values; `...` any leading dimensions.
"""

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recsys.features.spec import MISSING, UNKNOWN, TableSpec
from recsys.nn import sparse_embedding
from recsys.nn.sharded_table import ShardedTable
from recsys.tensors import part_name

Batch = Mapping[str, Tensor]


class ExactLinear(nn.Linear):
    """Linear layer that stays float32 in mixed precision: bfloat16 resolves a logit of -5 to 1/32 only."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class TableEncoder(nn.Module):
    """A row of an encoded table -> [..., D]: id embeddings plus gated content, each part may be absent.

    The value of `id_column` is dropped to UNKNOWN in training with probability `id_dropout`, so that content alone learns
    to represent an item without training events (DropoutNet, Volkovs et al. 2017); not where there is no content.
    """

    def __init__(
        self,
        table: TableSpec,
        *,
        dim: int,
        id_column: str | None = None,
        id_dropout: float = 0.0,
        sparse_rows: int | None = None,
    ) -> None:
        """sparse_rows: rows from which on an embedding uses row-wise Adagrad, None for SPARSE_THRESHOLD_ROWS"""
        super().__init__()
        self.columns = table.of_part("ids")
        self.widths = table.widths
        self.id_column = id_column
        embeddings = nn.ModuleList(
            _embedding(column.num_ids, dim, trains_unknown=column.name == id_column, sparse_rows=sparse_rows)
            for column in self.columns
        )
        self.embeddings = cast("Sequence[nn.Embedding]", embeddings)
        for column, embedding in zip(self.columns, self.embeddings, strict=True):
            if column.hash_size:  # an id that training never reaches adds nothing, as UNKNOWN does
                nn.init.zeros_(embedding.weight)
        self.numbers = nn.Linear(self.widths["numbers"], dim) if "numbers" in self.widths else None
        self.vectors = nn.Linear(self.widths["vectors"], dim, bias=False) if "vectors" in self.widths else None
        self.gate = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        # of an item without content nothing is left to learn from once its id is dropped
        self.id_dropout = id_dropout if self.num_fields > 1 else 0.0

    def forward(self, batch: Batch, prefix: str) -> Tensor:
        identity, content = self._embed(batch, prefix)
        if not content:
            return self.norm(identity)
        summed = torch.stack(content).sum(0)
        return self.norm(identity + torch.sigmoid(self.gate(summed)) * summed)

    @property
    def num_fields(self) -> int:
        """Number of vectors of `fields`."""
        return len(self.columns) + (self.numbers is not None) + (self.vectors is not None)

    def fields(self, batch: Batch, prefix: str) -> list[Tensor]:
        """Return a vector [..., D] for each column of ids, one for all numbers and one for all vectors, not normalised."""
        identity, content = self._embed(batch, prefix)
        return [identity, *content] if isinstance(identity, Tensor) else content

    def _embed(self, batch: Batch, prefix: str) -> tuple[Tensor | float, list[Tensor]]:
        identity: Tensor | float = 0.0
        content: list[Tensor] = []
        start = 0
        for column, embedding in zip(self.columns, self.embeddings, strict=True):
            ids = batch[part_name(prefix, "ids")][..., start : start + column.slots]
            start += column.slots
            if column.name == self.id_column:
                identity = embedding(self._drop(ids)).squeeze(-2)
            else:
                present = (ids > 0).sum(-1, keepdim=True).clamp(min=1)
                content.append(_summed(embedding, ids) / present)
        if self.numbers is not None:
            content.append(self.numbers(batch[part_name(prefix, "numbers")]))
        if self.vectors is not None:
            content.append(self.vectors(batch[part_name(prefix, "vectors")]))
        return identity, content

    def _drop(self, ids: Tensor) -> Tensor:
        if not self.training or self.id_dropout == 0:
            return ids
        dropped = (torch.rand(ids.shape, device=ids.device) < self.id_dropout) & (ids > 0)
        return torch.where(dropped, UNKNOWN, ids)


def _embedding(num_ids: int, dim: int, *, trains_unknown: bool, sparse_rows: int | None) -> nn.Embedding:
    threshold = sparse_embedding.SPARSE_THRESHOLD_ROWS if sparse_rows is None else sparse_rows
    kind = nn.Embedding if num_ids < threshold else sparse_embedding.RowWiseAdagradEmbedding
    embedding = kind(num_ids, dim, padding_idx=MISSING)
    reset_embedding(embedding, trains_unknown=trains_unknown)
    return embedding


@torch.no_grad()
def reset_embedding(embedding: nn.Embedding, *, trains_unknown: bool) -> None:
    """Initialise the rows; MISSING is 0, and so is UNKNOWN unless id dropout trains it."""
    nn.init.normal_(embedding.weight, std=1 / math.sqrt(embedding.embedding_dim))
    embedding.weight[[MISSING] if trains_unknown else [MISSING, UNKNOWN]] = 0.0


def _summed(embedding: nn.Embedding, ids: Tensor) -> Tensor:
    """Sum of the embeddings of ids [..., I] -> [..., D]; most ids are MISSING, which only exported graphs look up."""
    if torch.compiler.is_exporting() or isinstance(embedding, ShardedTable):
        return embedding(ids).sum(-2)
    summed = F.embedding_bag(
        ids.reshape(-1, ids.shape[-1]), embedding.weight, mode="sum", padding_idx=MISSING, sparse=embedding.sparse
    )
    return summed.view(*ids.shape[:-1], embedding.embedding_dim)


class HistoryEncoder(nn.Module):
    """Events -> tokens [B, L, D]: the item, its labels, and the time until the next event."""

    def __init__(self, *, dim: int, num_objectives: int) -> None:
        super().__init__()
        self.labels = nn.Linear(num_objectives, dim)
        self.gaps = nn.Linear(2, dim)

    def forward(self, items: Tensor, labels: Tensor, gaps: Tensor) -> Tensor:
        scaled = gaps.unsqueeze(-1) / 10
        return items + self.labels(labels) + self.gaps(torch.cat([scaled, scaled.square()], dim=-1))


class RelativePositionBias(nn.Module):
    """Learned bias of attention scores by the distance between query and key.

    Token 0 is a start token; it carries no position, so its bias is one learned number a head.
    """

    def __init__(self, *, num_heads: int, length: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_heads, length + 1))
        """[H, L + 1]: by distance 0 to L - 1, the last for the start token"""

    def forward(self, length: int) -> Tensor:
        """Return [H, P, P] for P = `length` tokens."""
        position = torch.arange(length, device=self.weight.device)
        distance = (position[:, None] - position[None, :]).clamp(min=0, max=self.weight.shape[1] - 2)
        distance = torch.where(position[None, :] == 0, self.weight.shape[1] - 1, distance)
        return self.weight[:, distance]


def causal_mask(present: Tensor) -> Tensor:
    """present [B, L] -> [B, 1, L + 1, L + 1]: earlier or same position, key present or the start token.

    An absent query looks at the start token at least, so that no row of the softmax is empty.
    """
    start = present.new_ones((present.shape[0], 1))  # also where no query of the batch has an event
    keys = torch.cat([start, present], dim=1)
    length = keys.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=present.device).tril()
    return (keys[:, None, :] & causal).unsqueeze(1)
