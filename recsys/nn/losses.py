"""Losses of the towers and the ranker.

Shapes: B positions, N items, M sampled negatives, D dim, C candidates, T objectives.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def full_softmax(users: Tensor, items: Tensor, targets: Tensor, *, temperature: float) -> Tensor:
    """Negative log likelihood of the targets among all items, [B]; users [B, D], items [N, D], targets [B]."""
    return F.cross_entropy(users @ items.T / temperature, targets, reduction="none")


def sampled_softmax(
    users: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    duplicates: Tensor,
    log_expected: Tensor,
    log_expected_negatives: Tensor,
    temperature: float,
) -> Tensor:
    """Softmax over the positive and shared negatives with the logQ correction (Yi et al. 2019, eq. 3), loss [B].

    users, positives [B, D]; negatives [M, D]; duplicates [B, M] True where a negative is the row's own positive;
    log_expected [B] and log_expected_negatives [M]: log of the expected count of the item in the sample, which is
    subtracted from its logit.
    """
    positive = (users * positives).sum(-1, keepdim=True) / temperature - log_expected.unsqueeze(-1)
    negative = users @ negatives.T / temperature - log_expected_negatives
    logits = torch.cat([positive, negative.masked_fill(duplicates, float("-inf"))], dim=1)
    return F.cross_entropy(logits, torch.zeros(len(users), dtype=torch.long, device=users.device), reduction="none")


def masked_bce(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Mean binary cross-entropy per objective over the cells that count.

    logits, labels [B, C, T]; mask [B, C]; a NaN label is missing and does not count. Returns [T].
    """
    counts = mask.unsqueeze(-1) & ~labels.isnan()
    loss = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")
    return (loss * counts).sum((0, 1)) / counts.sum((0, 1)).clamp(min=1)


def listwise_softmax(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """ListNet's top-one cross-entropy (Cao et al. 2007), mean over the lists that hold a positive.

    logits, labels [B, C] (one objective); mask [B, C].
    """
    weights = labels.nan_to_num() * mask
    totals = weights.sum(-1, keepdim=True)
    log_shares = logits.masked_fill(~mask, -1e9).log_softmax(-1)
    losses = -(weights / totals.clamp(min=1e-9) * log_shares).sum(-1)
    return losses.sum() / (totals.squeeze(-1) > 0).sum().clamp(min=1)
