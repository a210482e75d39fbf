"""Top k of each row with a fixed order of ties, without sorting the rest.

Shapes: B rows, W columns, K results.
"""

import numpy as np

from recsys.contracts import PAD


def top_k(scores: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    """scores [B, W] float32 and ids [B, W] or [W], 0 to 2^31 - 1 -> [B, K] ids of the K = min(k, W) best.

    Larger scores first, ties by the lower id; PAD where the score is -inf.
    """
    # Score and id share one int64 key, so that one partition orders by score and breaks ties. Adding 0 turns -0.0 into
    # 0.0; flipping the other 31 bits of negative floats makes their bit patterns rise with the value.
    bits = (np.asarray(scores, dtype=np.float32) + np.float32(0)).view(np.int32)
    rising = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
    keys = (-rising.astype(np.int64) << 32) | ids
    if k < keys.shape[1]:
        keys = np.partition(keys, k - 1, axis=1)[:, :k]
    keys = np.sort(keys, axis=1)
    return np.where(keys >= _MINUS_INFINITY_KEY, PAD, keys & 0xFFFFFFFF)


_MINUS_INFINITY_KEY = (int(np.float32(np.inf).view(np.int32)) + 1) << 32
"""the key of -inf and id 0"""


def sparse_top_k(
    starts: np.ndarray, rows: np.ndarray, scores: np.ndarray, hidden: np.ndarray | None, k: int
) -> np.ndarray:
    """Return as `top_k` the rows with a score above 0 that are not hidden.

    starts [B + 1]: query b has rows[starts[b]:starts[b + 1]] and their scores; hidden [N] bool.
    """
    counts = np.diff(starts)
    allowed = scores > 0
    if hidden is not None:
        allowed &= ~hidden[rows]
    padded = np.full((len(counts), counts.max(initial=0)), -np.inf, dtype=np.float32)
    padded_rows = np.zeros(padded.shape, dtype=np.int64)
    filled = np.arange(padded.shape[1]) < counts[:, None]
    padded[filled] = np.where(allowed, scores, np.float32(-np.inf))
    padded_rows[filled] = rows
    return top_k(padded, padded_rows, k)
