"""When somebody asks, and what comes of an item whether it is shown or not: the one meaning of such a label.

An objective is reached when the user reaches it on the item from the request on and within the horizon of the split.
Everybody who was there asks, whatever came of it, as long as the whole horizon is in the period: what nobody watched to its
end is no negative (right censoring). So a chance means the same where the ranker learns, is calibrated and is judged.

Shapes: B moments, C candidates, T objectives, R rows of the log, U users.
"""

from dataclasses import dataclass

import numpy as np

from recsys.contracts import Query
from recsys.data.splits import DAY_S, PERIODS, Split
from recsys.errors import DataError
from recsys.evaluation.replay import Replay


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
        """Each user's first row of the period, then evenly spaced ones, `per_user` at most; `most` of all, always the same.

        DataError where no row of the period has the horizon before it.
        """
        watched = (split.periods == period) & _whole(replay, split, period)
        if not watched.any():
            raise DataError(
                f"{replay.dataset.name}: no event of the period {PERIODS[period]} is followed by the whole horizon before the "
                "period ends; give a shorter protocol.horizon_days or a larger share"
            )
        rows = drawn(_spaced(replay, watched, per_user), most)
        return Moments(replay=replay, split=split, period=period, rows=rows)

    def __len__(self) -> int:
        return len(self.rows)

    def queries(self, k: int) -> list[Query]:
        """[B]"""
        return self.replay.queries(self.rows, k)

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


def _whole(replay: Replay, split: Split, period: int) -> np.ndarray:
    """[R] bool, rows before which the whole horizon lies in the period, and in the log."""
    until = replay.now + split.horizon
    return np.isinf(until) | (until < split.end(period)) & (until <= replay.timestamps.max())


def drawn(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the rows, always the same ones, in their order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def _spaced(replay: Replay, wanted: np.ndarray, per_user: int) -> np.ndarray:
    """Of the wanted rows [R] bool of each user the first one and others at even distances, ascending."""
    rows = replay.grouped[wanted[replay.grouped]]
    counts = np.bincount(replay.users[rows])
    num = min(per_user, int(counts.max()))
    places = (np.cumsum(counts) - counts)[:, None] + np.arange(num) * counts[:, None] // num
    return np.sort(rows[np.unique(places[counts > 0])])
