"""Softmax over items without ever holding all logits: gradients are made tile by tile, while the logits are at hand.

Shapes: M positions, N items, D dim, T targets a position.
"""

from typing import Any

import torch
from torch import Tensor

CELLS = {"cpu": 2**20, "cuda": 2**27}
"""logits of a tile, by device: what the caches of a core hold, or what fills a GPU"""


def softmax_loss(
    users: Tensor,
    items: Tensor,
    targets: Tensor,
    weights: Tensor,
    *,
    temperature: float,
    log_expected: Tensor | None = None,
) -> Tensor:
    """Weighted mean of -log softmax(users @ items.T / temperature)[targets] over all positions and targets.

    users [M, D], items [N, D], targets [M, T] rows of `items`, weights [M, T] (0 leaves a target out). Where the items
    are a sample of the catalogue, log_expected [N] is the log of how often each was expected in it, which its logit
    loses: the logQ correction (Bengio & Senécal 2008; Yi et al. 2019, eq. 3).
    """
    return _TiledSoftmax.apply(users, items, targets, weights, 1 / temperature, log_expected)


class _TiledSoftmax(torch.autograd.Function):
    """The products run in the precision of autocast, logits and sums in float32 or better."""

    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        items: Tensor,
        targets: Tensor,
        weights: Tensor,
        scale: float,
        log_expected: Tensor | None,
    ) -> Tensor:
        device = users.device.type
        fast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else users.dtype
        with torch.autocast(device, enabled=False):
            loss, of_users, of_items = _loss_and_gradients(
                users.to(fast), items.to(fast), targets, weights, scale, log_expected
            )
        ctx.save_for_backward(of_users.to(users.dtype), of_items.to(items.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_users, of_items = ctx.saved_tensors
        return of_users * gradient, of_items * gradient, None, None, None, None


def _loss_and_gradients(
    users: Tensor, items: Tensor, targets: Tensor, weights: Tensor, scale: float, log_expected: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    total = weights.sum().clamp(min=1e-9)
    loss = torch.zeros((), dtype=weights.dtype, device=weights.device)
    of_users = torch.empty_like(users)
    of_items = torch.zeros(items.shape, dtype=weights.dtype, device=items.device)
    step = max(1, CELLS.get(users.device.type, CELLS["cpu"]) // items.shape[0])
    for start in range(0, users.shape[0], step):
        tile = slice(start, start + step)
        logits = (users[tile] @ items.T).to(weights.dtype).mul_(scale)
        if log_expected is not None:
            logits -= log_expected
        asked, share = targets[tile], weights[tile] / total
        together = share.sum(1, keepdim=True)
        normaliser = logits.logsumexp(1, keepdim=True)
        loss += (together * normaliser).sum() - (share * logits.gather(1, asked)).sum()
        slopes = logits.sub_(normaliser).exp_().mul_(together * scale).scatter_add_(1, asked, -share * scale)
        slopes = slopes.to(users.dtype)
        of_users[tile] = slopes @ items
        of_items += slopes.T @ users[tile]
    return loss, of_users, of_items
