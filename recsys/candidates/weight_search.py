"""Search for the weights of the merge, by scaling one after the other, over one period or several.

Shapes: K weights.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

Weights = tuple[float, ...]
PASSES = 5
SCALES = (0.0, 0.5, 0.7, 1.4, 2.0, 4.0)
"""factors that a weight is tried with"""
ENTRIES = (0.02, 0.1, 0.3, 1.0)
"""first weights of what has none, relative to the largest one: only ratios matter to an order"""
SHRUNK = (1.0, 0.5, 0.2, 0.0)
"""factors that the weights of lists are tried with on a period that did not choose them"""
LITTLE = 0.02
"""weight of what is kept beside a part that is tried alone"""

Objective = Callable[[Weights], float]


def scaled_search(start: Weights, objective: Objective, kept: Collection[int] = ()) -> tuple[Weights, float]:
    """Maximise the objective over weights [K] of at least 0; return them and its value; ties keep the value tried first.

    One weight after the other takes the best of its scaled values, until a pass changes nothing, or PASSES times. Not all of
    them become 0, and none of `kept`.
    """
    values: dict[Weights, float] = {}

    def value(weights: Weights) -> float:
        if weights not in values:
            values[weights] = objective(weights)
        return values[weights]

    chosen = start
    for _ in range(PASSES):
        before = chosen
        for number, weight in enumerate(chosen):
            tried = [weight * scale for scale in SCALES if scale or number not in kept]
            if not weight:
                tried = [max(chosen) * entry for entry in ENTRIES]
            moved = ((*chosen[:number], one, *chosen[number + 1 :]) for one in tried)
            chosen = max([chosen, *(one for one in moved if any(one))], key=value)
        if chosen == before:
            break
    return chosen, value(chosen)


@dataclass(frozen=True, kw_only=True)
class PeriodSearch:
    """Search for weights that hold in a period that did not choose them.

    A list is right or wrong for all users of a period at once, so many users say little of its weight. Each period is
    weighed by the weights of the others: lists keep the factor of SHRUNK that is best there, and one part alone is taken
    where it is better than all.
    """

    objectives: Sequence[Objective]
    """one a period"""
    starts: Sequence[Weights]
    """further ones than the best part alone"""
    kept: Collection[int]
    """numbers of the weights that do not become 0"""
    lists: Collection[int]
    """numbers of the weights of sources that offer the same to everybody"""

    def best(self, progress: Callable[[Sequence[Weights]], Iterable[Weights]]) -> Weights:
        """Return the weights; progress wraps the starts of the search over all periods."""
        objectives = [cache(one) for one in self.objectives]
        chosen = self._searched(objectives, progress)
        if len(objectives) == 1:
            return chosen
        others = [[one for one in objectives if one is not left] for left in objectives]
        found = [self._searched(ones, lambda starts: starts) for ones in others]
        tried = {factor: [self._shrunk(one, factor) for one in found] for factor in SHRUNK}
        carried = {factor: _mean_of(objectives, weights) for factor, weights in tried.items()}
        factor = max(carried, key=lambda one: carried[one])
        if _mean_of(objectives, [self._alone(ones) for ones in others]) > carried[factor]:
            return self._alone(objectives)
        return self._shrunk(chosen, factor)

    def _searched(
        self, objectives: Sequence[Objective], progress: Callable[[Sequence[Weights]], Iterable[Weights]]
    ) -> Weights:
        """Return the weights of highest mean over some of the periods."""

        def mean(weights: Weights) -> float:
            return float(np.mean([one(weights) for one in objectives]))

        starts = progress([*self.starts, self._alone(objectives)])
        return max((scaled_search(start, mean, self.kept) for start in starts), key=lambda one: one[1])[0]

    def _alone(self, objectives: Sequence[Objective]) -> Weights:
        """Return the best part alone, beside very little of those that are kept."""
        num = len(self.starts[0])
        parts = [
            tuple(1.0 if one == part else LITTLE * (part in self.kept) for part in range(num)) for one in range(num)
        ]
        return max(parts, key=lambda weights: _mean_of(objectives, [weights] * len(objectives)))

    def _shrunk(self, weights: Weights, factor: float) -> Weights:
        """Return the weights with those of the lists times a factor, unless nothing would be left."""
        shrunk = tuple(one * factor if number in self.lists else one for number, one in enumerate(weights))
        return shrunk if any(shrunk) else weights


def _mean_of(objectives: Sequence[Objective], weights: Sequence[Weights]) -> float:
    """Mean over the objectives, of one set of weights each."""
    return float(np.mean([objective(own) for objective, own in zip(objectives, weights, strict=True)]))
