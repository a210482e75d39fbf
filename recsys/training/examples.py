"""Point-in-time examples, vectorised over the whole log; equal to folding the events one by one (tested).

Shapes: R rows of the log, M history events, L history length, W windows, P = L + 1 positions, T objectives.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from recsys.contracts import PAD
from recsys.data.dataset import Dataset
from recsys.data.description import USER
from recsys.features.encode import column_array, encode_table, time_columns
from recsys.features.history import EventSequences, encode_labels
from recsys.features.spec import FeatureSpec, TableSpec
from recsys.replay.replay import Replay
from recsys.tensors import Arrays


def event_sequences(replay: Replay, allowed: np.ndarray) -> EventSequences:
    """Group rows of `allowed` [R] bool that reach an objective by user."""
    kept = allowed & (replay.labels > 0).any(axis=1)
    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(replay.users[rows], kind="stable")]
    counts = np.bincount(replay.users[rows], minlength=len(replay.names))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return EventSequences(
        offsets=offsets,
        rows=rows,
        items=replay.items[rows],
        labels=encode_labels(replay.labels[rows]),
        timestamps=replay.seconds[rows],
    )


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
    users = events.users[end]
    starts = events.offsets[users]
    inside = events.before(end, users, length)
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
