"""Evaluation queries of one period of a split, and the rankings that systems give for them.

Each user has one query, at the first event of the period that may be a target (`Split.scope`); targets are the items with which
the user then interacts positively for the first time, or that may be repeated (policy.repeat), cold items included.

Shapes: R rows of the log, B queries, N items, K positions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from recsys.contracts import CANDIDATE_ROWS, PAD, Query
from recsys.data.dataset import Dataset
from recsys.data.splits import PERIODS, Split
from recsys.errors import DataError
from recsys.metrics import K, Targets, ndcg, rank_scores, score_hits
from recsys.pipeline import Stage, through
from recsys.progress import Progress, silent
from recsys.replay.interactions import UNLIMITED, Histories, Interactions, Scorer
from recsys.replay.replay import Replay
from recsys.replay.threads import map_in_threads

RETRIEVED = "retrieval"
"""name of the candidates before any ranker"""
MAX_SCORES = 2**21
"""scores in memory at a time"""
QUERIES_PER_BATCH = 64
"""batch size of a cascade"""
Scores = Callable[[slice], np.ndarray]
"""consecutive queries -> their scores [b, N], larger is better"""


class RankingStage(Protocol):
    """Last stage of a cascade, of which only the shown items are evaluated."""

    def rows(self, tensors: Mapping[str, Any]) -> np.ndarray:
        """Return catalogue rows [B, at least the requested number] in shown order, PAD behind the last."""


@dataclass(frozen=True, kw_only=True)
class EvaluationQueries:
    """Queries of one period with their targets."""

    replay: Replay
    split: Split
    period: int
    rows: np.ndarray
    """[B] row of the log of each query"""
    targets: Targets
    histories: Histories
    """earlier items that reached an objective, oldest first: the history that every system may use"""
    removed: sparse.csr_array
    """[B, N] nonzero where an item may not be shown: barred by an earlier event, impressions included"""
    events_per_user: int = UNLIMITED
    """the newest, at most, of which item-item baselines count pairs"""

    @staticmethod
    def of(dataset: Dataset, split: Split, replay: Replay, period: int) -> "EvaluationQueries":
        """Build the queries; DataError when no user interacts with a new item in the period."""
        targets_of_log = split.targets(dataset, period, replay.showable(split, period))
        rows = replay.first_rows(split.rows_in_scope(dataset, period))
        rows = rows[np.isin(replay.users[rows], replay.users[targets_of_log])]
        if not len(rows):
            name = PERIODS[period].lower()
            raise DataError(f"{dataset.name}: no user meets a new item in the {name} period; enlarge protocol.{name}")
        query_of_event, earlier = replay.earlier(rows)
        reached = (replay.labels[earlier] > 0).any(axis=1)
        return EvaluationQueries(
            replay=replay,
            split=split,
            period=period,
            rows=rows,
            targets=replay.targets(rows, targets_of_log),
            histories=Histories.grouped(query_of_event[reached], replay.items[earlier[reached]], len(rows)),
            removed=Histories.grouped(*replay.barred(rows), len(rows)).matrix(dataset.num_items),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_items(self) -> int:
        return self.removed.shape[1]

    @property
    def users(self) -> np.ndarray:
        """Return [B] int64 codes of the users, the same in every split of a data set."""
        return self.replay.users[self.rows]

    @property
    def targets_sha256(self) -> str:
        """Return `Split.targets_sha256` of the items that may be shown."""
        showable = self.replay.showable(self.split, self.period)
        return self.split.targets_sha256(self.replay.dataset, self.period, showable)

    @cached_property
    def queries(self) -> list[Query]:
        return self.replay.queries(self.rows, K)

    @cached_property
    def known(self) -> Interactions:
        """Return the interactions on which an evaluated system may be fitted."""
        return Interactions.of(self.replay, self.split.known(self.period), self.events_per_user)

    @property
    def contents(self) -> dict[str, Any]:
        """Return all that a baseline reads: what it may be fitted on, and the queries with their targets."""
        parts = {"known": self.known, "rows": self.rows, "targets": self.targets}
        return {**parts, "histories": self.histories, "removed": self.removed}

    def sample(self, num: int, seed: int) -> "EvaluationQueries":
        """Return at most `num` queries in their order, sampled with a seed."""
        if num >= len(self):
            return self
        return self.only(np.sort(np.random.default_rng(seed).choice(len(self), num, replace=False)))

    def only(self, chosen: np.ndarray) -> "EvaluationQueries":
        """Return the queries at the ascending indices `chosen`."""
        kept = np.isin(self.targets.users, chosen)
        return replace(
            self,
            rows=self.rows[chosen],
            targets=self.targets.only(kept)[1],
            histories=self.histories.batch(chosen),
            removed=self.removed[chosen],
        )

    def rank(self, scores: Scores) -> np.ndarray:
        """Return [B, K] catalogue rows, best first, from scores of the whole catalogue; a target loses every tie."""
        parts = [
            rank_scores(scores(batch), K, self.removed[batch], self.targets.batch(batch)) for batch in self._batches()
        ]
        return np.concatenate(parts)

    def ndcg_at_10(self, scores: Scores) -> np.ndarray:
        """Return NDCG@10 [B] of `rank` without building the ranking, at a fraction of the cost."""
        batches = [(batch, self.targets.batch(batch)) for batch in self._batches()]
        found = [score_hits(scores(batch), 10, self.removed[batch], targets) for batch, targets in batches]
        return ndcg(np.concatenate(found), self.targets.num_targets, 10)

    def scores_of(self, scorer: Scorer) -> Scores:
        """Return the score function of a fitted baseline, the argument of `rank` and `ndcg_at_10`."""
        return lambda batch: scorer.scores(self.histories.batch(batch))

    def rankings(
        self, shared: Sequence[Stage], last_stages: Mapping[str, RankingStage], progress: Progress = silent
    ) -> dict[str, np.ndarray]:
        """Return rankings [B, K] of catalogue rows, best first, PAD at the end, by name: RETRIEVED in the order of the shared
        stages, then those of each last stage. Shared stages run once.
        """

        def answer(queries: Sequence[Query]) -> dict[str, np.ndarray]:
            tensors = through({"QUERY": queries}, shared)
            shown = {name: stage.rows(tensors) for name, stage in last_stages.items()}
            ranked = {RETRIEVED: tensors[CANDIDATE_ROWS.name]} | shown
            return {name: _first_k(rows) for name, rows in ranked.items()}

        parts = map_in_threads(
            answer,
            [self.queries[start : start + QUERIES_PER_BATCH] for start in range(0, len(self), QUERIES_PER_BATCH)],
            progress,
            f"{len(self):,} queries of {PERIODS[self.period]}",
        )
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _batches(self) -> list[slice]:
        step = max(1, MAX_SCORES // self.num_items)
        return [slice(start, min(start + step, len(self))) for start in range(0, len(self), step)]


def _first_k(rows: np.ndarray) -> np.ndarray:
    """Return the first K columns of [B, C], padded by PAD."""
    ranking = np.full((len(rows), K), PAD, dtype=np.int64)
    ranking[:, : rows.shape[1]] = rows[:, :K]
    return ranking
