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
"""share of the weights that a step keeps"""


class Fixed(nn.Module):
    """sum of weight * loss."""

    weights: Tensor

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("weights", torch.tensor(list(weights), dtype=torch.float32), persistent=False)

    def forward(self, losses: Tensor, shared: nn.Parameter) -> Tensor:
        return (self.weights * losses).sum()


class ByUncertainty(nn.Module):
    """sum of loss / variance + log of the deviation, the variances learnt (Kendall, Gal & Cipolla 2018, eq. 10)."""

    def __init__(self, num_objectives: int) -> None:
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(num_objectives))

    def forward(self, losses: Tensor, shared: nn.Parameter) -> Tensor:
        return (losses * torch.exp(-self.log_variances) + self.log_variances / 2).sum()


class ByGradients(nn.Module):
    """Weights under which every objective moves the shared parameter as much, more where it has come less far.

    The aim of GradNorm (Chen et al. 2018, eq. 2), approached by a moving mean instead of by descent: |weight * gradient| is
    that of the mean objective times (share of the first loss that is left / its mean) ^ PACE. Weights sum to T.
    """

    weights: Tensor
    first: Tensor
    """[T] losses of the first step that knew the objective, 0 until then"""

    def __init__(self, num_objectives: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.ones(num_objectives))
        self.register_buffer("first", torch.zeros(num_objectives))

    def forward(self, losses: Tensor, shared: nn.Parameter) -> Tensor:
        if torch.is_grad_enabled():
            self._follow(losses, shared)
        return (self.weights * losses).sum()

    def _follow(self, losses: Tensor, shared: nn.Parameter) -> None:
        norms, now = torch.stack([_slope(loss, shared) for loss in losses]), losses.detach()
        self.first.copy_(torch.where(self.first == 0, now, self.first))
        known = (norms > 0) & (self.first > 0)
        if not known.any():
            return
        left = now[known] / self.first[known]
        wanted = norms[known].mean() * (left / left.mean()) ** PACE / norms[known]
        aim = self.weights.clone()
        aim[known] = wanted * aim[known].sum() / wanted.sum()
        self.weights.lerp_(aim, 1 - INERTIA)


def _slope(loss: Tensor, shared: nn.Parameter) -> Tensor:
    """Length of the gradient. Counting operations, as the loop does in a first step, knows no autograd.grad."""
    kept, shared.grad = shared.grad, None
    loss.backward(retain_graph=True, inputs=[shared])
    slope = torch.zeros(()) if shared.grad is None else shared.grad.float().norm()
    shared.grad = kept
    return slope.to(loss.device)


Balance = Fixed | ByUncertainty | ByGradients
LEARNT: Mapping[str, type[ByUncertainty | ByGradients]] = {"uncertainty": ByUncertainty, "gradients": ByGradients}


def balance_of(how: str | Mapping[str, float], objectives: Sequence[str]) -> Balance:
    """equal, uncertainty, gradients, or a weight for each objective; ConfigError for anything else."""
    if isinstance(how, str):
        if how == "equal":
            return Fixed([1.0] * len(objectives))
        if how not in LEARNT:
            raise ConfigError(
                f"ranking.balance is {how!r}; choose equal, uncertainty, gradients or a weight an objective"
            )
        return LEARNT[how](len(objectives))
    if set(how) != set(objectives):
        raise ConfigError(f"ranking.balance weighs {', '.join(how)}; the objectives are {', '.join(objectives)}")
    if not all(isinstance(one, int | float) and 0 <= one < float("inf") for one in how.values()) or not any(
        how.values()
    ):
        raise ConfigError(f"ranking.balance is {dict(how)}; give numbers from 0 on, one of them above 0")
    return Fixed([float(how[name]) for name in objectives])
