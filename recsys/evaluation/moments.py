"""When somebody asks, and what comes of an item whether it is shown or not: the one meaning of such a label.

An objective is reached when the user reaches it on the item from the request on and within the horizon of the split. Who
left an event is asked at it, whatever came of it, as long as the whole horizon is in the period: what nobody watched to its
end is no negative (right censoring). Of a user some are taken in every stretch as long as the horizon, so that a long
period holds more requests than a short one, and no others: who comes seldom is not found more often in it. So a chance
means the same where the ranker learns, is calibrated and is judged. Where users have no common time a period is one stretch.

Shapes: B moments, C candidates, T objectives, R rows of the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.data.splits import DAY_S, Split
from recsys.evaluation.replay import Replay
from recsys.evaluation.threads import in_threads
from recsys.pipeline import Stage, through

ROUNDING = 1e-6
"""of a number of stretches: a quarter of a period holds it four times"""
ASKED = 64
"""requests that a cascade is asked at a time"""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Rows of the log at which their users ask, all in one period."""

    replay: Replay
    split: Split
    period: int
    rows: np.ndarray
    """[B] ascending"""

    @staticmethod
    def of(replay: Replay, split: Split, period: int, *, per_user: int, most: int) -> "Moments":
        """Each user's first row of every stretch, then evenly spaced ones, `per_user` at most; `most` of all, always the
        same.
        """
        rows = replay.grouped[((split.periods == period) & split.watched(replay.now, period))[replay.grouped]]
        stretch, num = _stretches(replay, split, period, rows)
        rows, stretch = rows[stretch < num], stretch[stretch < num]  # what is left at the end is shorter
        chosen = np.sort(_spaced(rows, replay.users[rows] * num + stretch, per_user))
        return Moments(replay=replay, split=split, period=period, rows=drawn(chosen, most))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def told(self) -> str:
        """For people: within what a label is reached."""
        horizon, clock = self.split.horizon, self.replay.dataset.description.clock
        if np.isinf(horizon):
            return "before the period of a user ends"
        return f"within {horizon / DAY_S:.3g} days" if clock else f"within {horizon:,.0f} events of the log"

    def labels(self, candidates: np.ndarray) -> np.ndarray:
        """[B, C] catalogue rows -> [B, C, T] float32, see `Replay.candidate_labels`."""
        inside, until = self.split.periods == self.period, self.replay.now[self.rows] + self.split.horizon
        return self.replay.candidate_labels(self.rows, candidates, inside, until)

    def answers(self, stages: Sequence[Stage]) -> tuple[np.ndarray, np.ndarray]:
        """Candidates [B, C] and probabilities [B, C, T] of stages that end with a ranker."""

        def answer(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            tensors = through({"QUERY": self.replay.queries(rows, k=1)}, stages)
            return tensors["candidate_rows"], tensors["probabilities"]

        parts = in_threads(answer, np.split(self.rows, range(ASKED, len(self), ASKED)))
        candidates, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
        return candidates, probabilities


def drawn(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, always the same ones, in their order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def _stretches(replay: Replay, split: Split, period: int, rows: np.ndarray) -> tuple[np.ndarray, int]:
    """In which stretch of the period each row lies, from 0, and how many whole ones there are, one at least."""
    if split.cuts is None:
        return np.zeros(len(rows), dtype=np.int64), 1
    start, end = split.cuts[period - 1], min(split.end(period), replay.timestamps.max())
    num = int((end - start) / split.horizon - 1 + ROUNDING)
    return ((replay.now[rows] - start) // split.horizon).astype(np.int64), max(1, num)


def _spaced(rows: np.ndarray, groups: np.ndarray, num: int) -> np.ndarray:
    """Of the rows [R] of each group (which lie together) the first one and others at even distances, `num` at most."""
    _, starts, counts = np.unique(groups, return_index=True, return_counts=True)
    num = min(num, counts.max(initial=0))
    places = starts[:, None] + np.arange(num) * counts[:, None] // max(num, 1)
    return rows[np.unique(places)]
