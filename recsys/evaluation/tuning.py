"""Tuning of baselines: parameters are chosen on the validation queries, figures come from the test."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from recsys.errors import ConfigError
from recsys.evaluation.baselines import Baseline, NotApplicableError
from recsys.progress import Progress, silent, tracked
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.replay.interactions import Scorer


@dataclass(frozen=True, kw_only=True)
class FittedBaseline:
    """Fitted baseline with its chosen parameters."""

    parameters: dict[str, Any]
    """values of the grid"""
    scorer: Scorer


class TunedBaseline:
    """Baseline with a grid of parameters to choose from."""

    def __init__(self, *, baseline: Callable[..., Baseline], grid: Mapping[str, Sequence[Any]]) -> None:
        """
        baseline: constructor that takes the parameters of the grid; others are bound already
        grid: parameter -> values; empty without anything to choose
        """
        if empty := [parameter for parameter, values in grid.items() if not len(values)]:
            raise ConfigError(f"the grid of a baseline has no values for {empty[0]}; give at least one")
        try:
            inspect.signature(baseline).bind_partial(**dict.fromkeys(grid))
        except TypeError as error:
            raise ConfigError(f"the grid of a baseline does not fit it: {error}; give parameters that it has") from None
        self.baseline = baseline
        self.grid = {parameter: list(values) for parameter, values in grid.items()}

    def points(self) -> list[dict[str, Any]]:
        """Return every combination of the grid, the last parameter changing fastest."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]

    def fit(
        self,
        validation: EvaluationQueries,
        test: EvaluationQueries,
        progress: Progress = silent,
        what: str = "baseline",
    ) -> FittedBaseline:
        """Choose by mean NDCG@10 on `validation`, of equals the first, then fit on all data that `test` allows.

        Raises NotApplicableError where the data do not suit the baseline.
        """
        points = self.points()
        if len(points) == 1:
            return self._fitted(points[0], test)
        best = self._best(tracked(points, len(points), progress, what), validation)
        return best if _same_knowledge(validation, test) else self._fitted(best.parameters, test)

    def _fitted(self, parameters: dict[str, Any], queries: EvaluationQueries) -> FittedBaseline:
        return FittedBaseline(parameters=parameters, scorer=self.baseline(**parameters).fit(queries.known))

    def _best(self, points: Iterable[dict[str, Any]], validation: EvaluationQueries) -> FittedBaseline:
        best, highest = None, -1.0
        for parameters in points:
            choice = self._fitted(parameters, validation)
            reached = float(validation.ndcg_at_10(validation.scores_of(choice.scorer)).mean())
            if reached > highest:
                best, highest = choice, reached
        assert best is not None
        return best


def best_for_new_users(
    baselines: Mapping[str, TunedBaseline], validation: EvaluationQueries, test: EvaluationQueries
) -> tuple[str, FittedBaseline] | None:
    """Return the name and the fit, on all data that `test` allows, of the baseline that ranks best for users without a history.

    It has the highest mean NDCG@10 over these users of `validation`, or over all users where each has a history. None without
    a baseline that suits the data.
    """
    new = np.flatnonzero(validation.histories.lengths == 0)
    judging = validation.only(new) if len(new) else validation
    best, highest = None, -1.0
    for name, baseline in baselines.items():
        try:
            chosen, fitted = baseline.fit(judging, judging), baseline.fit(judging, test)
        except NotApplicableError:
            continue
        reached = float(judging.ndcg_at_10(judging.scores_of(chosen.scorer)).mean())
        if reached > highest:
            best, highest = (name, fitted), reached
    return best


def _same_knowledge(one: EvaluationQueries, other: EvaluationQueries) -> bool:
    return np.array_equal(one.split.known(one.period), other.split.known(other.period))
