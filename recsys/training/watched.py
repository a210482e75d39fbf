"""Questions as arrays: what models are watched on while they train, and what weights are chosen on.

Shapes: Q queries, L history of the towers, H whole histories, E removed items, K places, N items.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.contracts import PAD
from recsys.evaluation.evaluation_queries import EvaluationQueries
from recsys.evaluation.metrics import Targets, hits, ndcg, recall
from recsys.features.encode import Arrays, ItemTable, encode_queries, without_padding
from recsys.features.spec import FeatureSpec

STEP = 512
"""queries a tower is given at a time"""
RECALL_AT = 100


@dataclass(frozen=True, kw_only=True)
class Ragged:
    """Q rows of unequal length, padded as they are read: one of them may be a crawler's, as long as the catalogue."""

    offsets: np.ndarray
    """[Q + 1]"""
    values: np.ndarray
    """[M] int64, row q is values[offsets[q]:offsets[q + 1]]"""
    before: bool
    """padding stands before the values of a row, else behind them"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, part: slice) -> np.ndarray:
        """[q, longest of these] int64."""
        bounds = self.offsets[part.start : None if part.stop is None else part.stop + 1]
        counts = np.diff(bounds)
        padded = np.full((len(counts), counts.max(initial=0)), PAD, dtype=np.int64)
        place = np.arange(padded.shape[1])
        inside = place >= padded.shape[1] - counts[:, None] if self.before else place < counts[:, None]
        padded[inside] = self.values[bounds[0] : bounds[-1]]
        return padded


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Encoded queries with what is right."""

    request: Arrays
    """request tensors of Q queries"""
    history: Ragged
    """[Q, H] catalogue rows, newest last, PAD before"""
    removed_rows: Ragged
    """[Q, E] catalogue rows that may not be shown, PAD at the end"""
    targets: Targets

    @staticmethod
    def of(questions: EvaluationQueries, spec: FeatureSpec, items: ItemTable) -> "Watched":
        steps = range(0, len(questions), STEP)
        parts = [encode_queries(spec, items, questions.queries[start : start + STEP]) for start in steps]
        removed = questions.removed
        return Watched(
            request={name: np.concatenate([request[name] for request, _ in parts]) for name in parts[0][0]},
            history=_ragged([history for _, history in parts]),
            removed_rows=Ragged(offsets=removed.indptr, values=removed.indices.astype(np.int64), before=False),
            targets=questions.targets,
        )

    def batches(self) -> Iterator[Arrays]:
        """The request in steps, each without the padding that all of it has."""
        for start in range(0, len(self.history), STEP):
            yield without_padding({name: array[start : start + STEP] for name, array in self.request.items()})

    def judge(self, rows: np.ndarray) -> float:
        """What retrieval is chosen by: mean NDCG@10 + recall@100 of a ranking [Q, K], PAD at the end."""
        found, num = hits(rows, self.targets), self.targets.num_targets
        return float(
            (ndcg(found, num, min(10, rows.shape[1])) + recall(found, num, min(RECALL_AT, rows.shape[1]))).mean()
        )


def _ragged(histories: Sequence[np.ndarray]) -> Ragged:
    """Histories [q, H] with PAD before, H of each its own."""
    counts = np.concatenate([(part != PAD).sum(axis=1) for part in histories])
    values = np.concatenate([part[part != PAD] for part in histories])
    return Ragged(offsets=np.concatenate([[0], np.cumsum(counts)]), values=values, before=True)
