"""The seam of the towers' loss: how unit vectors of users and items become one number to minimise.

Shapes: M positions, N items, D dim, T targets a position.
"""

from typing import Protocol

from torch import Tensor


class RetrievalLoss(Protocol):
    """A file of conf/retrieval/loss, instantiated."""

    def __call__(
        self, users: Tensor, items: Tensor, targets: Tensor, weights: Tensor, log_inclusion: Tensor | None
    ) -> Tensor:
        """Return the weighted mean loss of all positions and targets, a scalar.

        users [M, D] and items [N, D]: unit vectors; targets [M, T]: rows of `items`; weights [M, T]: 0 leaves a target out.
        log_inclusion [N]: log probability that an item is in this sample of the catalogue, None where all items are.
        """
