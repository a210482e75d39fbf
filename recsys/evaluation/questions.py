"""What is asked in one period of a split, and every system's answer to it.

Each user is asked once, at the first event of the period; the targets are the items that the user then meets positively
for the first time, or that may be repeated (policy.repeat), whether anything is known of them or not.

Shapes: R rows of the log, B queries, N items, K places.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from recsys.contracts import PAD, Query
from recsys.data.dataset import Dataset
from recsys.data.splits import PERIODS, Split
from recsys.errors import DataError
from recsys.evaluation.baselines import Scorer
from recsys.evaluation.interactions import EVERY, Histories, Interactions
from recsys.evaluation.metrics import K, Targets, ndcg, rank_scores, score_hits
from recsys.evaluation.replay import Replay
from recsys.evaluation.threads import in_threads
from recsys.pipeline import Stage, through

RETRIEVED = "retrieval"
"""the candidates, before any ranker"""
CELLS = 2**21
"""scores held at a time"""
SLATES = 64
"""queries a cascade is asked at a time"""
Scores = Callable[[slice], np.ndarray]
"""consecutive queries -> their scores [b, N], larger is better"""


class End(Protocol):
    """A last stage, of which only the items matter here."""

    def rows(self, tensors: Mapping[str, Any]) -> np.ndarray:
        """[B, at least what was asked] catalogue rows as they are shown, PAD behind the last."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """The queries of one period and what is right."""

    replay: Replay
    split: Split
    period: int
    rows: np.ndarray
    """[B] row of the log at which each user asks"""
    targets: Targets
    histories: Histories
    """what reached an objective before, oldest first: what every system may know of the user"""
    removed: sparse.csr_array
    """[B, N] nonzero where an item may not be shown: barred by an earlier event, a mere impression too"""
    events_per_user: int = EVERY
    """the newest, at most, of which item-item baselines count pairs"""

    @staticmethod
    def of(dataset: Dataset, split: Split, replay: Replay, period: int) -> "Questions":
        """DataError when nothing new is met in the period."""
        wanted = split.targets(dataset, period, replay.showable(split, period))
        rows = replay.first_rows(split.periods == period)
        rows = rows[np.isin(replay.users[rows], replay.users[wanted])]
        if not len(rows):
            name = PERIODS[period].lower()
            raise DataError(f"{dataset.name}: no user meets a new item in the {name} period; enlarge protocol.{name}")
        asking, earlier = replay.earlier(rows)
        reached = (replay.labels[earlier] > 0).any(axis=1)
        return Questions(
            replay=replay,
            split=split,
            period=period,
            rows=rows,
            targets=replay.targets(rows, wanted),
            histories=Histories.grouped(asking[reached], replay.items[earlier[reached]], len(rows)),
            removed=Histories.grouped(*replay.barred(rows), len(rows)).matrix(dataset.num_items),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_items(self) -> int:
        return self.removed.shape[1]

    @property
    def users(self) -> np.ndarray:
        """[B] int64 code of each user, the same in every split of a data set."""
        return self.replay.users[self.rows]

    @property
    def targets_sha256(self) -> str:
        """As `Split.targets_sha256`, of what may be shown."""
        showable = self.replay.showable(self.split, self.period)
        return self.split.targets_sha256(self.replay.dataset, self.period, showable)

    @cached_property
    def queries(self) -> list[Query]:
        return self.replay.queries(self.rows, K)

    @cached_property
    def known(self) -> Interactions:
        """What a system that answers may be fitted on."""
        return Interactions.of(self.replay, self.split.known(self.period), self.events_per_user)

    def sample(self, num: int, seed: int) -> "Questions":
        """At most `num` of them, drawn with a seed, in their order."""
        if num >= len(self):
            return self
        return self.only(np.sort(np.random.default_rng(seed).choice(len(self), num, replace=False)))

    def only(self, chosen: np.ndarray) -> "Questions":
        """Those in the rows `chosen`, ascending."""
        kept = np.isin(self.targets.users, chosen)
        return replace(
            self,
            rows=self.rows[chosen],
            targets=self.targets.only(kept)[1],
            histories=self.histories.batch(chosen),
            removed=self.removed[chosen],
        )

    def rank(self, scores: Scores) -> np.ndarray:
        """[B, K] catalogue rows, best first, from scores of the whole catalogue; a target loses every tie."""
        parts = [
            rank_scores(scores(batch), K, self.removed[batch], self.targets.batch(batch)) for batch in self._batches()
        ]
        return np.concatenate(parts)

    def ndcg_at_10(self, scores: Scores) -> np.ndarray:
        """[B], that of `rank`, at a fraction of its price."""
        batches = [(batch, self.targets.batch(batch)) for batch in self._batches()]
        found = [score_hits(scores(batch), 10, self.removed[batch], targets) for batch, targets in batches]
        return ndcg(np.concatenate(found), self.targets.num_targets, 10)

    def scores_of(self, scorer: Scorer) -> Scores:
        """What `rank` and `ndcg_at_10` take, from a fitted baseline."""
        return lambda batch: scorer.scores(self.histories.batch(batch))

    def answers(self, shared: Sequence[Stage], ends: Mapping[str, End]) -> dict[str, np.ndarray]:
        """[B, K] catalogue rows, best first, PAD at the end: RETRIEVED, in the order of the shared stages, and what each of
        the ends then shows. The stages that all of them share answer once.
        """

        def answer(queries: Sequence[Query]) -> dict[str, np.ndarray]:
            tensors = through({"QUERY": queries}, shared)
            shown = {name: end.rows(tensors) for name, end in ends.items()}
            return {name: _cut(rows) for name, rows in ({RETRIEVED: tensors["candidate_rows"]} | shown).items()}

        parts = in_threads(answer, [self.queries[start : start + SLATES] for start in range(0, len(self), SLATES)])
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _batches(self) -> list[slice]:
        step = max(1, CELLS // self.num_items)
        return [slice(start, min(start + step, len(self))) for start in range(0, len(self), step)]


def _cut(rows: np.ndarray) -> np.ndarray:
    """[B, C] -> [B, K], PAD at the end."""
    ranking = np.full((len(rows), K), PAD, dtype=np.int64)
    ranking[:, : rows.shape[1]] = rows[:, :K]
    return ranking
