"""Schedules of the learning rate, in optimiser steps: files of conf/scheduler, or any class of torch.optim.lr_scheduler by its
`_target_`.
"""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from recsys.errors import ConfigError

Schedule = Callable[..., float]
"""step from 0, steps -> factor of the learning rate; other keys come from its file"""
ScheduleFactory = Callable[..., Any]
"""a Schedule, or optimizer -> scheduler of torch; the keys of FILLED are given where a file leaves them out"""
FILLED = {"T_max": "steps", "total_steps": "steps", "max_lr": "learning_rate"}
"""arguments of torch's schedulers that follow from the training"""


def build_schedule(factory: ScheduleFactory, optimizer: Optimizer, *, steps: int, learning_rate: float) -> LRScheduler:
    """Build the schedule of an optimiser over so many steps."""
    takes = inspect.signature(factory).parameters
    if "optimizer" not in takes:
        return LambdaLR(optimizer, partial(_factor, factory, steps))
    known = {"steps": steps, "learning_rate": learning_rate}
    filled = {name: known[own] for name, own in FILLED.items() if name in takes and name not in _bound(factory)}
    return factory(optimizer=optimizer, **filled)


def check_schedule(group: str, factory: ScheduleFactory, optimizer: Optimizer, learning_rate: float) -> None:
    """Raise ConfigError where a schedule of this optimiser cannot be built."""
    target = getattr(factory, "func", factory)
    if target is ReduceLROnPlateau:
        raise ConfigError(
            f"{group}.scheduler is ReduceLROnPlateau, which reads a validation figure that fits of a fixed number of epochs "
            "have not; choose a schedule of the steps alone"
        )
    try:
        build_schedule(factory, optimizer, steps=10, learning_rate=learning_rate)
    except Exception as error:
        keys = [key for key in inspect.signature(target).parameters if key not in ("optimizer", "step", "steps")]
        raise ConfigError(
            f"{group}.scheduler: {target.__name__} cannot be used: {' '.join(str(error).split())}; its keys are "
            f"{', '.join(keys) or 'none'} (~{group}.scheduler.warmup removes one of another schedule)"
        ) from None


def _factor(schedule: Schedule, steps: int, step: int) -> float:
    return schedule(step=step, steps=steps)


def _bound(factory: ScheduleFactory) -> dict[str, Any]:
    return getattr(factory, "keywords", {})


def warmup_cosine(*, step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then a half cosine to 0 (Loshchilov & Hutter 2017)."""
    warm = _warm(steps, warmup)
    if step < warm:
        return (step + 1) / warm
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm)))


def warmup_linear(*, step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then linear to 0."""
    warm = _warm(steps, warmup)
    return (step + 1) / warm if step < warm else 1 - min(1.0, (step - warm) / max(1, steps - warm))


def inverse_square_root(*, step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over a share of the steps, then sqrt(warm-up / (step + 1)) (Vaswani et al. 2017); it never ends at 0."""
    warm = _warm(steps, warmup)
    return (step + 1) / warm if step < warm else math.sqrt(warm / (step + 1))


def constant(*, step: int, steps: int) -> float:
    """The learning rate itself."""
    return 1.0


def _warm(steps: int, warmup: float) -> int:
    """Steps of the warm-up, one at least. 0.05 times a multiple of 20 may lie below the whole number."""
    return max(1, int(steps * warmup + 1e-9))


DEFAULT_SCHEDULE: Schedule = partial(warmup_cosine, warmup=0.05)
"""that of conf/scheduler/warmup_cosine.yaml, for models that are trained without conf/"""
