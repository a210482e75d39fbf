"""Losses of the towers that compare a target with sampled negatives, one by one.

An item that is a target of a position is no negative of it.

Shapes: M positions, N items, D dim, T targets a position.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from recsys.errors import check_ranges
from recsys.retrieval.softmax import TILE_LOGITS

TargetsAndNegatives = Callable[[Tensor, Tensor, Tensor], Tensor]
"""cosines of the targets [M, T], of all items [M, N], and which of those are negatives [M, N] bool -> losses [M, T]"""


@dataclass(frozen=True, kw_only=True)
class GBCELoss:
    """Generalised binary cross-entropy (gSASRec, Petrov & Macdonald 2023, eq. 9 and 13).

    Corrects the overconfidence of sampled negatives. The share of sampled items in the catalogue is estimated from
    log_inclusion, by the sum of the inverse probabilities (Horvitz & Thompson 1952).
    """

    temperature: float
    """divides the cosine before the sigmoid"""
    calibration: float
    """t of the paper: 0 is plain binary cross-entropy, 1 corrects fully"""

    def __post_init__(self) -> None:
        check_ranges(
            "retrieval.loss", temperature=(self.temperature, 1e-3, 10.0), calibration=(self.calibration, 0.0, 1.0)
        )

    def __call__(
        self, users: Tensor, items: Tensor, targets: Tensor, weights: Tensor, log_inclusion: Tensor | None
    ) -> Tensor:
        beta: Tensor | float = 1.0
        if log_inclusion is not None:
            share = len(items) / torch.exp(-log_inclusion).sum()
            beta = share * (self.calibration * (1 - 1 / share) + 1 / share)
        return _weighted_mean(partial(self._losses, beta), users, items, targets, weights)

    def _losses(self, beta: Tensor | float, target: Tensor, all_items: Tensor, negative: Tensor) -> Tensor:
        wrong = (F.softplus(all_items / self.temperature) * negative).sum(1, keepdim=True)
        right = beta * F.softplus(-target / self.temperature)
        return (right + wrong) / (1 + negative.sum(1, keepdim=True))


@dataclass(frozen=True, kw_only=True)
class CosineContrastiveLoss:
    """Cosine contrastive loss (SimpleX, Mao et al. 2021, eq. 5): negatives below the margin cost nothing."""

    margin: float
    """cosine up to which a negative costs nothing"""
    negative_weight: float
    """of the mean over the negatives, beside the target"""

    def __post_init__(self) -> None:
        check_ranges(
            "retrieval.loss", margin=(self.margin, -1.0, 1.0), negative_weight=(self.negative_weight, 0.0, 1e6)
        )

    def __call__(
        self, users: Tensor, items: Tensor, targets: Tensor, weights: Tensor, log_inclusion: Tensor | None
    ) -> Tensor:
        return _weighted_mean(self._losses, users, items, targets, weights)

    def _losses(self, target: Tensor, all_items: Tensor, negative: Tensor) -> Tensor:
        wrong = (F.relu(all_items - self.margin) * negative).sum(1, keepdim=True)
        return 1 - target + self.negative_weight * wrong / negative.sum(1, keepdim=True).clamp(min=1)


def _weighted_mean(
    losses: TargetsAndNegatives, users: Tensor, items: Tensor, targets: Tensor, weights: Tensor
) -> Tensor:
    """Weighted mean of losses [M, T], in tiles of positions that are computed again for their gradients."""

    def tile(users: Tensor, items: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        cosines = users @ items.T
        negative = torch.ones_like(cosines).scatter(1, targets, 0.0)
        return (losses(cosines.gather(1, targets), cosines, negative) * weights).sum()

    step = max(1, TILE_LOGITS.get(users.device.type, TILE_LOGITS["cpu"]) // items.shape[0])
    parts = zip(users.split(step), targets.split(step), weights.split(step), strict=True)
    sums = [checkpoint(tile, part, items, *rest, use_reentrant=False) for part, *rest in parts]
    return torch.stack(sums).sum() / weights.sum().clamp(min=1e-9)
