"""Losses of the ranker: the seam of a loss on each label, and the seam of a loss on the order of candidates.

Shapes: B lists, C candidates, T objectives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recsys.errors import ConfigError, check_ranges
from recsys.nn.parallel import averaged
from recsys.ranking.model import RankerFactory


def masked_bce(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the binary cross-entropy per objective.

    logits, labels [B, C, T]; weights [B, C], 0 or False leaves a candidate out; a NaN label is missing and does not
    count. Returns [T].
    """
    loss = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")
    return _mean_of_labels(loss, labels, weights)


def _mean_of_labels(losses: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    counts = weights.unsqueeze(-1) * ~labels.isnan()
    return (losses * counts).sum((0, 1)) / averaged(counts.sum((0, 1)).float()).clamp(min=1e-9)


class PointwiseLoss(Protocol):
    """A file of conf/ranking/pointwise, instantiated: a loss on each label by itself."""

    def __call__(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted mean of each objective, [T].

        logits, labels [B, C, T], labels 0 to 1 or NaN (missing, does not count); weights [B, C], 0 leaves a candidate out.
        """


@dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy:
    """Binary cross-entropy, the likelihood of the labels."""

    def __call__(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return masked_bce(logits, labels, weights)


@dataclass(frozen=True, kw_only=True)
class FocalLoss:
    """Focal loss (Lin et al. 2017, eq. 4): labels that are predicted well count less; calibration then restores probabilities.

    Labels between 0 and 1 weigh by their distance from the probability (Li et al. 2020, eq. 6).
    """

    gamma: float
    """power of the distance between label and probability; 0 is binary cross-entropy"""

    def __post_init__(self) -> None:
        check_ranges("ranking.pointwise", gamma=(self.gamma, 0.0, 10.0))

    def __call__(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        known = labels.nan_to_num()
        losses = F.binary_cross_entropy_with_logits(logits, known, reduction="none")
        # the distance is below 1 by rounding alone: at 0 its power has no finite gradient where gamma < 1
        distance = (known - logits.sigmoid()).abs().clamp(min=1e-6)
        return _mean_of_labels(distance**self.gamma * losses, labels, weights)


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Binary cross-entropy of labels that are mixed with the probabilities of teachers (Hinton et al. 2015, eq. 1 without a
    temperature; for rankings Tang & Wang 2018).

    Teachers are trained first, on the same examples; the loss on the order reads the mixed labels as well. Binary
    cross-entropy is linear in its label, so mixing labels mixes the losses.
    """

    weight: float
    """of the teachers' mean probability beside the label, 0 to 1"""
    teachers: Mapping[str, RankerFactory]
    """files of ranking/model by a name"""

    def __post_init__(self) -> None:
        check_ranges("ranking.pointwise", weight=(self.weight, 0.0, 1.0))
        if not self.teachers:
            raise ConfigError("ranking.pointwise.teachers is empty; name at least one file of ranking/model")

    def __call__(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        return masked_bce(logits, labels, weights)

    def mixed(self, labels: np.ndarray, probabilities: Sequence[np.ndarray]) -> np.ndarray:
        """Labels [B, C, T] with the probabilities of each teacher [B, C, T]; what is missing stays missing."""
        taught = np.mean(probabilities, axis=0)
        return ((1 - self.weight) * labels.clip(0, 1) + self.weight * taught).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class DistillationWhereBetter(Distillation):
    """Distillation (Hinton et al. 2015) where a teacher is better on the validation than the ranker taught by labels alone.

    Boosted trees need fewer examples than embeddings do; a ranker that learns their probabilities keeps what they found. All of
    them stop early on the validation by which they are compared, so a small difference there says little.
    """

    most_cells: int
    """candidates of all training requests, beyond which no teacher is trained"""


class RankingLoss(Protocol):
    """A file of conf/ranking/loss, instantiated: a loss on the order of the candidates of a request."""

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Return the mean over the lists that hold a positive, a scalar; 0 where none does.

        logits, labels [B, C] of the retrieval target, labels 0 to 1 or NaN (missing); mask [B, C] bool.
        """


@dataclass(frozen=True, kw_only=True)
class ListNet:
    """Top-one cross-entropy (Cao et al. 2007)."""

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        mask = mask & ~labels.isnan()
        weights = labels.nan_to_num() * mask
        totals = weights.sum(-1, keepdim=True)
        log_shares = logits.masked_fill(~mask, -1e9).log_softmax(-1)
        losses = -(weights / totals.clamp(min=1e-9) * log_shares).sum(-1)
        return losses.sum() / averaged((totals.squeeze(-1) > 0).sum().float()).clamp(min=1e-9)


@dataclass(frozen=True, kw_only=True)
class RankNet:
    """Logistic loss of the pairs in which the first label is higher (Burges et al. 2005), a mean for each list."""

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        mask = mask & ~labels.isnan()
        return _mean_of_pairs(logits, labels.nan_to_num(), mask, torch.ones_like(logits).unsqueeze(-1))


@dataclass(frozen=True, kw_only=True)
class LambdaRank:
    """RankNet whose pairs weigh what their exchange would change of the NDCG (Burges 2010)."""

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        mask = mask & ~labels.isnan()
        labels = labels.nan_to_num() * mask
        order = logits.detach().masked_fill(~mask, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        discounts = 1 / torch.log2(torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype) + 2)
        discount = torch.empty_like(logits).scatter(-1, order, discounts.expand_as(logits))
        best = (labels.sort(dim=-1, descending=True).values * discounts).sum(-1).clamp(min=1e-9)
        exchanged = (labels.unsqueeze(-1) - labels.unsqueeze(-2)).abs() * (
            discount.unsqueeze(-1) - discount.unsqueeze(-2)
        ).abs()
        return _mean_of_pairs(logits, labels, mask, exchanged / best[:, None, None], summed=True)


def _mean_of_pairs(logits: Tensor, labels: Tensor, mask: Tensor, weights: Tensor, *, summed: bool = False) -> Tensor:
    """Mean over lists with a pair of the weighted logistic losses of their pairs: the sum, or the mean.

    weights [B, C, C or 1]
    """
    pairs = mask.unsqueeze(-1) & mask.unsqueeze(-2) & (labels.unsqueeze(-1) > labels.unsqueeze(-2))
    losses = F.softplus(logits.unsqueeze(-2) - logits.unsqueeze(-1)) * weights * pairs
    number = pairs.sum((-2, -1))
    lists = losses.sum((-2, -1)) / (1 if summed else number.clamp(min=1))
    return lists.sum() / averaged((number > 0).sum().float()).clamp(min=1e-9)
