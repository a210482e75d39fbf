"""Weighting of the losses of several objectives.

Shapes: T objectives.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.nn.parallel import averaged

ALPHA = 0.5
"""of GradNorm: exponent by which an objective that trains slower weighs more"""
MOVING_MEAN_DECAY = 0.99
"""share of a moving mean that a step keeps"""
MIN_LOSS = 1e-6
"""a smaller one gets no larger weight"""


class FixedWeights(nn.Module):
    """Sum of weight * loss."""

    weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(list(weights), dtype=torch.float32), persistent=False)

    def forward(self, losses: Tensor, shared: Tensor) -> Tensor:
        return (self.weights * losses).sum()


class UncertaintyWeights(nn.Module):
    """Sum of loss / variance, each variance optimal for the moving mean of the loss: twice that mean.

    The minimum of loss / variance + log of the deviation (Kendall, Gal & Cipolla 2018, eq. 10), not learnt by descent.
    """

    means: Tensor
    """[T] moving means of the losses, 0 until an objective has a label"""

    def __init__(self, num_objectives: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.zeros(num_objectives))

    def forward(self, losses: Tensor, shared: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            _moved(self.means, averaged(losses.detach()))
        return (losses / (2 * self.means.clamp(min=MIN_LOSS))).sum()


class GradientNormWeights(nn.Module):
    """Weights under which all objectives have equal gradients on the shared parameter, larger where training is slower.

    The target of GradNorm (Chen et al. 2018, eq. 2), solved instead of descended to, for moving means of losses and
    gradients: |weight * gradient| is that of the mean objective times (loss over the first loss / its mean) ^ ALPHA.
    Weights sum to T.
    """

    weights: Tensor
    first: Tensor
    """[T] losses of the first step with a label of the objective, 0 until then"""
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
            self._update(losses, shared)
        return (self.weights * losses).sum()

    def _update(self, losses: Tensor, shared: Tensor) -> None:
        of_batch = averaged(losses.detach())
        _moved(self.losses, of_batch)
        _moved(self.slopes, torch.stack([_slope(loss, shared) for loss in losses]))
        self.first.copy_(torch.where(self.first == 0, of_batch, self.first))
        known = (self.slopes > 0) & (self.first > 0)
        if not known.any():
            return
        left = self.losses[known] / self.first[known]
        target = (left / left.mean()) ** ALPHA / self.slopes[known]
        self.weights[known] = target * self.weights[known].sum() / target.sum()


def _moved(means: Tensor, news: Tensor) -> None:
    """Update moving means by the numbers that are not 0; an objective without a label in this step has 0."""
    moved = torch.where(means == 0, news, MOVING_MEAN_DECAY * means + (1 - MOVING_MEAN_DECAY) * news)
    means.copy_(torch.where(news == 0, means, moved))


def _slope(loss: Tensor, shared: Tensor) -> Tensor:
    """Norm of the gradient of a batch, by backward: the FLOP counter of the first step does not support autograd.grad."""
    kept, shared.grad = shared.grad, None
    loss.backward(retain_graph=True, inputs=[shared])
    slope = torch.zeros_like(shared) if shared.grad is None else shared.grad
    shared.grad = kept
    return averaged(slope.float()).norm().to(loss.device)


EQUAL = "equal"
Balance = FixedWeights | UncertaintyWeights | GradientNormWeights
ADAPTIVE: Mapping[str, type[UncertaintyWeights] | type[GradientNormWeights]] = {
    "uncertainty": UncertaintyWeights,
    "gradients": GradientNormWeights,
}


def check_balance(how: str | Mapping[str, float]) -> None:
    """Raise ConfigError unless `how` is a name of a weighting or weights by objective."""
    if how not in (EQUAL, *ADAPTIVE) if isinstance(how, str) else not isinstance(how, Mapping):
        raise ConfigError(f"ranking.balance is {how!r}; choose equal, uncertainty, gradients or a weight an objective")


def balance_of(how: str | Mapping[str, float], objectives: Sequence[str]) -> Balance:
    """Build the weighting: equal, uncertainty, gradients, or a weight for each objective; ConfigError for anything else."""
    check_balance(how)
    if isinstance(how, str):
        return FixedWeights([1.0] * len(objectives)) if how == EQUAL else ADAPTIVE[how](len(objectives))
    if set(how) != set(objectives):
        raise ConfigError(
            f"ranking.balance weighs {', '.join(map(str, how))}; the objectives are {', '.join(objectives)}"
        )
    if not all(isinstance(one, int | float) and 0 <= one < float("inf") for one in how.values()) or not any(
        how.values()
    ):
        raise ConfigError(f"ranking.balance is {dict(how)}; give numbers from 0 on, one of them above 0")
    return FixedWeights([float(how[name]) for name in objectives])
