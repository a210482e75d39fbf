"""Coordinate search over the weights of the merge.

Shapes: S sources.
"""

from collections.abc import Callable, Sequence

SourceWeights = tuple[float, ...]
PASSES = 2


def coordinate_search(
    grids: Sequence[Sequence[float]], start: SourceWeights, objective: Callable[[SourceWeights], float]
) -> tuple[SourceWeights, float]:
    """Maximise the objective over one source's grid [S] after the other, PASSES times; ties keep the first value tried."""
    values: dict[SourceWeights, float] = {}

    def value(weights: SourceWeights) -> float:
        if weights not in values:
            values[weights] = objective(weights)
        return values[weights]

    chosen = start
    for _ in range(PASSES):
        for source, grid in enumerate(grids):
            tried = [chosen, *((*chosen[:source], weight, *chosen[source + 1 :]) for weight in grid)]
            chosen = max(tried, key=value)
    return chosen, value(chosen)
