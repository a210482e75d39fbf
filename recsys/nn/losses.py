"""Losses of the ranker.

Shapes: B lists, C candidates, T objectives.
"""

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


def listwise_softmax(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """ListNet's top-one cross-entropy (Cao et al. 2007), mean over the lists that hold a positive.

    logits, labels [B, C] (one objective); mask [B, C]. A candidate whose label is missing (NaN) is in no list.
    """
    mask = mask & ~labels.isnan()
    weights = labels.nan_to_num() * mask
    totals = weights.sum(-1, keepdim=True)
    log_shares = logits.masked_fill(~mask, -1e9).log_softmax(-1)
    losses = -(weights / totals.clamp(min=1e-9) * log_shares).sum(-1)
    return losses.sum() / (totals.squeeze(-1) > 0).sum().clamp(min=1)
