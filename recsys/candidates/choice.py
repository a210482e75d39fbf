"""The weights of the merge, chosen one after the other by what they are worth on later questions.

Shapes: S sources.
"""

from collections.abc import Callable, Sequence

Weights = tuple[float, ...]
PASSES = 2


def coordinate_search(
    grids: Sequence[Sequence[float]], start: Weights, worth: Callable[[Weights], float]
) -> tuple[Weights, float]:
    """Try the values of each source [S] in turn, twice over, and keep what is worth most; of equals the first met."""
    known: dict[Weights, float] = {}

    def valued(weights: Weights) -> float:
        if weights not in known:
            known[weights] = worth(weights)
        return known[weights]

    chosen = start
    for _ in range(PASSES):
        for place, values in enumerate(grids):
            tried = [chosen, *((*chosen[:place], value, *chosen[place + 1 :]) for value in values)]
            chosen = max(tried, key=valued)
    return chosen, valued(chosen)
