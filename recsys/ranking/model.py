"""The seam of the ranker: how one is built, and all that training, calibration, uncertainty and export read of it.

A ranker is a `torch.nn.Module` whose class takes `inputs` and `sizes` and, beside them, the keys of its own file in
conf/ranking/model. Saving reads its state_dict, explanation its exported graph.

Shapes: B requests, C candidates, T objectives, F features of a request, E features of the last layer, R rows, S scores.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from recsys.errors import check_ranges
from recsys.features.spec import FeatureSpec
from recsys.nn.blocks import Batch
from recsys.ranking.objective_chain import Parents, chain_logits


@dataclass(frozen=True, kw_only=True)
class RankerInputs:
    """Sizes and structure that the data determine."""

    spec: FeatureSpec
    num_scores: int
    """width of candidate_scores, the retrieval features of a candidate; 0 for logged slates"""
    num_positions: int
    """positions whose bias is learnt and left out when serving; 0 learns none"""
    parents: Parents
    """for each objective the one without which it is not reached"""


@dataclass(frozen=True, kw_only=True)
class RankerSizes:
    """Sizes and dropouts of a ranker (`ranking.sizes`), shared by all rankers; each reads those that it has."""

    dim: int
    """of embeddings"""
    num_heads: int
    """of the attention of a candidate to the history"""
    cross_rank: int
    num_cross_layers: int
    num_experts: int
    """shared by all objectives"""
    expert_dim: int
    """width of the features of the last layer"""
    dropout: float
    id_dropout: float
    feature_dropout: float
    """chance of a request to lose its history, its profile or its context in training, each by itself"""

    def __post_init__(self) -> None:
        check_ranges(
            "ranking.sizes",
            dim=(self.dim, 1, 4_096),
            num_heads=(self.num_heads, 1, 64),
            cross_rank=(self.cross_rank, 1, 4_096),
            num_cross_layers=(self.num_cross_layers, 0, 16),
            num_experts=(self.num_experts, 1, 64),
            expert_dim=(self.expert_dim, 1, 4_096),
            dropout=(self.dropout, 0.0, 0.95),
            id_dropout=(self.id_dropout, 0.0, 0.95),
            feature_dropout=(self.feature_dropout, 0.0, 0.95),
        )


class LastLayer(NamedTuple):
    """Conditional logits, and the features that they are linear in."""

    logits: Tensor
    """[B, C, T], each given its parent"""
    features: Callable[[], tuple[Tensor, ...]]
    """for each objective [B, C, E]; computed on call, since only the posterior reads them"""


class RankerModel(nn.Module, ABC):
    """A ranker: a module with ten members; `recsys.ranking.base.RankerBase` implements all but `last_layer` and `shared`.

    Candidates never see each other: a score depends on the request and the candidate alone.
    """

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Return logits [B, C, T] of reaching each objective, in training with dropout of feature groups.

        With candidate_positions [B, C] the logits are those at these positions, else at the first one.
        """

    @abstractmethod
    def request(self, batch: Batch) -> Tensor:
        """Return features [B, F] of requests, from which calibration predicts the mean logit; they read no candidate."""

    @abstractmethod
    def last_layer(self, batch: Batch, request: Tensor) -> LastLayer:
        """Return conditional logits of a batch; request [B, F] is its `request`."""

    @abstractmethod
    def weight_change(self) -> Tensor:
        """Return [T, E] how far training moved the weights of the last layer's features from their prior mean."""

    @abstractmethod
    def fit_scores(self, scores: Tensor) -> None:
        """Standardise candidate_scores by those of the training examples, [R, S]."""

    def fit_values(self, ids: Tensor, rows: Tensor, labels: Tensor, weights: Tensor | None) -> None:
        """Fit what the ranker knows of the values of categories: from rows [R] of the items' ids [N, I], labels [R, T] and, if
        any, weights [R].
        """
        return

    @property
    @abstractmethod
    def shared(self) -> Tensor:
        """Weights that all objectives share, whose gradients `ranking.balance=gradients` compares."""

    @property
    def retrieval_first(self) -> bool:
        """Return whether the order of the candidates before training is that of the merged retrieval score."""
        return False

    def order_by_retrieval(self, objective: int) -> None:
        """Take back what an objective, and those it is conditional on, learnt: its order is that of the merged retrieval score.

        Called only where `retrieval_first`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not begin with the order of retrieval")

    def fit(self, train: Iterable[Batch], valid: Iterable[Batch], *, rounds: int | None, seed: int) -> int | None:
        """Fit without gradient descent and return the number of rounds; None, as here, where gradient descent is to train.

        Batches have candidate_rows, labels and, if any, candidate_positions and candidate_weights beside what `forward` reads.
        rounds: that another fit found; None to stop by `valid`.
        """
        return None


class RankerFactory(Protocol):
    """A file of conf/ranking/model, instantiated: the class of a ranker with its own keys filled in."""

    def __call__(self, *, inputs: RankerInputs, sizes: RankerSizes) -> RankerModel:
        """Build the ranker; the same torch seed gives the same weights."""


def logits_and_request(ranker: RankerModel, parents: Parents, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return both inputs of a calibrator: logits [B, C, T] of reaching each objective, and request features [B, F]."""
    request = ranker.request(batch)
    return chain_logits(ranker.last_layer(batch, request).logits, parents), request
