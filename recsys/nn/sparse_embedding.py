"""Embedding tables too large for dense gradients and optimiser states: a step updates only the rows of its batch."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

SPARSE_THRESHOLD_ROWS = 1_000_000
"""Tables with at least this many rows use row-wise Adagrad."""
EPSILON = 1e-10
ADAGRAD_STATE = "squares"
"""buffer of a table that only training needs; bundles leave it out"""


class RowWiseAdagradEmbedding(nn.Embedding):
    """Embedding with row-wise Adagrad in the backward pass; its weight belongs to no optimiser.

    w <- w - learning_rate g / sqrt(sum over steps with the row of mean(g^2)): one number a row, not two a weight (Duchi et
    al. 2011; one accumulator a row as in DLRM's training, Mudigere et al. 2022). Gradient clipping and weight decay do not
    apply.
    """

    squares: Tensor
    """[N] the sum of mean squared gradients"""
    learning_rate: float = 0.0
    """set before every step"""

    def __init__(self, num: int, dim: int, *, padding_idx: int | None, weight: Tensor | None = None) -> None:
        """weight: [N, D] of the table; None draws one"""
        super().__init__(num, dim, padding_idx=padding_idx, sparse=True, _weight=weight)
        self.register_buffer(ADAGRAD_STATE, torch.zeros(num))
        self.weight.register_post_accumulate_grad_hook(self._update)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Register the hook again: a copied or unpickled weight has lost it."""
        super().__setstate__(state)
        self.weight.register_post_accumulate_grad_hook(self._update)

    @torch.compiler.disable  # sparse gradients cannot be traced
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids)

    @torch.no_grad()
    def _update(self, weight: Tensor) -> None:
        if weight.grad is None:
            return
        gradient = weight.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        self.squares.index_add_(0, rows, values.square().mean(1))
        weight.index_add_(0, rows, values * (-self.learning_rate / (self.squares[rows].sqrt() + EPSILON)).unsqueeze(1))
        weight.grad = None


def sparse_tables(module: nn.Module) -> Iterator[RowWiseAdagradEmbedding]:
    return (one for one in module.modules() if isinstance(one, RowWiseAdagradEmbedding))


def dense_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Parameters of the optimiser: all but the row-wise Adagrad tables."""
    sparse = {id(table.weight) for table in sparse_tables(module)}
    return [one for one in module.parameters() if id(one) not in sparse]
