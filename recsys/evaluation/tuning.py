"""A baseline at its best: its knobs are chosen on the validation questions, its figures come from the test."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from recsys.errors import ConfigError
from recsys.evaluation.baselines import Baseline, Scorer
from recsys.evaluation.questions import Questions


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A fitted baseline."""

    knobs: dict[str, Any]
    """those of the grid"""
    scorer: Scorer


class Tuned:
    """A baseline and the values of its knobs to choose from."""

    def __init__(self, *, baseline: Callable[..., Baseline], grid: Mapping[str, Sequence[Any]]) -> None:
        """
        baseline: takes the knobs of the grid, whatever else it needs is given
        grid: knob -> values; empty where there is nothing to choose
        """
        if empty := [knob for knob, values in grid.items() if not len(values)]:
            raise ConfigError(f"the grid of a baseline has no values for {empty[0]}; give at least one")
        try:
            inspect.signature(baseline).bind_partial(**dict.fromkeys(grid))
        except TypeError as error:
            raise ConfigError(f"the grid of a baseline does not fit it: {error}; give knobs that it has") from None
        self.baseline = baseline
        self.grid = {knob: list(values) for knob, values in grid.items()}

    def points(self) -> list[dict[str, Any]]:
        """Every combination of the grid, the last knob changing fastest."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]

    def fit(self, validation: Questions, test: Questions) -> Choice:
        """Choose by the mean NDCG@10 on `validation`, of equals the first, then fit on all that `test` allows.

        Raises LeftOut when the data are not for this baseline.
        """
        points = self.points()
        if len(points) == 1:
            return self._fitted(points[0], test)
        best = self._best(points, validation)
        return best if _same_knowledge(validation, test) else self._fitted(best.knobs, test)

    def _fitted(self, knobs: dict[str, Any], questions: Questions) -> Choice:
        return Choice(knobs=knobs, scorer=self.baseline(**knobs).fit(questions.known))

    def _best(self, points: Sequence[dict[str, Any]], validation: Questions) -> Choice:
        best, highest = None, -1.0
        for knobs in points:
            choice = self._fitted(knobs, validation)
            reached = float(validation.ndcg_at_10(validation.scores_of(choice.scorer)).mean())
            if reached > highest:
                best, highest = choice, reached
        assert best is not None
        return best


def _same_knowledge(one: Questions, other: Questions) -> bool:
    return np.array_equal(one.split.known(one.period), other.split.known(other.period))
