"""The best of each row, equal ones in a fixed order, without sorting the rest.

Shapes: B rows, W columns, K results.
"""

import numpy as np

from recsys.contracts import PAD


def best(scores: np.ndarray, names: np.ndarray, k: int) -> np.ndarray:
    """scores [B, W] float32 and names [B, W] or [W], 0 to 2^31 - 1 -> [B, K] names of the K = min(k, W) best.

    Larger scores first, equal ones by the lower name; PAD where the score is -inf. Score and name share one integer, so
    that a partition does it all.
    """
    bits = (np.asarray(scores, dtype=np.float32) + np.float32(0)).view(np.int32)
    rising = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    keys = (-rising.astype(np.int64) << 32) | names
    if k < keys.shape[1]:
        keys = np.partition(keys, k - 1, axis=1)[:, :k]
    keys = np.sort(keys, axis=1)
    return np.where(keys >= _NEVER, PAD, keys & 0xFFFFFFFF)


_NEVER = (int(np.float32(np.inf).view(np.int32)) + 1) << 32
"""the key of -inf and name 0"""
