"""Objectives that are only reached on the way of another one: a like needs a click, a purchase needs a cart.

Their probability is a product, P(buy) = P(cart) P(buy | cart), learnt over everything that was shown (ESMM, Ma et al.
2018): what moves the first factor, a place on the screen for one, is learnt from the many events of the first objective.

Grades and amounts are objectives of this kind as well: "rating >= 3", "rating >= 4", "rating >= 5" follow one another, which
is the continuation-ratio model of an ordinal answer (Fienberg 1980), and the mean of an amount is the area under
P(amount > s) over steps s, as the trees of TPM predict how long somebody watches (Lin et al. 2023).

Shapes: R cells, T objectives; `...` any leading dimensions.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

ENOUGH = 20
"""positives that must all lie within another objective's before it is taken for a rule"""
CHANCE = 1e-6
"""with which they might lie there if the two had nothing to do with each other, at most: a common one holds many by chance"""

Parents = tuple[int | None, ...]
"""for each objective the place of the one that it needs, None if it needs none"""


def parents_of(labels: np.ndarray) -> Parents:
    """Read off labels [R, T] (NaN is missing): the rarest objective that was reached wherever this one was."""
    known, reached = ~np.isnan(labels), labels > 0
    counts = reached.sum(0)
    rates = counts / np.maximum(known.sum(0), 1)
    found: list[int | None] = []
    for objective, count in enumerate(counts):
        rows = reached[:, objective]
        wider = [
            other
            for other in np.flatnonzero(counts > count)
            if (both := known[rows, other]).sum() >= ENOUGH
            and reached[rows, other][both].all()
            and rates[other] ** both.sum() <= CHANCE
        ]
        found.append(int(min(wider, key=lambda other: counts[other])) if wider else None)
    return tuple(found)


def follow(logits: Tensor, parents: Parents) -> Tensor:
    """Logits [..., T], each given its parent -> logits [..., T] of reaching it at all."""
    reached: dict[int, Tensor] = {}

    def at(place: int) -> Tensor:
        if place not in reached:
            own, parent = logits[..., place], parents[place]
            reached[place] = own if parent is None else both(own, at(parent))
        return reached[place]

    return torch.stack([at(place) for place in range(len(parents))], dim=-1)


def nested(probabilities: Tensor, parents: Parents) -> Tensor:
    """Probabilities [..., T], each calibrated by itself -> [..., T] of which none is greater than its parent's."""
    found: dict[int, Tensor] = {}

    def at(place: int) -> Tensor:
        if place not in found:
            own, parent = probabilities[..., place], parents[place]
            found[place] = own if parent is None else torch.minimum(own, at(parent))
        return found[place]

    return torch.stack([at(place) for place in range(len(parents))], dim=-1)


def both(one: Tensor, other: Tensor) -> Tensor:
    """Logit of sigmoid(one) * sigmoid(other): 1 / odds = e^-x + e^-y + e^-(x + y)."""
    return -torch.stack([-one, -other, -one - other]).logsumexp(0)


def spread(logits: Tensor, variances: Tensor, parents: Parents) -> Tensor:
    """Variances [..., T] of logits [..., T], each given its parent and erring by itself -> of those that `follow` gives.

    Delta method: d both(x, y) / dx = (1 - sigmoid(x)) / (1 - sigmoid(x) sigmoid(y)), so a factor that is almost certain
    adds nothing, and the least likely one adds all of its own.
    """
    reached, found = follow(logits, parents), list(variances.unbind(-1))

    def at(place: int) -> Tensor:
        own, parent = found[place], parents[place]
        if parent is None:
            return own
        whole = F.softplus(reached[..., place])
        slopes = [torch.exp(whole - F.softplus(one)) for one in (logits[..., place], reached[..., parent])]
        return own * slopes[0].square() + at(parent) * slopes[1].square()

    return torch.stack([at(place) for place in range(len(parents))], dim=-1)


def told(names: Sequence[str], parents: Parents) -> str:
    """For people: 'like after click, buy after cart', '' where nothing follows."""
    pairs = zip(names, parents, strict=True)
    return ", ".join(f"{name} after {names[parent]}" for name, parent in pairs if parent is not None)
