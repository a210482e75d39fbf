"""Schedules of the learning rate, chosen by conf/scheduler: the factor of each step."""

import math
from collections.abc import Callable
from functools import partial

Schedule = Callable[..., float]
"""step from 0, steps -> factor of the learning rate; other keys come from its file"""


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
