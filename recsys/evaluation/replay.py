"""Logged moments asked again: the query a user would have sent at a row of the log, and what came after it.

Shapes: R rows of the log, B queries, T objectives, C candidates, K places.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from recsys.contracts import PAD, Event, Query, Slate
from recsys.data.dataset import Dataset
from recsys.data.description import ITEM, TIMESTAMP, USER
from recsys.evaluation.metrics import Targets


class Replay:
    """The log of a data set, grouped by user, in canonical order."""

    def __init__(self, dataset: Dataset) -> None:
        self.rows_of_items = {item: row for row, item in enumerate(dataset.items[ITEM])}
        self.names, self.users = np.unique(dataset.interactions[USER].to_numpy(), return_inverse=True)
        self.items = np.array([self.rows_of_items[item] for item in dataset.interactions[ITEM]], dtype=np.int64)
        self.timestamps = dataset.interactions[TIMESTAMP].to_numpy()
        self.labels = dataset.labels()
        self.positives = dataset.positives()
        self.events = _events(dataset)
        self.profiles = _present(dataset.users.drop(USER).to_dicts(), dataset.users[USER].to_list())
        by_user = np.argsort(self.users, kind="stable")
        self.rows_of_user = np.split(by_user, np.cumsum(np.bincount(self.users))[:-1])
        self.place = np.empty(len(by_user), dtype=np.int64)
        """[R] how many events of the same user stand before the row"""
        self.place[by_user] = np.concatenate([np.arange(len(rows)) for rows in self.rows_of_user])

    def query(self, row: int, k: int) -> Query:
        """What the user of `row` would have asked just before it."""
        mine = self.rows_of_user[self.users[row]]
        user = str(self.names[self.users[row]])
        return Query(
            user=user,
            now=float(self.timestamps[row]),
            k=k,
            context=self.events[row].context,
            profile=self.profiles.get(user, {}),
            history=tuple(self.events[one] for one in mine[: self.place[row]]),
            request_id=f"{user}@{row}",
        )

    def queries(self, rows: Sequence[int] | np.ndarray, k: int) -> list[Query]:
        return [self.query(int(row), k) for row in rows]

    def latest(self, user: str, now: float, k: int) -> Query:
        """What a user would ask at `now`, after all that the log holds until then; a stranger asks with nothing."""
        place = int(np.searchsorted(self.names, user))
        known = place < len(self.names) and self.names[place] == user
        mine = self.rows_of_user[place] if known else ()
        history = tuple(self.events[row] for row in mine if self.timestamps[row] <= now)
        return Query(user=user, now=now, k=k, profile=self.profiles.get(user, {}), history=history)

    def first_rows(self, period: np.ndarray) -> np.ndarray:
        """First row of each user inside a period [R] bool, ascending."""
        rows = np.flatnonzero(period)
        _, first = np.unique(self.users[rows], return_index=True)
        return np.sort(rows[first])

    def targets(self, rows: np.ndarray, wanted: np.ndarray) -> Targets:
        """For each query row the items of its user's rows in `wanted` [R] bool, from that row on."""
        return Targets.of([np.unique(self.items[self._later(row, wanted)]).tolist() for row in rows])

    def candidate_labels(self, rows: np.ndarray, candidates: np.ndarray, period: np.ndarray) -> np.ndarray:
        """Objectives each candidate [B, C] will reach in `period` [R] bool, from the query row on: [B, C, T].

        An item the user does not meet again has label 0 for every objective.
        """
        labels = np.zeros((*candidates.shape, self.labels.shape[1]), dtype=np.float32)
        for query, row in enumerate(rows):
            later = self._later(row, period)
            best = _best_label(self.items[later], self.labels[later])
            for column in np.flatnonzero(np.isin(candidates[query], self.items[later]) & (candidates[query] != PAD)):
                labels[query, column] = best[int(candidates[query, column])]
        return labels

    def _later(self, row: int, period: np.ndarray) -> np.ndarray:
        mine = self.rows_of_user[self.users[row]][self.place[row] :]
        return mine[period[mine]]


def slate_ranking(slates: Sequence[Slate], rows_of_items: dict[str, int], k: int) -> np.ndarray:
    """Slates -> [B, K] catalogue rows, PAD where a slate is shorter."""
    ranking = np.full((len(slates), k), PAD, dtype=np.int64)
    for place, slate in enumerate(slates):
        shown = [rows_of_items[one.item] for one in slate.items[:k]]
        ranking[place, : len(shown)] = shown
    return ranking


def _best_label(items: np.ndarray, labels: np.ndarray) -> dict[int, np.ndarray]:
    best: dict[int, np.ndarray] = {}
    for item, label in zip(items.tolist(), labels, strict=True):
        best[item] = np.fmax(best[item], label) if item in best else label
    return best


def _events(dataset: Dataset) -> list[Event]:
    actions, context = dataset.description.actions, list(dataset.description.context)
    frame = dataset.interactions
    done = _present(frame.select(list(actions)).to_dicts() if actions else [{}] * frame.height)
    known = _present(frame.select(context).to_dicts() if context else [{}] * frame.height)
    return [
        Event(user=user, item=item, timestamp=timestamp, actions=one, context=other)
        for user, item, timestamp, one, other in zip(
            frame[USER], frame[ITEM], frame[TIMESTAMP], done, known, strict=True
        )
    ]


def _present(records: list[dict[str, Any]], keys: list[str] | None = None) -> Any:
    """Records without their nulls, as a list or as {key: record}."""
    kept = [{name: value for name, value in record.items() if value is not None} for record in records]
    return kept if keys is None else dict(zip(keys, kept, strict=True))
