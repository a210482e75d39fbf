"""Questions as arrays: what models are watched on while they train, and what weights are chosen on.

Shapes: Q queries, L history of the towers, H whole histories, E removed items, K places, N items.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recsys.contracts import PAD
from recsys.evaluation.metrics import Targets, hits, ndcg, recall
from recsys.evaluation.questions import Questions
from recsys.features.encode import Arrays, ItemTable, encode_queries, without_padding
from recsys.features.spec import FeatureSpec

STEP = 512
"""queries a tower is given at a time"""
RECALL_AT = 100


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Encoded queries with what is right."""

    request: Arrays
    """request tensors of Q queries"""
    history: np.ndarray
    """[Q, H] catalogue rows, newest last, PAD before"""
    removed_rows: np.ndarray
    """[Q, E] catalogue rows that may not be shown, PAD at the end"""
    targets: Targets

    @staticmethod
    def of(questions: Questions, spec: FeatureSpec, items: ItemTable) -> "Watched":
        request, history = encode_queries(spec, items, questions.queries)
        return Watched(
            request=request, history=history, removed_rows=_padded(questions.removed), targets=questions.targets
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


def _padded(removed: sparse.csr_array) -> np.ndarray:
    """[Q, N] nonzero places -> [Q, E] columns, PAD at the end."""
    counts = np.diff(removed.indptr)
    rows = np.full((len(counts), counts.max(initial=0)), PAD, dtype=np.int64)
    rows[np.arange(rows.shape[1]) < counts[:, None]] = removed.indices
    return rows
