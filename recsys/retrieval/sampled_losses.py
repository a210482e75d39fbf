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
from recsys.nn.parallel import averaged
from recsys.retrieval.softmax import TILE_LOGITS, softmax_loss

NO_NEGATIVE = -1e6
"""cosine of an item that is no negative: finite, so that its gradient is"""

TargetsAndNegatives = Callable[[Tensor, Tensor, Tensor], Tensor]
"""cosines of the targets [M, T], of all items [M, N], and which of those are negatives [M, N] bool -> losses [M, T]"""


@dataclass(frozen=True, kw_only=True)
class GBCELoss:
    """Generalised binary cross-entropy (gSASRec, Petrov & Macdonald 2023, eq. 9 and 13).

    Corrects the overconfidence of sampled negatives. The share of sampled items in the catalogue is estimated from
    log_inclusion, by the sum of the inverse probabilities (Horvitz & Thompson 1952). Logits are lower by the logarithm of the
    number of negatives, the prior of a target among them: without it the first thing to learn is that all items are wrong,
    for which all vectors of items turn away from all users (the bias of SigLIP, Zhai et al. 2023, section 3.2). The sum is not
    divided by the number of negatives as in eq. 13: gradients would be as small as the epsilon of Adam.
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
        num = negative.sum(1, keepdim=True)
        prior = num.clamp(min=1).log()
        wrong = (F.softplus(all_items / self.temperature - prior) * negative).sum(1, keepdim=True)
        right = beta * F.softplus(prior - target / self.temperature)
        return right + wrong


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


@dataclass(frozen=True, kw_only=True)
class BPRLoss:
    """Bayesian personalised ranking (Rendle et al. 2009): logistic loss of the pairs of a target and a negative."""

    temperature: float
    """divides the difference of two cosines"""

    def __post_init__(self) -> None:
        check_ranges("retrieval.loss", temperature=(self.temperature, 1e-3, 10.0))

    def __call__(
        self, users: Tensor, items: Tensor, targets: Tensor, weights: Tensor, log_inclusion: Tensor | None
    ) -> Tensor:
        return _weighted_mean(self._losses, users, items, targets, weights)

    def _losses(self, target: Tensor, all_items: Tensor, negative: Tensor) -> Tensor:
        pairs = (F.softplus((all_items - one) / self.temperature) * negative for one in target.split(1, dim=1))
        return torch.stack([one.sum(1) for one in pairs], dim=1) / negative.sum(1, keepdim=True).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class HardNegativesLoss:
    """Softmax over all negatives, mixed with one over the hardest alone (Huang et al. 2020, section 6.1).

    The hardest are those that score highest for the position now (Zhang et al. 2013), behind the first `skipped`, among
    which events of the future are most likely.
    """

    temperature: float
    """divides the cosine before the softmax"""
    hardest: int
    """number of hard negatives of a position"""
    skipped: int
    """number of negatives that score still higher and are left out"""
    hard_weight: float
    """of the softmax over the hard negatives, above 0 to 1; the other one has the rest"""

    def __post_init__(self) -> None:
        check_ranges(
            "retrieval.loss",
            temperature=(self.temperature, 1e-3, 10.0),
            hardest=(self.hardest, 1, 100_000),
            skipped=(self.skipped, 0, 100_000),
            hard_weight=(self.hard_weight, 1e-6, 1.0),
        )

    def __call__(
        self, users: Tensor, items: Tensor, targets: Tensor, weights: Tensor, log_inclusion: Tensor | None
    ) -> Tensor:
        easy = softmax_loss(users, items, targets, weights, temperature=self.temperature, log_inclusion=log_inclusion)
        hard = _weighted_mean(self._losses, users, items, targets, weights)
        return (1 - self.hard_weight) * easy + self.hard_weight * hard

    def _losses(self, target: Tensor, all_items: Tensor, negative: Tensor) -> Tensor:
        num = min(self.skipped + self.hardest, all_items.shape[1])
        highest = all_items.masked_fill(negative == 0, NO_NEGATIVE).topk(num, dim=1).values[:, self.skipped :]
        hard = (highest / self.temperature).logsumexp(1, keepdim=True)
        target = target / self.temperature
        return torch.logaddexp(target, hard) - target


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
    return torch.stack(sums).sum() / averaged(weights.sum()).clamp(min=1e-9)
