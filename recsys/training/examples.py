"""Point-in-time examples, vectorised over the whole log; equal to folding the events one by one (tested).

Shapes: R rows of the log, M history events, L history length, W windows, P = L + 1 positions, T objectives.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from recsys.contracts import PAD
from recsys.data.dataset import Dataset
from recsys.data.description import USER
from recsys.features.encode import Arrays, column_array, encode_gaps, encode_labels, encode_table, time_columns
from recsys.features.spec import FeatureSpec, TableSpec
from recsys.replay.replay import Replay


@dataclass(frozen=True, kw_only=True)
class EventSequences:
    """The history events of all users, one user after the other, each in canonical order."""

    offsets: np.ndarray
    """[U + 1], events of user u are offsets[u]:offsets[u + 1]"""
    rows: np.ndarray
    """[M] row of the log"""
    items: np.ndarray
    """[M] catalogue row"""
    labels: np.ndarray
    """[M, T] float32, missing ones as 0"""
    gaps: np.ndarray
    """[M] float32, log(1 + seconds) to the same user's next history event, 0 for the last"""

    @property
    def users(self) -> np.ndarray:
        """[M] user codes"""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    @property
    def positions(self) -> np.ndarray:
        """[M] number of the user's earlier history events"""
        return np.arange(len(self.rows)) - np.repeat(self.offsets[:-1], np.diff(self.offsets))


def event_sequences(replay: Replay, allowed: np.ndarray) -> EventSequences:
    """Group rows of `allowed` [R] bool that reach an objective by user."""
    kept = allowed & (replay.labels > 0).any(axis=1)
    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(replay.users[rows], kind="stable")]
    counts = np.bincount(replay.users[rows], minlength=len(replay.names))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    following = np.append(replay.seconds[rows][1:], 0.0)
    gaps = encode_gaps(replay.seconds[rows][:, None], following[:, None])[:, 0]
    gaps[offsets[1:][counts > 0] - 1] = 0
    labels = encode_labels(replay.labels[rows])
    return EventSequences(offsets=offsets, rows=rows, items=replay.items[rows], labels=labels, gaps=gaps)


def history_indices(events: EventSequences, ends: np.ndarray, length: int) -> np.ndarray:
    """Indices [B, L] of the user's `length` events before each of `ends` (indices into events), PAD in front."""
    starts = events.offsets[np.searchsorted(events.offsets, ends, side="right") - 1]
    indices = ends[:, None] + np.arange(-length, 0)
    return np.where(indices >= starts[:, None], indices, PAD)


@dataclass(frozen=True, kw_only=True)
class HistoryWindows:
    """Windows of histories with the next event of each position; every positive is a target exactly once."""

    events: np.ndarray
    """[W, L] indices into EventSequences, PAD in front"""
    targets: np.ndarray
    """[W, P] index of the event to predict after each position, PAD where there is none"""

    @property
    def sizes(self) -> np.ndarray:
        """[W] positions of each window that are no padding"""
        return 1 + (self.events != PAD).sum(axis=1)


def history_windows(events: EventSequences, positives: np.ndarray, length: int) -> HistoryWindows:
    """Cut windows of `length` events that overlap by half: a target has at least length / 2 events before it, if any exist.

    positives: [M] bool, events that may be predicted.
    """
    stride = max(1, length // 2)
    ends: list[int] = []
    firsts: list[int] = []
    for start, stop in zip(events.offsets[:-1], events.offsets[1:], strict=True):
        last = stop - 1  # the newest event is only ever a target
        own = np.unique(np.append(np.arange(min(start + length, last), last, stride), last)) if stop > start else []
        ends.extend(own)
        firsts.extend([start, *(end + 1 for end in own[:-1])] if len(own) else [])
    end, first = np.array(ends, dtype=np.int64), np.array(firsts, dtype=np.int64)
    starts = np.repeat(events.offsets[:-1], np.diff(events.offsets))[end]
    indices = end[:, None] + np.arange(-length, 0)
    inside = np.where(indices >= starts[:, None], indices, PAD)
    following = np.concatenate([np.full((len(end), 1), PAD), np.where(inside == PAD, PAD, inside + 1)], axis=1)
    following[:, 0] = np.where(first == starts, starts, PAD)
    is_target = (following >= first[:, None]) & positives[following]
    return HistoryWindows(events=inside, targets=np.where(is_target, following, PAD))


def encode_log(table: TableSpec, dataset: Dataset, timestamps: np.ndarray) -> Arrays:
    """Encode the context of every row of the log, [R, ...]."""
    columns = {
        column.name: column_array(column.kind, dataset.interactions[column.name].to_list(), column.slots)
        for column in table.columns
    }
    return encode_table(table, {**columns, **time_columns(timestamps)}, dataset.num_events)


def encode_users(spec: FeatureSpec, dataset: Dataset, names: np.ndarray) -> Arrays:
    """Encode the profile of every user of the log, in the order of `names`."""
    users = pl.DataFrame({USER: names.tolist()}).join(dataset.users, on=USER, how="left", maintain_order="left")
    columns = {
        column.name: column_array(column.kind, users[column.name].to_list(), column.slots)
        for column in spec.profile.columns
    }
    return encode_table(spec.profile, columns, len(names))
