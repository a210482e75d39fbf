"""Losses of the ranker: the likelihood of every objective, and the seam of a loss on the order of candidates.

Shapes: B lists, C candidates, T objectives.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_bce(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the binary cross-entropy per objective.

    logits, labels [B, C, T]; weights [B, C], 0 or False leaves a candidate out; a NaN label is missing and does not
    count. Returns [T].
    """
    counts = weights.unsqueeze(-1) * ~labels.isnan()
    loss = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")
    return (loss * counts).sum((0, 1)) / counts.sum((0, 1)).clamp(min=1e-9)


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
        return losses.sum() / (totals.squeeze(-1) > 0).sum().clamp(min=1)


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
    return lists.sum() / (number > 0).sum().clamp(min=1)
