"""Search for the weights of the merge, by scaling one after the other, over one period or several.

Shapes: K weights.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

Weights = tuple[float, ...]
PASSES = 5
SCALES = (0.0, 0.5, 0.7, 1.4, 2.0, 4.0)
"""factors that a weight is tried with"""
ENTRIES = (0.02, 0.1, 0.3, 1.0)
"""first weights of what has none, relative to the largest one: only ratios matter to an order"""
SHRUNK = (0.0, 0.2, 0.5, 1.0)
"""factors that the weights of lists are tried with on queries that did not choose them"""
FEWEST, SEED = 20, 0
"""queries of a single period, at least, that are halved, and the seed of it"""
LITTLE = 0.02
"""weight of what is kept beside a part that is tried alone"""
LEADS = (0.0, 0.5, 2.0, 8.0, 32.0, 512.0)
"""weights, relative to the largest one, that the places of the best part get beside the others; with the last ones all of its
items come first, and the others only order what it did not offer
"""
DRIFT, TOLERATED = 0.05, 0.005
"""what later periods may take from a difference, in standard deviations over the queries, and the loss against the best part
alone that is tolerated then, relative to its mean
"""

Objective = Callable[[Weights], np.ndarray]
"""weights -> quality of each query, larger is better"""


def scaled_search(
    start: Weights, objective: Callable[[Weights], float], kept: Collection[int] = ()
) -> tuple[Weights, float]:
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
    """Search for weights that hold on queries that did not choose them.

    A list is right or wrong for all users of a period at once, so many users say little of its weight. Each fold of the queries
    is scored by weights that the other folds chose: those of the first start, the best part alone, and the searched ones with
    less of the lists or all of it. What is best there is done with all folds; of equals the first is taken. To save time the
    search of a fold starts from the best part alone. A single period of fewer than FEWEST queries holds out nothing.

    Where the first places could be worse than those of the best part alone, it leads: its places get the least of LEADS with
    which they are not, after a later period took DRIFT from the difference, else the last one.
    """

    objectives: Sequence[Objective]
    """one a period; folds of the queries where there are several"""
    starts: Sequence[Weights]
    """further ones than the best part alone; the first holds where nothing is better"""
    kept: Collection[int]
    """numbers of the weights that do not become 0"""
    lists: Collection[int]
    """numbers of the weights of sources that offer the same to everybody"""
    first_places: Sequence[Objective]
    """as the objectives, for the quality of the first places alone"""
    places: Sequence[int]
    """[K] number of the weight of a part's places"""

    def best(self, progress: Callable[[Sequence[Weights]], Iterable[Weights]]) -> Weights:
        """Return the weights; progress wraps the starts of the search over all queries."""
        folds, first_places = self._folds(self.objectives), self._folds(self.first_places)
        chosen = self._searched(folds, progress)
        others = [[one for one in folds if one is not left] for left in folds]
        if not all(others):
            return chosen
        found = [self._searched(ones, lambda starts: starts[-1:]) for ones in others]
        options = [[self.starts[0]] * len(folds), [self._alone(ones) for ones in others]]
        options += [[self._shrunk(one, factor) for one in found] for factor in SHRUNK]
        carried = [np.mean([fold(own).mean() for fold, own in zip(folds, weights, strict=True)]) for weights in options]
        decided = [self.starts[0], self._alone(folds), *(self._shrunk(chosen, factor) for factor in SHRUNK)]
        option = int(np.argmax(carried))
        leading = [self._alone([one for one in first_places if one is not left]) for left in first_places]
        lead = self._least_lead(first_places, options[option], leading)
        return self._led(decided[option], self._alone(first_places), lead)

    def _least_lead(self, folds: Sequence[Objective], weights: Sequence[Weights], leading: Sequence[Weights]) -> float:
        """Return the least of LEADS with which weights, one a fold, are no worse than the leading part alone, or the last."""
        alone = np.concatenate([fold(own) for fold, own in zip(folds, leading, strict=True)])
        for lead in LEADS[:-1]:
            led = [fold(self._led(own, part, lead)) for fold, own, part in zip(folds, weights, leading, strict=True)]
            gained = np.concatenate(led) - alone
            if gained.mean() - DRIFT * gained.std() >= -TOLERATED * alone.mean():
                return lead
        return LEADS[-1]

    def _led(self, weights: Weights, part: Weights, lead: float) -> Weights:
        """Return weights with those of the places of a part added, `lead` times the largest one."""
        added = self.places[int(np.argmax(part))]
        return tuple(one + lead * max(weights) * (number == added) for number, one in enumerate(weights))

    def _folds(self, periods: Sequence[Objective]) -> list[Objective]:
        """Return an objective a period; of one period those of its halves."""
        folds: list[Objective] = [cache(one) for one in periods]
        return folds if len(folds) > 1 else halves(folds[0], len(folds[0](self.starts[0])))

    def _searched(
        self, folds: Sequence[Objective], progress: Callable[[Sequence[Weights]], Iterable[Weights]]
    ) -> Weights:
        """Return the weights of highest mean over some of the folds, from the starts that progress yields; the last one is the
        best part alone.
        """
        starts = progress([*self.starts, self._alone(folds)])
        mean = partial(_mean, folds)
        return max((scaled_search(start, mean, self.kept) for start in starts), key=lambda one: one[1])[0]

    def _alone(self, folds: Sequence[Objective]) -> Weights:
        """Return the best part alone, beside very little of those that are kept."""
        num = len(self.starts[0])
        parts = [
            tuple(1.0 if one == part else LITTLE * (part in self.kept) for part in range(num)) for one in range(num)
        ]
        return max(parts, key=partial(_mean, folds))

    def _shrunk(self, weights: Weights, factor: float) -> Weights:
        """Return the weights with those of the lists times a factor, unless nothing would be left."""
        shrunk = tuple(one * factor if number in self.lists else one for number, one in enumerate(weights))
        return shrunk if any(shrunk) else weights


def halves(objective: Objective, num: int) -> list[Objective]:
    """Return the objective on either half of its `num` queries; as it is where there are fewer than FEWEST."""
    if num < FEWEST:
        return [objective]
    first = np.random.default_rng(SEED).permutation(num) < num / 2
    return [lambda weights, part=part: objective(weights)[part] for part in (first, ~first)]  # type: ignore[misc]


def _mean(folds: Sequence[Objective], weights: Weights) -> float:
    return float(np.mean([one(weights).mean() for one in folds]))
