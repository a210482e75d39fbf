"""Softmax cross-entropy over items that never materialises all logits: forward computes the gradients tile by tile.

Shapes: M positions, N items, D dim, T targets a position.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recsys.errors import check_ranges
from recsys.nn.parallel import averaged

TILE_LOGITS = {"cpu": 2**20, "cuda": 2**27}
"""logits of a tile, by device: about the cache of a core, or enough to occupy a GPU"""


@dataclass(frozen=True, kw_only=True)
class SoftmaxLoss:
    """Softmax over the items of a step, with the logQ correction where they are a sample (Yi et al. 2019)."""

    temperature: float
    """divides the cosine before the softmax"""

    def __post_init__(self) -> None:
        check_ranges("retrieval.loss", temperature=(self.temperature, 1e-3, 10.0))

    def __call__(
        self, users: Tensor, items: Tensor, targets: Tensor, weights: Tensor, log_inclusion: Tensor | None
    ) -> Tensor:
        return softmax_loss(users, items, targets, weights, temperature=self.temperature, log_inclusion=log_inclusion)


def softmax_loss(
    users: Tensor,
    items: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    temperature: float,
    log_inclusion: Tensor | None = None,
) -> Tensor:
    """Weighted mean of -log softmax(users @ items.T / temperature)[targets] over all positions and targets.

    users [M, D], items [N, D], targets [M, T] rows of `items`, weights [M, T] (0 leaves a target out). Where the items
    are a sample of the catalogue, log_inclusion [N] is the log probability that each is in it, which is subtracted from
    its logit: the logQ correction (Bengio & Senécal 2008; Yi et al. 2019, eq. 3).
    """
    return _TiledSoftmax.apply(users, items, targets, weights, 1 / temperature, log_inclusion)


class _TiledSoftmax(torch.autograd.Function):
    """Autograd function: products in the precision of autocast, logits and sums in float32 or better."""

    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        items: Tensor,
        targets: Tensor,
        weights: Tensor,
        scale: float,
        log_inclusion: Tensor | None,
    ) -> Tensor:
        device = users.device.type
        fast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else users.dtype
        with torch.autocast(device, enabled=False):
            loss, user_gradients, item_gradients = _loss_and_gradients(
                users.to(fast), items.to(fast), targets, weights, scale, log_inclusion
            )
        ctx.save_for_backward(user_gradients.to(users.dtype), item_gradients.to(items.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        user_gradients, item_gradients = ctx.saved_tensors
        return user_gradients * gradient, item_gradients * gradient, None, None, None, None


def _loss_and_gradients(
    users: Tensor, items: Tensor, targets: Tensor, weights: Tensor, scale: float, log_inclusion: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    total = averaged(weights.sum()).clamp(min=1e-9)
    loss = torch.zeros((), dtype=weights.dtype, device=weights.device)
    user_gradients = torch.empty_like(users)
    item_gradients = torch.zeros(items.shape, dtype=weights.dtype, device=items.device)
    step = max(1, TILE_LOGITS.get(users.device.type, TILE_LOGITS["cpu"]) // items.shape[0])
    for start in range(0, users.shape[0], step):
        tile = slice(start, start + step)
        logits = (users[tile] @ items.T).to(weights.dtype).mul_(scale)
        if log_inclusion is not None:
            logits -= log_inclusion
        target, share = targets[tile], weights[tile] / total
        target_share = share.sum(1, keepdim=True)
        normaliser = logits.logsumexp(1, keepdim=True)
        loss += (target_share * normaliser).sum() - (share * logits.gather(1, target)).sum()
        logit_gradients = (
            logits.sub_(normaliser).exp_().mul_(target_share * scale).scatter_add_(1, target, -share * scale)
        )
        logit_gradients = logit_gradients.to(users.dtype)
        user_gradients[tile] = logit_gradients @ items
        item_gradients += logit_gradients.T @ users[tile]
    return loss, user_gradients, item_gradients
