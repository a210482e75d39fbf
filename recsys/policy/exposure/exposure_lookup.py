"""Lookup of exposure shares (Query.exposure) for the candidates of a batch.

Shapes: B queries of a batch.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from recsys.contracts import Query


def look_up_exposure(queries: Sequence[Query], keys: Sequence[str], numbers: np.ndarray) -> np.ndarray:
    """Return Query.exposure[keys[number]] for numbers [B, ...] int64, NaN where absent or the number is out of range.

    Queries that carry the same mapping object are looked up together, and only for keys that occur, so the cost does not
    grow with the number of counters in the catalogue.
    """
    shares = np.full(numbers.shape, np.nan)
    for exposure, rows in _by_mapping(queries):
        batch = numbers[rows]
        present = np.unique(batch)
        present = present[(present >= 0) & (present < len(keys))]
        values = np.full(len(keys) + 1, np.nan)  # the last entry answers numbers out of range
        values[present] = [exposure.get(keys[number], np.nan) for number in present.tolist()]
        in_range = (batch >= 0) & (batch < len(keys))
        shares[rows] = values[np.where(in_range, batch, len(keys))]
    return shares


def _by_mapping(queries: Sequence[Query]) -> list[tuple[Mapping[str, float], list[int]]]:
    """Return each non-empty mapping object with the rows of the queries that carry it."""
    found: dict[int, tuple[Mapping[str, float], list[int]]] = {}
    for row, query in enumerate(queries):
        if query.exposure:
            found.setdefault(id(query.exposure), (query.exposure, []))[1].append(row)
    return list(found.values())
