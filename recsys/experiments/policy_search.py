"""Search for the numbers of a policy on logged propensities: gradient-free, within bounds, judged by users that did not choose.

What is maximised is the lower end of the interval of the difference to what was shown, so that numbers of which the log says
little lose against those it is sure of (counterfactual risk minimisation, Swaminathan and Joachims 2015). Half of the users
choose by differential evolution (Storn and Price 1997); the other half judges what was chosen, so its interval is honest.

Shapes: R requests.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.optimize import differential_evolution

from recsys.errors import ConfigError, DataError
from recsys.experiments.mean_intervals import Interval
from recsys.experiments.slate_off_policy import SlateEstimate, SlateLog, slate_gain, slate_value

POPULATION, GENERATIONS = 10, 5
"""points of a dimension that are tried at once, and how often they are drawn anew after the first time"""
LOG_RATIO = 10.0
"""ends of bounds that differ by this factor and more are searched by the logarithm"""
REFUSED = 1e12
"""loss of numbers that the log cannot tell of"""

Numbers = Mapping[str, float]
"""key of the policy, such as weights.buy -> its value"""
Gain = tuple[float, Interval]
"""more reward a request, and the interval of it"""
Estimate = TypeVar("Estimate")


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Range that a person allows a number of the policy; raises ConfigError where it is none."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"bounds are {self.low:g} to {self.high:g}; write two numbers, the lower one first")

    @property
    def logarithmic(self) -> bool:
        return self.low > 0 and self.high / self.low >= LOG_RATIO

    @property
    def ends(self) -> tuple[float, float]:
        """Return the ends as they are searched between."""
        return (math.log(self.low), math.log(self.high)) if self.logarithmic else (self.low, self.high)

    def value(self, searched: float) -> float:
        """Return the number at a searched point, to three digits."""
        value = math.exp(searched) if self.logarithmic else searched
        return min(self.high, max(self.low, float(f"{value:.3g}")))


@dataclass(frozen=True, kw_only=True)
class PolicyProposal:
    """Numbers that a log speaks for."""

    numbers: Numbers
    chosen: SlateEstimate
    """by the users that chose them: too good, since they chose"""
    judged: SlateEstimate | DataError
    """by the other users"""
    gain: Gain | DataError
    """by the other users, over the numbers that serve; what was shown explored, so both may earn more than it"""
    tried: int
    refused: int
    """tried numbers of which the log says too little"""


def search(
    logs: Callable[[Numbers], SlateLog],
    bounds: Mapping[str, Bounds],
    today: Numbers,
    *,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PolicyProposal:
    """Return the numbers within the bounds of highest lower end; DataError where the log can tell of none of them.

    logs: the logged slates beside those of a policy with such numbers, of the same requests at every call. today: the numbers
    that serve
    """
    shown = logs(today)
    choosing = _choosing(shown.users)
    if choosing.all() or not choosing.any():
        raise DataError(
            f"the log has {len(np.unique(shown.users))} users, half of whom choose and half judge; log more"
        )
    found = _tried(logs, bounds, choosing, seed, progress)
    best = min(found, key=lambda own: found[own])
    refused = sum(one == REFUSED for one in found.values())
    if found[best] == REFUSED:
        raise DataError(
            f"the log says too little of all {len(found)} policies that were tried; explore more, or narrow the bounds"
        )
    numbers = dict(zip(bounds, best, strict=True))
    log = logs(numbers)
    return PolicyProposal(
        numbers=numbers,
        chosen=slate_value(log.only(choosing)),
        judged=_estimated(lambda: slate_value(log.only(~choosing))),
        gain=_estimated(lambda: slate_gain(log.only(~choosing), shown.only(~choosing))),
        tried=len(found),
        refused=refused,
    )


def _tried(
    logs: Callable[[Numbers], SlateLog],
    bounds: Mapping[str, Bounds],
    choosing: np.ndarray,
    seed: int,
    progress: Callable[[int, int], None],
) -> dict[tuple[float, ...], float]:
    """Return the loss of all numbers that differential evolution tried, by the requests [R] bool that choose."""
    names, found = list(bounds), dict[tuple[float, ...], float]()
    total = POPULATION * len(names) * (GENERATIONS + 1)
    count = 0

    def loss(point: Sequence[float]) -> float:
        nonlocal count
        count += 1
        progress(min(count, total), total)
        own = tuple(bounds[name].value(one) for name, one in zip(names, point, strict=True))
        if own not in found:
            log = logs(dict(zip(names, own, strict=True)))
            try:
                found[own] = -slate_value(log.only(choosing)).difference[0]
            except DataError:
                found[own] = REFUSED
        return found[own]

    differential_evolution(
        loss,
        [bounds[name].ends for name in names],
        init="sobol",
        popsize=POPULATION,
        maxiter=GENERATIONS,
        tol=0.0,
        polish=False,
        rng=seed,
    )
    return found


def _estimated(estimate: Callable[[], Estimate]) -> Estimate | DataError:
    """Return the estimate, or why there is none."""
    try:
        return estimate()
    except DataError as error:
        return error


def _choosing(users: np.ndarray) -> np.ndarray:
    """[R] bool, requests of the half of the users that chooses."""
    return np.asarray(np.random.default_rng(0).random(users.max() + 1)[users] < 0.5)
