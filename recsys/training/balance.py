"""How the losses of several objectives become one.

Shapes: T objectives.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError

PACE = 0.5
"""how much more an objective weighs that has come less far than the others"""
INERTIA = 0.99
"""share of a moving mean that a step keeps"""
SMALLEST = 1e-6
"""a loss below this weighs no more"""


class Fixed(nn.Module):
    """sum of weight * loss."""

    weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(list(weights), dtype=torch.float32), persistent=False)

    def forward(self, losses: Tensor, shared: Tensor) -> Tensor:
        return (self.weights * losses).sum()


class ByUncertainty(nn.Module):
    """sum of loss / variance, each variance at its best for the loss so far, which is twice that loss.

    What minimises loss / variance + log of the deviation (Kendall, Gal & Cipolla 2018, eq. 10), without learning it.
    """

    means: Tensor
    """[T] moving means of the losses, 0 until an objective is known"""

    def __init__(self, num_objectives: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(num_objectives))

    def forward(self, losses: Tensor, shared: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            _moved(self.means, losses.detach())
        return (losses / (2 * self.means.clamp(min=SMALLEST))).sum()


class ByGradients(nn.Module):
    """Weights under which every objective moves the shared parameter as much, more where it has come less far.

    The aim of GradNorm (Chen et al. 2018, eq. 2), solved instead of descended to, for moving means of losses and
    gradients: |weight * gradient| is that of the mean objective times (share of the first loss that is left / its mean) ^
    PACE. Weights sum to T.
    """

    weights: Tensor
    first: Tensor
    """[T] losses of the first step that knew the objective, 0 until then"""
    losses: Tensor
    """[T] and `slopes` [T], moving means"""
    slopes: Tensor

    def __init__(self, num_objectives: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.ones(num_objectives))
        for name in ("first", "losses", "slopes"):
            self.register_buffer(name, torch.zeros(num_objectives))

    def forward(self, losses: Tensor, shared: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self._follow(losses, shared)
        return (self.weights * losses).sum()

    def _follow(self, losses: Tensor, shared: Tensor) -> None:
        _moved(self.losses, losses.detach())
        _moved(self.slopes, torch.stack([_slope(loss, shared) for loss in losses]))
        self.first.copy_(torch.where(self.first == 0, losses.detach(), self.first))
        known = (self.slopes > 0) & (self.first > 0)
        if not known.any():
            return
        left = self.losses[known] / self.first[known]
        wanted = (left / left.mean()) ** PACE / self.slopes[known]
        self.weights[known] = wanted * self.weights[known].sum() / wanted.sum()


def _moved(means: Tensor, news: Tensor) -> None:
    """Moving means of the numbers that are not 0, which is what an objective without a label in this step has."""
    moved = torch.where(means == 0, news, INERTIA * means + (1 - INERTIA) * news)
    means.copy_(torch.where(news == 0, means, moved))


def _slope(loss: Tensor, shared: Tensor) -> Tensor:
    """Length of the gradient. Counting operations, as the loop does in a first step, knows no autograd.grad."""
    kept, shared.grad = shared.grad, None
    loss.backward(retain_graph=True, inputs=[shared])
    slope = torch.zeros(()) if shared.grad is None else shared.grad.float().norm()
    shared.grad = kept
    return slope.to(loss.device)


EQUAL = "equal"
Balance = Fixed | ByUncertainty | ByGradients
LEARNT: Mapping[str, type[ByUncertainty | ByGradients]] = {"uncertainty": ByUncertainty, "gradients": ByGradients}


def check_balance(how: str | Mapping[str, float]) -> None:
    """ConfigError for a name that is none, and for what is neither a name nor weights by name."""
    if how not in (EQUAL, *LEARNT) if isinstance(how, str) else not isinstance(how, Mapping):
        raise ConfigError(f"ranking.balance is {how!r}; choose equal, uncertainty, gradients or a weight an objective")


def balance_of(how: str | Mapping[str, float], objectives: Sequence[str]) -> Balance:
    """equal, uncertainty, gradients, or a weight for each objective; ConfigError for anything else."""
    check_balance(how)
    if isinstance(how, str):
        return Fixed([1.0] * len(objectives)) if how == EQUAL else LEARNT[how](len(objectives))
    if set(how) != set(objectives):
        raise ConfigError(
            f"ranking.balance weighs {', '.join(map(str, how))}; the objectives are {', '.join(objectives)}"
        )
    if not all(isinstance(one, int | float) and 0 <= one < float("inf") for one in how.values()) or not any(
        how.values()
    ):
        raise ConfigError(f"ranking.balance is {dict(how)}; give numbers from 0 on, one of them above 0")
    return Fixed([float(how[name]) for name in objectives])
