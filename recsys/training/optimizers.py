"""Optimisers of the trained models, chosen by conf/optimizer. Row-wise Adagrad tables update themselves beside any of them."""

from collections.abc import Callable, Iterable
from functools import partial

from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

OptimizerFactory = Callable[..., Optimizer]
"""parameters, learning_rate, weight_decay, fused -> optimiser; other keys come from its file.

fused: whether one kernel may update all parameters, which Lightning refuses where it clips gradients in mixed precision.
"""


def adamw(
    *, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float, fused: bool, betas: list[float]
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""
    return AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=fused, betas=(betas[0], betas[1]))


def adam(
    *, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float, fused: bool, betas: list[float]
) -> Optimizer:
    """Adam (Kingma & Ba 2015); weight decay is a part of the gradient."""
    return Adam(parameters, lr=learning_rate, weight_decay=weight_decay, fused=fused, betas=(betas[0], betas[1]))


def adagrad(*, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float, fused: bool) -> Optimizer:
    """Adagrad (Duchi et al. 2011)."""
    return Adagrad(parameters, lr=learning_rate, weight_decay=weight_decay, fused=fused)


def sgd(
    *, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float, fused: bool, momentum: float
) -> Optimizer:
    """Stochastic gradient descent with momentum."""
    return SGD(parameters, lr=learning_rate, weight_decay=weight_decay, fused=fused, momentum=momentum)


DEFAULT_OPTIMIZER: OptimizerFactory = partial(adamw, betas=[0.9, 0.999])
"""that of conf/optimizer/adamw.yaml, for models that are trained without conf/"""
