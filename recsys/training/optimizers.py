"""Optimisers of the trained models: files of conf/optimizer, or any class of torch.optim by its `_target_`.

Row-wise Adagrad tables update themselves beside any of them.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from recsys.errors import ConfigError

OptimizerFactory = Callable[..., Optimizer]
"""parameters, learning_rate, weight_decay, fused -> optimiser, or params, lr and perhaps weight_decay and fused as in torch;
other keys come from its file.

fused: whether one kernel may update all parameters, which Lightning refuses where it clips gradients in mixed precision.
"""
TORCH_NAMES = {"parameters": "params", "learning_rate": "lr"}
"""of arguments that have another name in torch"""


def build_optimizer(
    factory: OptimizerFactory,
    parameters: Sequence[nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
    fused: bool,
) -> Optimizer:
    """Call a factory with what training gives, as far as it takes that."""
    given = {"parameters": parameters, "learning_rate": learning_rate, "weight_decay": weight_decay, "fused": fused}
    takes = inspect.signature(factory).parameters
    if "parameters" not in takes:
        renamed = {TORCH_NAMES.get(name, name): value for name, value in given.items()}
        given = {name: value for name, value in renamed.items() if name in takes}
    return factory(**given)


def check_optimizer(group: str, factory: OptimizerFactory, learning_rate: float, weight_decay: float) -> Optimizer:
    """Return the optimiser of two small parameters after a step; ConfigError where it cannot be built or make one."""
    name, bound = _name(factory), getattr(factory, "keywords", {})
    for key, own in (("lr", "learning_rate"), ("weight_decay", "weight_decay")):
        if key in bound:
            raise ConfigError(f"{group}.optimizer has {key}, which is {group}.{own}; set that and leave {key} out")
    parameters = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))]
    try:
        takes = inspect.signature(factory).parameters
        optimizer = build_optimizer(
            factory, parameters, learning_rate=learning_rate, weight_decay=weight_decay, fused=False
        )
        _step(optimizer, parameters)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{group}.optimizer: {name} cannot train here: {reason}; {_advice(group, factory)}") from None
    if weight_decay and "weight_decay" not in takes:
        raise ConfigError(f"{group}.weight_decay is {weight_decay}, but {name} has none; set it to 0")
    return optimizer


def _step(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"it builds a {type(optimizer).__name__}, which is no optimiser")
    for one in parameters:
        one.grad = torch.zeros_like(one)
    optimizer.step(lambda: 0.0)


def _name(factory: Any) -> str:
    return getattr(factory, "func", factory).__name__


def _advice(group: str, factory: Any) -> str:
    """Name the keys that the file may give, and the way to remove one of an inherited file."""
    taken = inspect.signature(getattr(factory, "func", factory)).parameters
    keys = [key for key in taken if key not in ("params", "parameters", "lr", "learning_rate", "weight_decay", "fused")]
    return f"its keys are {', '.join(keys) or 'none'} (~{group}.optimizer.betas removes one of another optimiser)"


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
