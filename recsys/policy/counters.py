"""What the caller counted of all that was shown, for the candidates of a batch.

Shapes: B queries of a batch.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from recsys.contracts import Query


def counted(queries: Sequence[Query], keys: Sequence[str], numbers: np.ndarray) -> np.ndarray:
    """Query.exposure[keys[number]] of numbers [B, ...] int64, NaN where nothing is counted or the number is no key's.

    Looked up once for all queries of a batch that carry the same mapping, and only for the keys that occur: what the
    thousands of counters of a catalogue cost does not depend on their number.
    """
    shares = np.full(numbers.shape, np.nan)
    for exposure, places in _together(queries):
        asked = numbers[places]
        present = np.unique(asked)
        present = present[(present >= 0) & (present < len(keys))]
        own = np.full(len(keys) + 1, np.nan)
        own[present] = [exposure.get(keys[number], np.nan) for number in present.tolist()]
        shares[places] = own[np.where((asked >= 0) & (asked < len(keys)), asked, len(keys))]
    return shares


def _together(queries: Sequence[Query]) -> list[tuple[Mapping[str, float], list[int]]]:
    """Every mapping that is not empty, with the places of the queries that carry this very one."""
    found: dict[int, tuple[Mapping[str, float], list[int]]] = {}
    for place, query in enumerate(queries):
        if query.exposure:
            found.setdefault(id(query.exposure), (query.exposure, []))[1].append(place)
    return list(found.values())
