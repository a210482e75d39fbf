"""Objectives that are only reached on the way of another one: a like needs a click, a purchase needs a cart.

Their probability is a product, P(buy) = P(cart) P(buy | cart), learnt over everything that was shown (ESMM, Ma et al.
2018): the effects on the first factor, position bias for one, are learnt from the many events of the first objective.

Grades and amounts are objectives of this kind as well: "rating >= 3", "rating >= 4", "rating >= 5" follow one another,
the continuation-ratio model of an ordinal answer (Fienberg 1980), and the mean of an amount is the area under
P(amount > s) over steps s, as the trees of TPM predict watch time (Lin et al. 2023).

Shapes: R cells, T objectives; `...` any leading dimensions.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

MIN_POSITIVES = 20
"""positives that must all lie within another objective's before it is taken as the parent"""
MAX_CHANCE = 1e-6
"""probability, at most, of that containment under independence: a common objective contains many positives by chance"""

Parents = tuple[int | None, ...]
"""for each objective the index of the one that it needs, None if it needs none"""


def parents_of(labels: np.ndarray) -> Parents:
    """Read off labels [R, T] (NaN is missing): the rarest objective that was reached wherever this one was."""
    known, reached = ~np.isnan(labels), labels > 0
    counts = reached.sum(0)
    rates = counts / np.maximum(known.sum(0), 1)
    parents: list[int | None] = []
    for objective, count in enumerate(counts):
        rows = reached[:, objective]
        wider = [
            other
            for other in np.flatnonzero(counts > count)
            if (both := known[rows, other]).sum() >= MIN_POSITIVES
            and reached[rows, other][both].all()
            and rates[other] ** both.sum() <= MAX_CHANCE
        ]
        parents.append(int(min(wider, key=lambda other: counts[other])) if wider else None)
    return tuple(parents)


def with_ancestors(objective: int, parents: Parents) -> list[int]:
    """Return an objective and those that it is conditional on."""
    parent = parents[objective]
    return [objective] if parent is None else [objective, *with_ancestors(parent, parents)]


def chain_logits(logits: Tensor, parents: Parents) -> Tensor:
    """Logits [..., T], each given its parent -> logits [..., T] of reaching the objective at all."""
    reached: dict[int, Tensor] = {}

    def at(objective: int) -> Tensor:
        if objective not in reached:
            own, parent = logits[..., objective], parents[objective]
            reached[objective] = own if parent is None else and_logits(own, at(parent))
        return reached[objective]

    return torch.stack([at(objective) for objective in range(len(parents))], dim=-1)


def enforce_monotone(probabilities: Tensor, parents: Parents) -> Tensor:
    """Probabilities [..., T], each calibrated by itself -> [..., T] of which none is greater than its parent's."""
    bounded: dict[int, Tensor] = {}

    def at(objective: int) -> Tensor:
        if objective not in bounded:
            own, parent = probabilities[..., objective], parents[objective]
            bounded[objective] = own if parent is None else torch.minimum(own, at(parent))
        return bounded[objective]

    return torch.stack([at(objective) for objective in range(len(parents))], dim=-1)


def and_logits(one: Tensor, other: Tensor) -> Tensor:
    """Logit of sigmoid(one) * sigmoid(other): 1 / odds = e^-x + e^-y + e^-(x + y)."""
    return -torch.stack([-one, -other, -one - other]).logsumexp(0)


def propagate_variance(logits: Tensor, variances: Tensor, parents: Parents) -> Tensor:
    """Variances [..., T] of independent logits [..., T], each given its parent -> those of `chain_logits`.

    Delta method: d and_logits(x, y) / dx = (1 - sigmoid(x)) / (1 - sigmoid(x) sigmoid(y)), so a factor that is almost
    certain adds nothing, and the least likely one adds all of its own.
    """
    reached, conditional = chain_logits(logits, parents), list(variances.unbind(-1))

    def at(objective: int) -> Tensor:
        own, parent = conditional[objective], parents[objective]
        if parent is None:
            return own
        whole = F.softplus(reached[..., objective])
        slopes = [torch.exp(whole - F.softplus(one)) for one in (logits[..., objective], reached[..., parent])]
        return own * slopes[0].square() + at(parent) * slopes[1].square()

    return torch.stack([at(objective) for objective in range(len(parents))], dim=-1)


def describe(names: Sequence[str], parents: Parents) -> str:
    """Chain in words: 'like after click, buy after cart', '' where no objective has a parent."""
    pairs = zip(names, parents, strict=True)
    return ", ".join(f"{name} after {names[parent]}" for name, parent in pairs if parent is not None)
