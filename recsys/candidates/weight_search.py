"""Search for the weights of the merge, by scaling one after the other.

Shapes: K weights.
"""

from collections.abc import Callable, Collection

Weights = tuple[float, ...]
PASSES = 5
SCALES = (0.0, 0.5, 0.7, 1.4, 2.0, 4.0)
"""factors that a weight is tried with"""
ENTRIES = (0.02, 0.1, 0.3, 1.0)
"""first weights of what has none, relative to the largest one: only ratios matter to an order"""


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
