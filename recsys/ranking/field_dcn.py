"""DCN-V2 in its parallel form (Wang et al. 2021) on fields: a cross network beside a feed-forward network.

Shapes: B batch, C candidates, N fields, D dim, F features of a request.
"""

import torch
from torch import Tensor

from recsys.errors import check_ranges
from recsys.features.spec import IDENTITY
from recsys.nn.blocks import Batch, TableEncoder
from recsys.nn.sparse_embedding import sparse_tables
from recsys.ranking.crossed import CrossNetwork, feed_forward
from recsys.ranking.fields import FieldRanker
from recsys.ranking.model import LastLayer, RankerInputs, RankerSizes
from recsys.ranking.value_effects import ValueEffects


class FieldDCNRanker(FieldRanker):
    """Logits linear in the crossed fields, with the numbers of the candidate as they are, and in the network's output."""

    def __init__(
        self,
        *,
        inputs: RankerInputs,
        sizes: RankerSizes,
        initial_scale: float,
        sparse_rows: int,
        initial_squares: float,
        folds: int,
    ) -> None:
        """
        initial_scale: of the candidate's embeddings before training, relative to other rankers; ids of few rows stay near it
        sparse_rows: rows from which on an embedding of the candidate uses row-wise Adagrad
        initial_squares: sum of squared gradients that this begins with, for small first steps of ids of few rows
        folds: of the training rows, for the effects of values that a row reads; 0 reads none
        """
        super().__init__(inputs=inputs, sizes=sizes)
        check_ranges("ranking.model", initial_scale=(initial_scale, 0.0, 1.0), sparse_rows=(sparse_rows, 1, 10**9))
        check_ranges("ranking.model", initial_squares=(initial_squares, 0.0, 1.0))
        self.item_encoder = TableEncoder(
            inputs.spec.items, dim=sizes.dim, id_column=IDENTITY, id_dropout=sizes.id_dropout, sparse_rows=sparse_rows
        )
        check_ranges("ranking.model", folds=(folds if folds else 2, 2, 100))
        spec = inputs.spec
        columns, num_numbers = spec.items.of_part("ids"), spec.items.widths.get("numbers", 0)
        self.effects = ValueEffects(columns, num_labels=spec.num_objectives, folds=folds) if folds and columns else None
        width = self.num_fields * sizes.dim + num_numbers + inputs.num_scores
        width += 0 if self.effects is None else self.effects.width
        self.has_numbers = num_numbers > 0
        self.cross = CrossNetwork(width=width, rank=sizes.cross_rank, num_layers=sizes.num_cross_layers)
        self.deep = feed_forward(width, sizes.expert_dim, sizes.dropout)
        self.add_last_layer(width + sizes.expert_dim)
        with torch.no_grad():
            for embedding in self.item_encoder.embeddings:
                embedding.weight.mul_(initial_scale)
            for table in sparse_tables(self.item_encoder):
                table.squares.fill_(initial_squares)

    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        fields, scores = self.fields(batch, request), self.standard_scores(batch)
        numbers = [batch["candidate_numbers"]] if self.has_numbers else []
        effects = [] if self.effects is None else [self._effects(batch)]
        features = torch.cat([fields.flatten(-2), *numbers, *effects, scores], dim=-1)
        return self.linear([torch.cat([self.cross(features), self.deep(features)], dim=-1)], scores, batch)

    def _effects(self, batch: Batch) -> Tensor:
        assert self.effects is not None
        return self.effects(batch["candidate_ids"], batch["candidate_rows"] if self.training else None)

    def fit_values(self, ids: Tensor, rows: Tensor, labels: Tensor, weights: Tensor | None) -> None:
        if self.effects is not None:
            self.effects.fit(ids, rows, labels, weights)

    @property
    def shared(self) -> Tensor:
        return self.deep[-1].weight  # type: ignore[return-value]
