"""Which items of a batch are among a few that each query names.

Shapes: B queries, C columns.
"""

from collections.abc import Sequence

import numpy as np

from recsys.jit import compiled


def among(rows: np.ndarray, few: Sequence[Sequence[int]]) -> np.ndarray:
    """[B, C] bool, where a catalogue row [B, C] is among those of its query."""
    found = np.zeros(rows.shape, dtype=np.bool_)
    ends = np.cumsum([len(one) for one in few], dtype=np.int64)
    _mark(rows, np.array([row for one in few for row in one], dtype=np.int64), ends, found)
    return found


@compiled()
def _mark(rows, few, ends, found):
    start = 0
    for b in range(len(ends)):
        named = np.sort(few[start : ends[b]])
        start = ends[b]
        if not len(named):
            continue
        places = np.searchsorted(named, rows[b])
        for c in range(rows.shape[1]):
            found[b, c] = named[min(places[c], len(named) - 1)] == rows[b, c]
