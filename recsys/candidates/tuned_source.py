"""A source whose parameters are chosen on validation, as those of a tuned baseline are."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

from recsys.candidates.candidate_source import CandidateSource, SourceConfig, TrainingInteractions
from recsys.errors import ConfigError

Choice = Mapping[str, str]
"""parameter -> the name of its value in the grid"""


class TunedSource:
    """Configurations of one source, a point of a grid each; the first one holds until another was chosen."""

    def __init__(
        self, *, source: Callable[..., SourceConfig], grid: Mapping[str, Mapping[str, Any] | Sequence[Any]]
    ) -> None:
        """
        source: constructor of the configuration that takes the parameters of the grid; others are bound already
        grid: parameter -> its values by name, or a list of plain values, which are their own names
        """
        values = {name: _named(choices) for name, choices in grid.items()}
        if empty := [name for name, choices in values.items() if not choices]:
            raise ConfigError(f"the grid of a candidate source has no values for {empty[0]}; give at least one")
        try:
            inspect.signature(source).bind_partial(**dict.fromkeys(values))
        except TypeError as error:
            raise ConfigError(f"the grid of a candidate source does not fit it: {error}; give its parameters") from None
        self.source, self.grid = source, values
        self.points: list[Choice] = [dict(zip(values, names, strict=True)) for names in product(*values.values())]
        configurations = [self.at(point) for point in self.points]  # raise now, not after the towers are trained
        first = configurations[0]
        self.num, self.weight, self.decays = first.num, first.weight, first.decays

    def at(self, choice: Choice) -> SourceConfig:
        """Return the configuration of a point of the grid."""
        return self.source(**{name: self.grid[name][chosen] for name, chosen in choice.items()})

    def fit(self, interactions: TrainingInteractions) -> CandidateSource | None:
        """Fit the first point."""
        return self.at(self.points[0]).fit(interactions)


def _named(choices: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    """Return the values of a parameter by name; null leaves one out."""
    if isinstance(choices, Mapping):
        return {str(name): value for name, value in choices.items() if value is not None}
    return {str(value): value for value in choices}
