"""Search for the numbers of a policy on logged propensities: gradient-free, within bounds, judged by users that did not choose.

What is maximised is the lower end of the interval of the difference to what was shown, so that numbers of which the log says
little lose against those it is sure of (counterfactual risk minimisation, Swaminathan and Joachims 2015). Half of the users
choose by differential evolution (Storn and Price 1997); the other half judges what was chosen, so its interval is honest.

Shapes: R requests.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import differential_evolution

from recsys.errors import ConfigError, DataError
from recsys.experiments.slate_off_policy import SlateEstimate, SlateLog, slate_value

POPULATION, GENERATIONS = 10, 5
"""points of a dimension that are tried at once, and how often they are drawn anew after the first time"""
LOG_RATIO = 10.0
"""ends of bounds that differ by this factor and more are searched by the logarithm"""
REFUSED = 1e12
"""loss of numbers that the log cannot tell of"""

Numbers = Mapping[str, float]
"""key of the policy, such as weights.buy -> its value"""


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
    tried: int
    refused: int
    """tried numbers of which the log says too little"""


def search(
    logs: Callable[[Numbers], SlateLog],
    bounds: Mapping[str, Bounds],
    *,
    seed: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PolicyProposal:
    """Return the numbers within the bounds of highest lower end; DataError where the log can tell of none of them.

    logs: the logged slates beside those of a policy with such numbers, of the same requests at every call
    """
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
                found[own] = -slate_value(log.only(_choosing(log.users))).difference[0]
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
    best = min(found, key=lambda own: found[own])
    refused = sum(one == REFUSED for one in found.values())
    if found[best] == REFUSED:
        raise DataError(
            f"the log says too little of all {len(found)} policies that were tried; explore more, or narrow the bounds"
        )
    numbers = dict(zip(names, best, strict=True))
    log = logs(numbers)
    choosing = _choosing(log.users)
    judged: SlateEstimate | DataError
    try:
        judged = slate_value(log.only(~choosing))
    except DataError as error:
        judged = error
    chosen = slate_value(log.only(choosing))
    return PolicyProposal(numbers=numbers, chosen=chosen, judged=judged, tried=len(found), refused=refused)


def _choosing(users: np.ndarray) -> np.ndarray:
    """[R] bool, requests of the half of the users that chooses."""
    return np.asarray(np.random.default_rng(0).random(users.max() + 1)[users] < 0.5)
