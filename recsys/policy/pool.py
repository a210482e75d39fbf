"""Eligible items of a batch, the input of pins, diversity, exploration and selection.

Shapes: B queries of a batch, C columns of the pool, K positions.
"""

from typing import Any, NamedTuple

import numpy as np


class EligiblePool(NamedTuple):
    """Eligible items of each query of a batch. Columns are in utility order: utility falling, then row rising."""

    rows: np.ndarray
    """[B, C] int64, row of the item in the catalogue, PAD where there is none"""
    utility: np.ndarray
    """[B, C] float64, NaN where unknown"""
    eligible: np.ndarray
    """[B, C] bool, False also for the items of pins"""
    pinned: np.ndarray
    """[B, K] int64, column pinned at the position, -1 where the position is free"""
    sizes: np.ndarray
    """[B] int64, positions to fill, at most the number of eligible columns and pins"""


def compact(arrays: Any) -> Any:
    """Return a named tuple whose arrays are contiguous and writeable.

    numba compiles the whole selection anew, for half a minute, for each combination of layouts that comes.
    """
    return arrays._make(
        np.require(one, requirements=("C", "W"))
        if isinstance(one, np.ndarray) and not (one.flags.c_contiguous and one.flags.writeable)
        else one
        for one in arrays
    )
