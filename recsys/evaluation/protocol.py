"""What is asked in the test period, and every system's answer to it.

Each user is asked once, at the first event of the test period; the targets are the items that the user then meets
positively for the first time. What a user has met before is removed from every system's ranking.

Shapes: B queries, N items, K places.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from recsys.contracts import Query
from recsys.data.dataset import Dataset
from recsys.data.splits import RANK, TEST, Split
from recsys.errors import DataError
from recsys.evaluation.baselines import Interactions, Scorer
from recsys.evaluation.metrics import Targets, coverage, per_user, rank_scores, summarise
from recsys.evaluation.replay import Replay, slate_ranking
from recsys.evaluation.report import Report
from recsys.pipeline import Stage, recommend

K = 100
BATCH = 64
SEED = 0
OURS = ("retrieval", "+ ranker", "+ policy")


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """The questions."""

    replay: Replay
    rows: np.ndarray
    """[B] row of the log at which each user asks"""
    queries: list[Query]
    targets: Targets
    met: sparse.csr_array
    """[B, N] 1 where the user met the item before, as a mere impression too: not shown again"""
    remembered: sparse.csr_array
    """[B, N] 1 where that meeting reached an objective: what every system may know of the user"""

    __test__ = False

    @staticmethod
    def of(dataset: Dataset, split: Split, replay: Replay) -> "TestSet":
        wanted = split.targets(dataset)
        rows = replay.first_rows(split.periods == TEST)
        rows = rows[np.isin(replay.users[rows], replay.users[wanted])]
        if not len(rows):
            raise DataError(f"{dataset.name}: no user meets a new item in the test period; enlarge protocol.test")
        return TestSet(
            replay=replay,
            rows=rows,
            queries=replay.queries(rows, K),
            targets=replay.targets(rows, wanted),
            met=_met(replay, rows, np.ones(len(replay.users), dtype=bool)),
            remembered=_met(replay, rows, (replay.labels > 0).any(axis=1)),
        )

    @property
    def warm(self) -> np.ndarray:
        """[B] bool, users with a history"""
        return np.diff(self.remembered.indptr) > 0

    def answers(self, stages: Sequence[Stage]) -> np.ndarray:
        """[B, K] catalogue rows that the cascade shows."""
        slates = []
        for start in range(0, len(self.queries), BATCH):
            slates += recommend(self.queries[start : start + BATCH], stages)
        return slate_ranking(slates, self.replay.rows_of_items, K)

    def scored(self, scorer: Scorer) -> np.ndarray:
        """[B, K] catalogue rows of a baseline, a target loses every tie."""
        return rank_scores(scorer.scores(self.remembered), K, self.met, self.targets)


class Evaluation:
    """The baselines that stand in every table."""

    def __init__(self, *, baselines: Mapping[str, Any]) -> None:
        """baselines: name in the table -> something with `fit(Interactions) -> Scorer`"""
        self.baselines = dict(baselines)

    def report(self, test: TestSet, dataset: Dataset, split: Split, ours: Mapping[str, Sequence[Stage]]) -> Report:
        """Answer every question by every system; `ours` are cascades by name."""
        learnt = _interactions(test.replay, split.periods <= RANK)
        rankings = {name: test.scored(baseline.fit(learnt)) for name, baseline in self.baselines.items()}
        rankings |= {name: test.answers(stages) for name, stages in ours.items()}
        values = {name: per_user(ranking, test.targets) for name, ranking in rankings.items()}
        num_items = dataset.num_items
        slices = {"with a history": test.warm, "new users": ~test.warm}
        return Report(
            rows=_rows(values, rankings, num_items, np.ones(len(test.rows), dtype=bool)),
            slices={
                name: _rows(values, rankings, num_items, chosen) for name, chosen in slices.items() if chosen.any()
            },
            protocol=f"{dataset.name}, {split.name}, one query a user",
            targets_sha256=split.targets_sha256(dataset),
            users=len(test.rows),
            notes=dataset.notes,
            ours=tuple(ours),
            per_user=values,
        )


def _rows(
    values: Mapping[str, Mapping[str, np.ndarray]],
    rankings: Mapping[str, np.ndarray],
    num_items: int,
    chosen: np.ndarray,
) -> dict[str, dict[str, Any]]:
    return {
        name: summarise(
            {metric: value[chosen] for metric, value in values[name].items()},
            coverage(rankings[name][chosen], num_items, 10),
            SEED,
        )
        for name in rankings
    }


def _interactions(replay: Replay, known: np.ndarray) -> Interactions:
    rows = np.flatnonzero(known & replay.positives)
    return Interactions(
        users=replay.users[rows],
        items=replay.items[rows],
        timestamps=replay.seconds[rows],
        num_users=len(replay.names),
        num_items=len(replay.rows_of_items),
    )


def _met(replay: Replay, rows: np.ndarray, counted: np.ndarray) -> sparse.csr_array:
    """[B, N]: items of each user's events before its row that count, [R] bool."""
    earlier = [replay.rows_of_user[replay.users[row]][: replay.place[row]] for row in rows]
    before = [np.unique(replay.items[mine[counted[mine]]]) for mine in earlier]
    indptr = np.concatenate([[0], np.cumsum([len(items) for items in before])])
    indices = np.concatenate(before).astype(np.int64)
    shape = (len(rows), len(replay.rows_of_items))
    return sparse.csr_array((np.ones(len(indices), dtype=np.float32), indices, indptr), shape=shape)
