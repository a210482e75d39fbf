"""The own event log as examples of the ranker: the very queries that were asked, what they were shown, what came of it.

Shapes: I shown items, B requests, C longest slate, T objectives.
"""

import numpy as np
import polars as pl

from recsys.contracts import PAD, Query
from recsys.data.description import ITEM, TIMESTAMP
from recsys.data.splits import PERIODS
from recsys.errors import DataError
from recsys.features.encode import Arrays, ItemTable
from recsys.features.spec import FeatureSpec
from recsys.replay.labelled_requests import sample_rows
from recsys.stages import Retrieve
from recsys.training.prepare import Prepared
from recsys.training.ranking_examples import NoRequestsError, RankingExamples, asked, in_batches
from recsys.training.slates import inverse_weights, offered, said_of

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
    """What was shown and answered within a period, of `most` requests at most, with what retrieval says of it now.

    The history is the one that was known when the query was asked, as it was logged; a query that was answered by less
    than the whole cascade counts as well. weighed: by the inverse of the chance to be shown. NoRequestsError where nothing
    was shown, DataError where a chance is none.
    """
    shown = _inside(prepared, period)
    request = shown["request"].rle_id().to_numpy()
    kept = np.isin(request, sample_rows(np.arange(request[-1] + 1), most))
    shown, request = shown.filter(pl.Series(kept)), np.unique(request[kept], return_inverse=True)[1]
    place = np.arange(len(request)) - np.searchsorted(request, request)
    queries = [Query.from_json(text) for text in shown.filter(pl.Series(place == 0))["query"]]
    grid = _Grid(request, place)
    rows = grid.filled(np.array([items.rows.get(item, PAD) for item in shown[ITEM]]), PAD)

    def part(batch: np.ndarray) -> Arrays:
        answer = asked(retrieve, spec, items, [queries[number] for number in batch])
        return answer | said_of(rows[batch], answer)

    said = in_batches(part, np.arange(len(queries)))
    logged = RankingExamples(
        request={tensor.name: said[tensor.name] for tensor in spec.request_tensors()},
        candidate_rows=rows,
        candidate_scores=said["scores"],
        labels=grid.filled(shown[LABELS].to_numpy(), np.nan),
        positions=grid.filled(shown["position"].to_numpy(), 0),
        weights=inverse_weights(grid.filled(shown["propensity"].to_numpy(), np.nan), rows, "propensity")
        if weighed
        else None,
    )
    return offered(logged, said, prepared.dataset.name)


class _Grid:
    """Where each shown item stands among the requests."""

    def __init__(self, request: np.ndarray, place: np.ndarray) -> None:
        """[I] each, from 0"""
        self.at = request, place
        self.shape = request.max() + 1, place.max() + 1

    def filled(self, values: np.ndarray, otherwise: float) -> np.ndarray:
        """[I, ...] -> [B, C, ...]"""
        grid = np.full((*self.shape, *values.shape[1:]), otherwise, dtype=values.dtype)
        grid[self.at] = values
        return grid


def _inside(prepared: Prepared, period: int) -> pl.DataFrame:
    name, shown, cuts = prepared.dataset.name, prepared.dataset.impressions, prepared.split.cuts
    assert cuts is not None
    if shown is None or not shown.height:
        raise DataError(
            f"{name}: nobody logged what was shown, or nothing that came of it is known yet (data.wait_s); "
            "take data=event_log, or leave ranking.shown out"
        )
    start, end = cuts[period - 1], prepared.split.end(period)
    begun = pl.col(TIMESTAMP).is_between(start, end, closed="left")
    inside = shown.filter(begun & (pl.col("known_at") <= end))
    if not inside.height:
        times = shown[TIMESTAMP].to_numpy()
        raise NoRequestsError(
            f"{name}: nothing was shown and answered in the period {PERIODS[period]}, from {start:.0f} to {end:.0f}, but from "
            f"{times.min():.0f} to {times.max():.0f}; take data.history=false or other shares of protocol"
        )
    return inside
