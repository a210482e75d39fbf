"""Reference statistics of a measured cascade: requests of the training log, and its slates for requests of TEST."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from recsys.contracts import Slate
from recsys.evaluation.exposure_report import POSITIONS
from recsys.features.spec import FeatureSpec
from recsys.measurement.drift.reference import Reference
from recsys.measurement.drift.served import (
    DAY_S,
    Cells,
    cells_of_requests,
    cells_of_slates,
    kinds_of_requests,
    kinds_of_slates,
)
from recsys.pipeline import Stage, recommend
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.replay.replay import Replay

MOST_REQUESTS, MOST_SLATES, DAYS = 20_000, 500, 28
"""events whose requests are counted, at most, of the last days of a log with times; slates that are made, at most"""
FEWEST_REQUESTS = 2_000
"""of the last days; else the newest events of all days are taken"""
SEED = 0


def reference_statistics(spec: FeatureSpec, test: EvaluationQueries, stages: Sequence[Stage]) -> Reference:
    """Return the statistics of requests of the log, and of slates that the stages make for requests of TEST."""
    replay, objectives = test.replay, tuple(spec.objectives)
    kinds = kinds_of_requests(spec)
    requests = cells_of_rows(replay, _newest_rows(replay), spec, tuple(kinds))
    queries = [replace(query, k=POSITIONS) for query in test.sample(MOST_SLATES, SEED).queries]
    slates: Sequence[Slate] = recommend(queries, stages)
    parts = [(requests, kinds), (cells_of_slates(queries, slates, objectives), kinds_of_slates(objectives))]
    flagged = sum(bool(slate.degraded) for slate in slates) / max(len(slates), 1)
    return replace(Reference.fit(parts, spec.history_length, objectives), degraded=flagged)


def _newest_rows(replay: Replay) -> np.ndarray:
    """Rows of the log that stand for requests, ascending."""
    rows = np.arange(len(replay.now))
    if replay.dataset.description.clock:
        late = rows[replay.now > replay.now.max() - DAYS * DAY_S]
        rows = (
            late
            if len(late) >= FEWEST_REQUESTS
            else rows[np.sort(np.argsort(replay.now, kind="stable")[-MOST_REQUESTS:])]
        )
    if len(rows) <= MOST_REQUESTS:
        return rows
    return np.sort(np.random.default_rng(SEED).choice(rows, MOST_REQUESTS, replace=False))


def cells_of_rows(replay: Replay, rows: np.ndarray, spec: FeatureSpec, names: Sequence[str]) -> Cells:
    """Cells of the requests at these rows; of a history its length alone is read."""
    request, earlier = replay.earlier(rows)
    reached = (replay.labels[earlier] > 0).any(axis=1)
    lengths = np.bincount(request[reached], minlength=len(rows)).tolist()
    users = replay.names[replay.users[rows]].tolist()
    documents = [
        {
            "user": user,
            "now": now,
            "context": replay.events[row].context,
            "profile": replay.profiles.get(user, {}),
            "history": range(length),
        }
        for row, user, now, length in zip(rows.tolist(), users, replay.now[rows].tolist(), lengths, strict=True)
    ]
    return cells_of_requests(documents, names, spec.history_length)
