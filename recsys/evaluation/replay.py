"""Logged moments asked again: the query a user would have sent at a row of the log, and what came after it.

Shapes: R rows of the log, B queries, T objectives, C candidates, K places.
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
from recsys.evaluation.metrics import Targets
from recsys.policy.repeat import CompiledRepeat, Repeat


class Replay:
    """The log of a data set, grouped by user; each user's rows in the order of the periods, then in canonical order.

    Where a split is by time that is the canonical order itself. Under a random split everything of earlier periods is
    known to a query, and the moment of the query is moved behind it.
    """

    def __init__(self, dataset: Dataset, split: Split, repeat: CompiledRepeat | None = None) -> None:
        """repeat: when items may be shown again; None: never"""
        self.dataset = dataset
        objectives, clock = tuple(dataset.description.objectives), dataset.description.clock
        self.repeat = Repeat.never().compile(objectives, clock=clock) if repeat is None else repeat
        self.rows_of_items = {item: row for row, item in enumerate(dataset.items[ITEM])}
        self.names = dataset.interactions[USER].unique().sort().to_numpy()
        """[U] users of the log, sorted"""
        self.users = _codes(dataset.interactions[USER], pl.Series(self.names))
        self.items = _codes(dataset.interactions[ITEM], dataset.items[ITEM])
        self.timestamps = dataset.interactions[TIMESTAMP].to_numpy()
        """[R] what orders the events; seconds only where the data set has a clock"""
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
        self.place = np.empty(len(self.users), dtype=np.int64)
        """[R] how many events of the same user stand before the row"""
        self.place[self.grouped] = np.arange(len(self.users)) - self.offsets[self.users[self.grouped]]
        self.now = self._moments()
        """[R] when the user asks: the timestamp of the row, or of the newest event before it if that is later"""

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
        """What the users of `rows` [B] met before them: (place in `rows` [M], row of the log [M]), in canonical order."""
        starts = self.offsets[self.users[rows]]
        asking, found = _stretches(self.grouped, starts, starts + self.place[rows])
        order = np.lexsort((found, asking))
        return asking[order], found[order]

    def later(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`rows` [B] themselves and what their users met after them: (place in `rows` [M], row of the log [M])."""
        users = self.users[rows]
        return _stretches(self.grouped, self.offsets[users] + self.place[rows], self.offsets[users + 1])

    def barred(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Items barred from the users of `rows` [B]: (index in `rows` [M], catalogue row [M]), each pair once."""
        asking, earlier = self.earlier(rows)
        keys = asking * len(self.rows_of_items) + self.items[earlier]
        now = self.now[rows[asking]]
        pairs = self.repeat.barred_keys(keys, self.timestamps[earlier], self.labels[earlier], now)
        return np.divmod(pairs, len(self.rows_of_items))

    def showable(self, split: Split, period: int) -> np.ndarray | None:
        """[R] bool, items that may be shown to their users when these first ask in the period; None where nothing is repeated,
        so that those are the items of no earlier event.
        """
        if not self.repeat.possible:
            return None
        rows, width = self.first_rows(split.periods == period), len(self.rows_of_items)
        asking, items = self.barred(rows)
        return ~np.isin(self.users * width + self.items, self.users[rows[asking]] * width + items)

    def query(self, row: int, k: int) -> Query:
        """What the user of `row` would have asked just before it."""
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
        """What a user would ask at `now`, after all that the log holds until then; a stranger asks with nothing."""
        code = int(np.searchsorted(self.names, user))
        known = code < len(self.names) and self.names[code] == user
        mine = np.sort(self.rows_of_user[code]) if known else ()
        history = tuple(self.events[row] for row in mine if self.timestamps[row] <= now)
        return Query(user=user, now=now, k=k, profile=self.profiles.get(user, {}), history=history)

    def first_rows(self, period: np.ndarray) -> np.ndarray:
        """First row of each user inside a period [R] bool, ascending."""
        rows = self.grouped[period[self.grouped]]
        _, first = np.unique(self.users[rows], return_index=True)
        return np.sort(rows[first])

    def targets(self, rows: np.ndarray, wanted: np.ndarray) -> Targets:
        """For each query row the items of its user's rows in `wanted` [R] bool, from that row on."""
        asking, later = self.later(np.asarray(rows, dtype=np.int64))
        kept = wanted[later]
        pairs = np.unique(asking[kept] * len(self.rows_of_items) + self.items[later[kept]])
        asking, items = np.divmod(pairs, len(self.rows_of_items))
        return Targets(indptr=np.searchsorted(asking, np.arange(len(rows) + 1)), items=items)

    def candidate_labels(
        self, rows: np.ndarray, candidates: np.ndarray, period: np.ndarray, until: np.ndarray
    ) -> np.ndarray:
        """Objectives each candidate [B, C] will reach in `period` [R] bool, from the query row to `until` [B]: [B, C, T].

        The best of an item that is met several times, and what its events come to together where an objective counts them;
        0 for every objective of one that is not met again.
        """
        asking, later = self.later(np.asarray(rows, dtype=np.int64))
        kept = period[later] & (self.timestamps[later] <= until[asking])
        keys = asking[kept] * len(self.rows_of_items) + self.items[later[kept]]
        order = np.argsort(keys, kind="stable")
        met, first, groups = np.unique(keys[order], return_index=True, return_inverse=True)
        labels = np.zeros((*candidates.shape, self.labels.shape[1]), dtype=np.float32)
        if not len(met):
            return labels
        best = np.fmax.reduceat(self._grouped_labels(later[kept][order], groups), first, axis=0)
        offered = np.arange(len(rows))[:, None] * len(self.rows_of_items) + candidates
        place = np.minimum(np.searchsorted(met, offered), len(met) - 1)
        found = (met[place] == offered) & (candidates != PAD)
        labels[found] = best[place[found]]
        return labels

    def _grouped_labels(self, rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """[M, T] objectives of rows [M] of the log, those that count events over groups [M]."""
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
    """[R] int64, place of every id in `known`."""
    return ids.cast(pl.Enum(known)).to_physical().to_numpy().astype(np.int64)


def _stretches(values: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values from each start to its stop, one stretch after the other: (number of the stretch [M], value [M])."""
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
    """These columns of every row as a dictionary, without nulls."""
    chosen = list(columns)
    if not chosen:
        return [{}] * frame.height
    rows = frame.select(chosen).to_dicts()
    return [{name: value for name, value in row.items() if value is not None} for row in rows]
