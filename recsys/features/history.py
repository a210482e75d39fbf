"""Histories as arrays: what training, evaluation and serving read of the events of a user.

Shapes: U users or queries, M events of all of them, B histories, L history length, T objectives.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recsys.contracts import PAD

MAX_GAP = 25.0
"""log(1 + seconds) of some 2,000 years, the largest gap: larger values come of wrong units and would overflow exp"""


@dataclass(frozen=True, kw_only=True)
class EventSequences:
    """The history events of all users, one user after the other, each in canonical order."""

    offsets: np.ndarray
    """[U + 1], events of user u are offsets[u]:offsets[u + 1]"""
    rows: np.ndarray
    """[M] index of the event in the log or list that it is from"""
    items: np.ndarray
    """[M] catalogue row"""
    labels: np.ndarray
    """[M, T] float32, missing ones as 0"""
    timestamps: np.ndarray
    """[M] unix seconds, NaN where there is no time"""

    @property
    def users(self) -> np.ndarray:
        """[M] user codes"""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def positions(self) -> np.ndarray:
        """[M] number of the user's earlier history events"""
        return np.arange(len(self.rows)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))

    @cached_property
    def gaps(self) -> np.ndarray:
        """[M] float32, log(1 + seconds) to the same user's next history event, 0 for the last"""
        gaps = encode_gaps(self.timestamps[:, None], np.append(self.timestamps[1:], 0.0)[:, None])[:, 0]
        gaps[self.offsets[1:][np.diff(self.offsets) > 0] - 1] = 0
        return gaps

    def before(self, ends: np.ndarray, users: np.ndarray, length: int) -> np.ndarray:
        """Return the indices [B, L] of the newest events of users [B] before each of ends [B], PAD in front.

        ends: indices of events, or the end of the user's events
        """
        indices = ends[:, None] + np.arange(-length, 0)
        return np.where(indices >= self.offsets[users][:, None], indices, PAD)

    def items_at(self, indices: np.ndarray) -> np.ndarray:
        """Return catalogue rows, PAD where an index is."""
        return np.append(self.items, PAD)[indices]

    def labels_at(self, indices: np.ndarray) -> np.ndarray:
        """Return labels [..., T], 0 where an index is PAD."""
        return np.concatenate([self.labels, np.zeros((1, self.labels.shape[1]), dtype=np.float32)])[indices]

    def gaps_at(self, indices: np.ndarray, now: np.ndarray) -> np.ndarray:
        """Return the gaps [B, L] of `before`, those of the newest events until now [B] in seconds."""
        return encode_gaps(np.append(self.timestamps, np.nan)[indices], now[:, None])


def encode_labels(labels: np.ndarray) -> np.ndarray:
    """Labels of an event as model inputs in [0, 1], missing ones as 0: an amount counts as reached, as in the losses."""
    return np.nan_to_num(labels).clip(0, 1)


def log_gap(minutes: float) -> float:
    """Encode a gap in minutes as `encode_gaps` does those between events."""
    return math.log1p(60 * minutes)


def encode_gaps(timestamps: np.ndarray, now: float | np.ndarray) -> np.ndarray:
    """log(1 + seconds) from each event to the next one, from the newest to now; timestamps [..., L] ascending.

    0 where there is no time (NaN), at most MAX_GAP. A gap depends on the next event alone, so that one value serves a causal
    model at every position.
    """
    following = np.concatenate([timestamps[..., 1:], np.broadcast_to(now, timestamps[..., :1].shape)], axis=-1)
    return np.minimum(np.log1p(np.fmax(following - timestamps, 0.0)), MAX_GAP).astype(np.float32)
