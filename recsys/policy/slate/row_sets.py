"""Membership of items in a small set of rows per query.

Shapes: B queries, C columns.
"""

from collections.abc import Sequence

import numpy as np

from recsys.jit import compiled


def rows_in_sets(rows: np.ndarray, sets: Sequence[Sequence[int]]) -> np.ndarray:
    """Return [B, C] bool, where a catalogue row is in the set of its query; sets: [B] lists of rows."""
    found = np.zeros(rows.shape, dtype=np.bool_)
    ends = np.cumsum([len(rows_of_query) for rows_of_query in sets], dtype=np.int64)
    _mark(rows, np.array([row for rows_of_query in sets for row in rows_of_query], dtype=np.int64), ends, found)
    return found


@compiled()
def _mark(rows, sets, ends, found):
    """Write found [B, C] by binary search: sets are flattened with ends [B], sorting one costs less than hashing it."""
    start = 0
    for b in range(len(ends)):
        named = np.sort(sets[start : ends[b]])
        start = ends[b]
        if not len(named):
            continue
        nearest = np.searchsorted(named, rows[b])
        for c in range(rows.shape[1]):
            found[b, c] = named[min(nearest[c], len(named) - 1)] == rows[b, c]
