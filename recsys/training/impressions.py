"""Impressions of the own event log as examples of the ranker: the logged queries, the slates shown and their outcomes.

Shapes: I shown items, B requests, C longest slate, T objectives.
"""

import numpy as np
import polars as pl

from recsys.contracts import PAD, Query
from recsys.data.description import ITEM, TIMESTAMP
from recsys.data.splits import PERIODS
from recsys.errors import DataError
from recsys.features.batches import RequestBatch
from recsys.features.encode import ItemTable
from recsys.features.spec import FeatureSpec
from recsys.replay.labelled_requests import sample_rows
from recsys.stages import Retrieve
from recsys.tensors import Arrays
from recsys.training.prepare import Prepared
from recsys.training.ranking_examples import NoRequestsError, RankingExamples, in_batches, retrieved_requests
from recsys.training.slates import inverse_weights, only_retrieved, retrieval_scores

LABELS = "labels"


def impression_examples(
    retrieve: Retrieve,
    prepared: Prepared,
    spec: FeatureSpec,
    items: ItemTable,
    period: int,
    *,
    weighed: bool,
    most: int,
) -> RankingExamples:
    """Examples of at most `most` requests of a period, with the scores of today's retrieval.

    The history is that of the logged query; a query that was answered by a part of the cascade counts as well.
    weighed: by the inverse of the propensity. Raises NoRequestsError where the period has no impression, DataError for a
    propensity outside (0, 1].
    """
    shown = _inside(prepared, period)
    request = shown["request"].rle_id().to_numpy()
    kept = np.isin(request, sample_rows(np.arange(request[-1] + 1), most))
    shown, request = shown.filter(pl.Series(kept)), np.unique(request[kept], return_inverse=True)[1]
    column = np.arange(len(request)) - np.searchsorted(request, request)
    queries = [Query.from_json(text) for text in shown.filter(pl.Series(column == 0))["query"]]
    grid = _Grid(request, column)
    rows = grid.filled(np.array([items.rows.get(item, PAD) for item in shown[ITEM]]), PAD)

    def part(batch: np.ndarray) -> Arrays:
        answer = retrieved_requests(retrieve, spec, items, [queries[number] for number in batch])
        return answer | retrieval_scores(rows[batch], answer)

    scored = in_batches(part, np.arange(len(queries)))
    logged = RankingExamples(
        request={tensor.name: scored[tensor.name] for tensor in RequestBatch.specs(spec.sizes)},
        candidate_rows=rows,
        candidate_scores=scored["scores"],
        labels=grid.filled(shown[LABELS].to_numpy(), np.nan),
        positions=grid.filled(shown["position"].to_numpy(), 0),
        weights=inverse_weights(grid.filled(shown["propensity"].to_numpy(), np.nan), rows, "propensity")
        if weighed
        else None,
    )
    return only_retrieved(logged, scored, prepared.dataset.name)


class _Grid:
    """Scatter of shown items into an array of requests and candidates."""

    def __init__(self, request: np.ndarray, column: np.ndarray) -> None:
        """[I] each, from 0"""
        self.indices = request, column
        self.shape = request.max() + 1, column.max() + 1

    def filled(self, values: np.ndarray, otherwise: float) -> np.ndarray:
        """Scatter values [I, ...] -> [B, C, ...]."""
        grid = np.full((*self.shape, *values.shape[1:]), otherwise, dtype=values.dtype)
        grid[self.indices] = values
        return grid


def _inside(prepared: Prepared, period: int) -> pl.DataFrame:
    name, shown, cuts = prepared.dataset.name, prepared.dataset.impressions, prepared.split.cuts
    assert cuts is not None
    if shown is None or not shown.height:
        raise DataError(
            f"{name}: no impression was logged, or no outcome of one is known yet (data.wait_s); "
            "take data=event_log, or leave ranking.sampling.shown out"
        )
    start, end = cuts[period - 1], prepared.split.end(period)
    begun = pl.col(TIMESTAMP).is_between(start, end, closed="left")
    inside = shown.filter(begun & (pl.col("known_at") <= end))
    if not inside.height:
        times = shown[TIMESTAMP].to_numpy()
        raise NoRequestsError(
            f"{name}: no impression with an outcome lies in the period {PERIODS[period]}, {start:.0f} to {end:.0f}, but from "
            f"{times.min():.0f} to {times.max():.0f}; take data.history=false or other shares of protocol"
        )
    return inside
