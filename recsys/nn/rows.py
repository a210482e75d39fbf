"""Embedding tables too large for gradients and optimiser states of their own size: a step moves only rows that it met."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

FROM = 1_000_000
"""rows from which on a table is one of these"""
TINY = 1e-10
SQUARES = "squares"
"""name of what only training needs of a table"""


class SparseRows(nn.Embedding):
    """Rows are moved as soon as their gradient is known, by row-wise Adagrad, and belong to no optimiser.

    w <- w - rate g / sqrt(sum over the steps that met the row of mean(g^2)): one number a row, not two a weight (Duchi et
    al. 2011; one accumulator a row as in DLRM's training, Mudigere et al. 2022). Neither clipping nor weight decay sees it.
    """

    squares: Tensor
    """[N] that sum"""
    rate: float = 0.0
    """of learning, set before every step"""

    def __init__(self, num: int, dim: int, *, padding_idx: int) -> None:
        super().__init__(num, dim, padding_idx=padding_idx, sparse=True)
        self.register_buffer(SQUARES, torch.zeros(num))
        self.weight.register_post_accumulate_grad_hook(self._move)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy moves its own rows."""
        super().__setstate__(state)
        self.weight.register_post_accumulate_grad_hook(self._move)

    @torch.compiler.disable  # sparse gradients cannot be traced
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids)

    @torch.no_grad()
    def _move(self, weight: Tensor) -> None:
        if weight.grad is None:
            return
        gradient = weight.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        self.squares.index_add_(0, rows, values.square().mean(1))
        weight.index_add_(0, rows, values * (-self.rate / (self.squares[rows].sqrt() + TINY)).unsqueeze(1))
        weight.grad = None


def sparse_tables(module: nn.Module) -> Iterator[SparseRows]:
    return (one for one in module.modules() if isinstance(one, SparseRows))


def dense_parameters(module: nn.Module) -> list[nn.Parameter]:
    """All that an optimiser has to move."""
    moved = {id(table.weight) for table in sparse_tables(module)}
    return [one for one in module.parameters() if id(one) not in moved]
