"""Replay of the log: the query of a user at a row of the log, and the outcomes after it.

Shapes: R rows of the log, B queries, T objectives, C candidates, K positions.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from recsys.contracts import PAD, Event, Query
from recsys.data.dataset import Dataset
from recsys.data.description import ITEM, TIMESTAMP, USER
from recsys.data.splits import Split
from recsys.metrics import Targets
from recsys.policy.repeat import CompiledRepeat, Repeat


class Replay:
    """Log of a data set, grouped by user; each user's rows in the order of the periods, then in canonical order.

    For a split by time that is the canonical order itself. Under a random split a query knows all events of earlier
    periods, and its time is moved behind them.
    """

    def __init__(self, dataset: Dataset, split: Split, repeat: CompiledRepeat | None = None) -> None:
        """repeat: rules for showing items again; None is never"""
        self.dataset = dataset
        objectives, clock = tuple(dataset.description.objectives), dataset.description.clock
        self.repeat = Repeat.never().compile(objectives, clock=clock) if repeat is None else repeat
        self.rows_of_items = {item: row for row, item in enumerate(dataset.items[ITEM])}
        self.names = dataset.interactions[USER].unique().sort().to_numpy()
        """[U] users of the log, sorted"""
        self.users = _codes(dataset.interactions[USER], pl.Series(self.names))
        self.items = _codes(dataset.interactions[ITEM], dataset.items[ITEM])
        self.timestamps = dataset.interactions[TIMESTAMP].to_numpy()
        """[R] order of the events; seconds only where the data set has a clock"""
        self.seconds = self.timestamps if dataset.description.clock else np.full(dataset.num_events, np.nan)
        """[R] unix seconds UTC, NaN where there is no time"""
        self.actions = dataset.actions()
        """name -> [R]"""
        self.labels = dataset.labels()
        self.positives = dataset.positives()
        self.grouped = np.lexsort((split.periods, self.users))
        """[R] rows, one user after the other"""
        self.offsets = np.concatenate([[0], np.cumsum(np.bincount(self.users))])
        """[U + 1] where each user's rows begin in `grouped`"""
        self.num_earlier = np.empty(len(self.users), dtype=np.int64)
        """[R] number of earlier events of the same user"""
        self.num_earlier[self.grouped] = np.arange(len(self.users)) - self.offsets[self.users[self.grouped]]
        self.now = self._moments()
        """[R] request time: the timestamp of the row, or of the newest event before it if that is later"""

    @cached_property
    def rows_of_user(self) -> list[np.ndarray]:
        return np.split(self.grouped, self.offsets[1:-1])

    @cached_property
    def events(self) -> list[Event]:
        """[R]"""
        return _events(self.dataset)

    @cached_property
    def profiles(self) -> dict[str, dict[str, Any]]:
        """user -> profile"""
        users = self.dataset.users
        return dict(zip(users[USER], _present(users, self.dataset.description.users), strict=True))

    def earlier(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the earlier events of the users of `rows` [B]: (index in `rows` [M], row of the log [M]), canonical order."""
        starts = self.offsets[self.users[rows]]
        asking, found = _stretches(self.grouped, starts, starts + self.num_earlier[rows])
        order = np.lexsort((found, asking))
        return asking[order], found[order]

    def later(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return `rows` [B] and the later events of their users: (index in `rows` [M], row of the log [M])."""
        users = self.users[rows]
        return _stretches(self.grouped, self.offsets[users] + self.num_earlier[rows], self.offsets[users + 1])

    def barred(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the items barred for the users of `rows` [B]: (index in `rows` [M], catalogue row [M]), each pair once."""
        asking, earlier = self.earlier(rows)
        keys = asking * len(self.rows_of_items) + self.items[earlier]
        now = self.now[rows[asking]]
        pairs = self.repeat.barred_keys(keys, self.timestamps[earlier], self.labels[earlier], now)
        return np.divmod(pairs, len(self.rows_of_items))

    def showable(self, split: Split, period: int) -> np.ndarray | None:
        """Return [R] bool, rows whose item may be shown to its user at the user's first request of the period.

        None without repeats: then these are the items without an earlier event.
        """
        if not self.repeat.possible:
            return None
        rows, width = self.first_rows(split.rows_in_scope(self.dataset, period)), len(self.rows_of_items)
        asking, items = self.barred(rows)
        return ~np.isin(self.users * width + self.items, self.users[rows[asking]] * width + items)

    def query(self, row: int, k: int) -> Query:
        """Return the query of the user of `row` just before its event."""
        return self.queries([row], k)[0]

    def queries(self, rows: Sequence[int] | np.ndarray, k: int) -> list[Query]:
        rows = np.asarray(rows, dtype=np.int64)
        asking, earlier = self.earlier(rows)
        history = [self.events[row] for row in earlier.tolist()]
        bounds = np.searchsorted(asking, np.arange(len(rows) + 1)).tolist()
        return [
            Query(
                user=user,
                now=now,
                k=k,
                context=self.events[row].context,
                profile=self.profiles.get(user, {}),
                history=tuple(history[start:stop]),
                request_id=f"{user}@{row}",
            )
            for row, user, now, start, stop in zip(
                rows.tolist(),
                self.names[self.users[rows]].tolist(),
                self.now[rows].tolist(),
                bounds[:-1],
                bounds[1:],
                strict=True,
            )
        ]

    def latest(self, user: str, now: float, k: int) -> Query:
        """Return the query of a user at `now` with the history until then, empty for an unknown user."""
        code = int(np.searchsorted(self.names, user))
        known = code < len(self.names) and self.names[code] == user
        rows = np.sort(self.rows_of_user[code]) if known else ()
        history = tuple(self.events[row] for row in rows if self.timestamps[row] <= now)
        return Query(user=user, now=now, k=k, profile=self.profiles.get(user, {}), history=history)

    def first_rows(self, period: np.ndarray) -> np.ndarray:
        """Return the first row of each user inside a period [R] bool, ascending."""
        rows = self.grouped[period[self.grouped]]
        _, first = np.unique(self.users[rows], return_index=True)
        return np.sort(rows[first])

    def targets(self, rows: np.ndarray, is_target: np.ndarray) -> Targets:
        """Return, for each query row, the items of its user's rows in `is_target` [R] bool, from that row on."""
        asking, later = self.later(np.asarray(rows, dtype=np.int64))
        kept = is_target[later]
        pairs = np.unique(asking[kept] * len(self.rows_of_items) + self.items[later[kept]])
        asking, items = np.divmod(pairs, len(self.rows_of_items))
        return Targets(indptr=np.searchsorted(asking, np.arange(len(rows) + 1)), items=items)

    def candidate_labels(
        self, rows: np.ndarray, candidates: np.ndarray, period: np.ndarray, until: np.ndarray
    ) -> np.ndarray:
        """Return labels [B, C, T] of candidates [B, C] in `period` [R] bool, from the query row to `until` [B].

        The maximum over several events on an item, or the value over all of them where an objective counts events; 0
        without a later event.
        """
        asking, later = self.later(np.asarray(rows, dtype=np.int64))
        kept = period[later] & (self.timestamps[later] <= until[asking])
        keys = asking[kept] * len(self.rows_of_items) + self.items[later[kept]]
        order = np.argsort(keys, kind="stable")
        later_keys, first, groups = np.unique(keys[order], return_index=True, return_inverse=True)
        labels = np.zeros((*candidates.shape, self.labels.shape[1]), dtype=np.float32)
        if not len(later_keys):
            return labels
        best = np.fmax.reduceat(self._grouped_labels(later[kept][order], groups), first, axis=0)
        offered = np.arange(len(rows))[:, None] * len(self.rows_of_items) + candidates
        slot = np.minimum(np.searchsorted(later_keys, offered), len(later_keys) - 1)
        found = (later_keys[slot] == offered) & (candidates != PAD)
        labels[found] = best[slot[found]]
        return labels

    def _grouped_labels(self, rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Return objectives [M, T] of rows [M] of the log; those that count events do so over groups [M]."""
        described, labels = self.dataset.description, self.labels[rows]
        counting = [column for column, one in enumerate(described.expressions().values()) if one.counts]
        if counting:
            actions = {name: values[rows] for name, values in self.actions.items()}
            labels[:, counting] = described.labels(actions, len(rows), groups)[:, counting]
        return labels

    def _moments(self) -> np.ndarray:
        known = pl.DataFrame({USER: self.users[self.grouped], TIMESTAMP: self.timestamps[self.grouped]})
        moments = np.empty_like(self.timestamps)
        moments[self.grouped] = known.select(pl.col(TIMESTAMP).cum_max().over(USER)).to_series().to_numpy()
        return moments


def _codes(ids: pl.Series, known: pl.Series) -> np.ndarray:
    """Return [R] int64, the index of every id in `known`."""
    return ids.cast(pl.Enum(known)).to_physical().to_numpy().astype(np.int64)


def _stretches(values: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values from each start to its stop, concatenated: (index of the range [M], value [M])."""
    lengths = stops - starts
    number = np.repeat(np.arange(len(starts)), lengths)
    inside = np.arange(len(number)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return number, values[starts[number] + inside]


def _events(dataset: Dataset) -> list[Event]:
    frame, described = dataset.interactions, dataset.description
    done, known = _present(frame, described.actions), _present(frame, described.context)
    ids = (frame[name].to_list() for name in (USER, ITEM, TIMESTAMP))
    return [
        Event(user=user, item=item, timestamp=timestamp, actions=actions, context=context)
        for user, item, timestamp, actions, context in zip(*ids, done, known, strict=True)
    ]


def _present(frame: pl.DataFrame, columns: Iterable[str]) -> list[dict[str, Any]]:
    """Return these columns of every row as a dictionary without nulls."""
    chosen = list(columns)
    if not chosen:
        return [{}] * frame.height
    rows = frame.select(chosen).to_dicts()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]
