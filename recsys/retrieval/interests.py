"""Several vectors of a user: the score of an item, and the interest that a target trains.

Shapes: M positions, N items, D dim, K interests, T targets a position, R pairs of a position and an interest.
"""

import torch
from torch import Tensor


def best_cosines(users: Tensor, items: Tensor) -> Tensor:
    """Return the scores [M, N] of items [N, D]: the largest inner product with one of the interests [M, K D]."""
    return (users.unflatten(-1, (-1, items.shape[1])) @ items.T).amax(1)


def nearest_interests(users: Tensor, items: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give each target to the interest that is nearest to it, alone (ComiRec, Cen et al. 2020, eq. 7).

    users [M, K D], items [N, D], targets [M, T] rows of `items`, weights [M, T] -> the same as a loss reads them, a position
    for each interest that has a target: [R, D], [R, T], [R, T].
    """
    dim = items.shape[1]
    if users.shape[1] == dim:
        return users, targets, weights
    interests = users.unflatten(-1, (-1, dim))
    nearest = (interests.detach() @ items.detach()[targets].transpose(1, 2)).argmax(1, keepdim=True)
    numbers = torch.arange(interests.shape[1], device=users.device).unsqueeze(-1)
    own = weights.unsqueeze(1) * (nearest == numbers)
    trained = own.any(-1)
    return interests[trained], targets.unsqueeze(1).expand_as(own)[trained], own[trained]
