"""Validation queries as arrays, for early stopping of the towers and for tuning the weights of the merge.

Shapes: Q queries, L history of the towers, H whole histories, E removed items, K positions, N items.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.contracts import PAD
from recsys.features.batches import RequestBatch
from recsys.features.encode import ItemTable, encode_queries
from recsys.features.spec import FeatureSpec
from recsys.metrics import Targets, hits, ndcg, recall
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.tensors import Arrays

QUERY_BATCH = 512
"""queries of a forward pass of the user tower"""
RECALL_AT = 100


@dataclass(frozen=True, kw_only=True)
class RaggedRows:
    """Q rows of unequal length, padded when a slice is read: one crawler's row may be as long as the catalogue."""

    offsets: np.ndarray
    """[Q + 1]"""
    values: np.ndarray
    """[M] int64, row q is values[offsets[q]:offsets[q + 1]]"""
    pad_front: bool
    """pad in front of the values of a row, else behind them"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, part: slice) -> np.ndarray:
        """[q, longest of the slice] int64, padded with PAD."""
        bounds = self.offsets[part.start : None if part.stop is None else part.stop + 1]
        counts = np.diff(bounds)
        padded = np.full((len(counts), counts.max(initial=0)), PAD, dtype=np.int64)
        column = np.arange(padded.shape[1])
        inside = column >= padded.shape[1] - counts[:, None] if self.pad_front else column < counts[:, None]
        padded[inside] = self.values[bounds[0] : bounds[-1]]
        return padded


@dataclass(frozen=True, kw_only=True)
class ValidationQueries:
    """Encoded queries with their targets."""

    request: Arrays
    """request tensors of Q queries"""
    history: RaggedRows
    """[Q, H] catalogue rows, newest last, PAD in front"""
    removed_rows: RaggedRows
    """[Q, E] catalogue rows that may not be recommended, PAD at the end"""
    targets: Targets

    @staticmethod
    def of(questions: EvaluationQueries, spec: FeatureSpec, items: ItemTable) -> "ValidationQueries":
        steps = range(0, len(questions), QUERY_BATCH)
        parts = [
            (request.tensors(), history)
            for start in steps
            for request, history in [encode_queries(spec, items, questions.queries[start : start + QUERY_BATCH])]
        ]
        removed = questions.removed
        return ValidationQueries(
            request={name: np.concatenate([request[name] for request, _ in parts]) for name in parts[0][0]},
            history=_ragged_histories([history for _, history in parts]),
            removed_rows=RaggedRows(offsets=removed.indptr, values=removed.indices.astype(np.int64), pad_front=False),
            targets=questions.targets,
        )

    def batches(self) -> Iterator[Arrays]:
        """Batches of the request tensors, without columns that are padding in the whole batch."""
        for start in range(0, len(self.history), QUERY_BATCH):
            batch = RequestBatch.of({name: array[start : start + QUERY_BATCH] for name, array in self.request.items()})
            yield batch.without_padding().tensors()

    def ndcg_at_10(self, rows: np.ndarray) -> np.ndarray:
        """NDCG@10 [Q] of rankings [Q, K], PAD at the end: the metric that baselines are tuned by."""
        return ndcg(hits(rows, self.targets), self.targets.num_targets, min(10, rows.shape[1]))

    def score(self, rows: np.ndarray) -> np.ndarray:
        """NDCG@10 + recall@100 [Q] of rankings [Q, K], PAD at the end: the metric that weights of the merge are chosen by.

        Few targets are in the first ten: NDCG alone, or with four times the weight, chose popularity alone on MovieTweetings,
        which the next period did not bear out (benchmarks/journal).
        """
        found, num = hits(rows, self.targets), self.targets.num_targets
        return ndcg(found, num, min(10, rows.shape[1])) + recall(found, num, min(RECALL_AT, rows.shape[1]))


def _ragged_histories(histories: Sequence[np.ndarray]) -> RaggedRows:
    """Join histories [q, H] with PAD in front; H differs between them."""
    counts = np.concatenate([(part != PAD).sum(axis=1) for part in histories])
    values = np.concatenate([part[part != PAD] for part in histories])
    return RaggedRows(offsets=np.concatenate([[0], np.cumsum(counts)]), values=values, pad_front=True)
