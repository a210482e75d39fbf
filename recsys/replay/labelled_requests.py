"""Labelled requests sampled from the log: the single definition of a label, for training, calibration and evaluation.

An objective of an item is positive when the user reaches it from the request on and within the horizon of the split,
whether the item was shown or not. A request is taken at user events, whatever their outcome, whose full horizon is observed
(no right censoring). Per user, some are taken in every time bucket as long as the horizon, so that the number of requests
grows with the length of a period but not with a user's activity within a bucket; probabilities then mean the same in
periods of different length. Without a common time axis a period is one bucket, and labels read the same share of the log in
VALIDATION and TEST (`recsys.data.splits.equally_exposed`).

Shapes: B requests, C candidates, T objectives, R rows of the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.contracts import CANDIDATE_ROWS, PROBABILITIES
from recsys.data.splits import DAY_S, Split
from recsys.pipeline import Stage, through
from recsys.progress import Progress, silent
from recsys.replay.replay import Replay
from recsys.replay.threads import map_in_threads

ROUNDING = 1e-6
"""slack of a number of buckets: float error must not turn four quarters of a period into three"""
REQUESTS_PER_BATCH = 64
"""batch size of a cascade, for memory"""


@dataclass(frozen=True, kw_only=True)
class LabelledRequests:
    """Requests at rows of the log, all in one period, with labels."""

    replay: Replay
    split: Split
    period: int
    rows: np.ndarray
    """[B] ascending"""

    @staticmethod
    def of(replay: Replay, split: Split, period: int, *, per_user: int, max_requests: int) -> "LabelledRequests":
        """Sample each user's first row of every bucket and evenly spaced further ones, `per_user` at most.

        max_requests: of all users together; more are sampled with a fixed seed.
        """
        rows = replay.grouped[(split.outcomes(period) & split.observed(replay.now, period))[replay.grouped]]
        bucket, num = _buckets(replay, split, period, rows)
        complete = bucket < num  # a last, shorter bucket would hold fewer requests per user
        rows, bucket = rows[complete], bucket[complete]
        chosen = np.sort(_evenly_spaced(rows, replay.users[rows] * num + bucket, per_user))
        return LabelledRequests(replay=replay, split=split, period=period, rows=sample_rows(chosen, max_requests))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def first(self) -> np.ndarray:
        """[B] bool, the first request of its user."""
        is_first = np.zeros(len(self), dtype=bool)
        is_first[np.unique(self.replay.users[self.rows], return_index=True)[1]] = True
        return is_first

    @property
    def horizon_text(self) -> str:
        """Return the horizon of a label as text for reports."""
        horizon, clock = self.split.horizon, self.replay.dataset.description.clock
        if self.split.scope == "basket":
            return "in the basket of the request"
        if self.split.labelled is not None:
            return f"in a random {self.split.outcomes(self.period).mean():.2g} of the log"
        if self.split.scope == "session":
            return f"within {self.split.gap_minutes:g} minutes, in the session of the request"
        if np.isinf(horizon):
            return "before the period of a user ends"
        return f"within {horizon / DAY_S:.3g} days" if clock else f"within {horizon:,.0f} events of the log"

    def labels(self, candidates: np.ndarray) -> np.ndarray:
        """Return labels [B, C, T] float32 of catalogue rows [B, C], see `Replay.candidate_labels`."""
        inside, until = self.split.outcomes(self.period), self.replay.now[self.rows] + self.split.horizon
        return self.replay.candidate_labels(self.rows, candidates, inside, until)

    def score_candidates(self, stages: Sequence[Stage], progress: Progress = silent) -> tuple[np.ndarray, np.ndarray]:
        """Return candidates [B, C] and probabilities [B, C, T], as those of the period, of stages that end with a ranker."""

        def score(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            tensors = through({"QUERY": self.replay.queries(rows, k=1)}, stages)
            return tensors[CANDIDATE_ROWS.name], tensors[PROBABILITIES]

        batches = np.split(self.rows, range(REQUESTS_PER_BATCH, len(self), REQUESTS_PER_BATCH))
        parts = map_in_threads(score, batches, progress, "probabilities")
        candidates, probabilities = (np.concatenate(part) for part in zip(*parts, strict=True))
        return candidates, self.split.restated(probabilities, self.period)


def sample_rows(rows: np.ndarray, max_requests: int) -> np.ndarray:
    """Return at most `max_requests` of the rows in their order, sampled with a fixed seed."""
    if len(rows) <= max_requests:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, max_requests, replace=False))


def _buckets(replay: Replay, split: Split, period: int, rows: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the bucket of each row within the period, from 0, and the number of complete buckets, at least one."""
    if split.cuts is None:
        return np.zeros(len(rows), dtype=np.int64), 1
    start, end = split.cuts[period - 1], min(split.end(period), replay.timestamps.max())
    num = int((end - start) / split.horizon - 1 + ROUNDING)
    return ((replay.now[rows] - start) // split.horizon).astype(np.int64), max(1, num)


def _evenly_spaced(rows: np.ndarray, groups: np.ndarray, num: int) -> np.ndarray:
    """Return, of the rows [R] of each contiguous group, the first and others at even distances, `num` at most."""
    _, starts, counts = np.unique(groups, return_index=True, return_counts=True)
    num = min(num, counts.max(initial=0))
    positions = starts[:, None] + np.arange(num) * counts[:, None] // max(num, 1)
    return rows[np.unique(positions)]
