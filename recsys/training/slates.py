"""Logged slates as examples of the ranker: the items of one user and one moment are one request with its candidates.

Where nothing orders the events, a user's events are divided into candidates and a history, as a set.

Requests are encoded from the whole log at once; they equal `encode_queries` of the query that the user would have sent
(tested). Shapes: R rows of the log, B requests, C longest slate, L history.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from recsys.contracts import PAD
from recsys.data.description import did_you_mean
from recsys.errors import DataError
from recsys.features.batches import RequestBatch
from recsys.features.encode import ItemTable
from recsys.features.history import EventSequences
from recsys.features.spec import FeatureSpec
from recsys.replay.labelled_requests import sample_rows
from recsys.stages import Retrieve
from recsys.tensors import Arrays
from recsys.training.examples import encode_log, encode_users, event_sequences
from recsys.training.prepare import Prepared
from recsys.training.ranking_examples import NoRequestsError, RankingExamples, in_batches, retrieved_requests
from recsys.training.slate_source import SlateSource

MAX_WEIGHT = 10.0
"""of a row, in multiples of the mean"""


@dataclass(frozen=True, kw_only=True)
class Slates:
    """Rows of the log grouped into slates: of one user and one moment, or parts of a user's set."""

    rows: np.ndarray
    """[B, C] rows of the log in canonical order, PAD at the end"""

    @property
    def first(self) -> np.ndarray:
        """Row of each request, [B]."""
        return self.rows[:, 0]

    @staticmethod
    def of(prepared: Prepared, period: np.ndarray) -> "Slates":
        """Group the rows in `period` [R] bool, ascending by first row; raise NoRequestsError where there is none."""
        rows = np.flatnonzero(period)
        if not len(rows):
            raise NoRequestsError(f"{prepared.dataset.name}: a period of the split holds no event; give more events")
        return Slates._grouped(rows, prepared.replay.users[rows], prepared.replay.timestamps[rows])

    @staticmethod
    def of_sets(prepared: Prepared, period: np.ndarray, longest: int) -> "Slates":
        """Group sets: a user's rows in `period` in parts of `longest`, independent of their times."""
        rows = np.flatnonzero(period)
        rows = rows[np.argsort(prepared.replay.users[rows], kind="stable")]
        users = prepared.replay.users[rows]
        return Slates._grouped(rows, users, (np.arange(len(rows)) - np.searchsorted(users, users)) // longest)

    @staticmethod
    def _grouped(rows: np.ndarray, users: np.ndarray, parts: np.ndarray) -> "Slates":
        """Group rows of one user and one part, [R] each."""
        order = np.lexsort((rows, parts, users))
        same = (np.diff(users[order]) == 0) & (np.diff(parts[order]) == 0)
        request = np.concatenate([[0], np.cumsum(~same)])
        column = np.arange(len(order)) - np.searchsorted(request, request)
        grouped = np.full((request[-1] + 1, column.max() + 1), PAD, dtype=np.int64)
        grouped[request, column] = rows[order]
        return Slates(rows=grouped[np.argsort(grouped[:, 0])])


def shown_examples(
    retrieve: Retrieve,
    prepared: Prepared,
    spec: FeatureSpec,
    items: ItemTable,
    period: np.ndarray,
    shown: SlateSource,
    *,
    most: int,
) -> RankingExamples:
    """Examples of at most `most` slates in `period` [R] bool, with retrieval scores. Items that retrieval does not return at
    that moment are left out, since the ranker never scores them.
    """
    slates = Slates.of(prepared, period)
    slates = Slates(rows=slates.rows[sample_rows(np.arange(len(slates.rows)), most)])
    logged = logged_examples(prepared, spec, items, slates, position=shown.position, propensity=shown.propensity)

    def part(rows: np.ndarray) -> Arrays:
        queries = prepared.replay.queries(slates.first[rows], k=1)
        return retrieval_scores(logged.candidate_rows[rows], retrieved_requests(retrieve, spec, items, queries))

    return only_retrieved(logged, in_batches(part, np.arange(len(logged))), prepared.dataset.name)


def only_retrieved(logged: RankingExamples, scored: Arrays, name: str) -> RankingExamples:
    """Keep the candidates that retrieval returns too, with its scores; raise NoRequestsError where there is none.

    scored: of `retrieval_scores`
    """
    found = scored["found"]
    if not found.any():
        raise NoRequestsError(
            f"{name}: retrieval returns none of the shown items; "
            "leave ranking.sampling.shown out, so that the ranker learns from what is retrieved"
        )
    return replace(
        logged,
        candidate_rows=np.where(found, logged.candidate_rows, PAD),
        candidate_scores=scored["scores"],
        labels=np.where(found[..., None], logged.labels, np.float32(np.nan)),
        weights=None if logged.weights is None else np.where(found, logged.weights, np.float32(0)),
    )


def retrieval_scores(rows: np.ndarray, answer: Arrays) -> Arrays:
    """Look up rows [B, K] among the candidates of an answer of retrieval.

    found: [B, K] bool; scores: [B, K, S], those of the first candidate where a row is not found
    """
    candidates = answer["candidate_rows"][:, None, :]
    same = (rows[:, :, None] == candidates) & (candidates != PAD)
    scores = np.take_along_axis(answer["candidate_scores"], same.argmax(axis=2)[..., None], axis=1)
    return {"found": same.any(axis=2), "scores": scores}


def logged_examples(
    prepared: Prepared,
    spec: FeatureSpec,
    items: ItemTable,
    slates: Slates,
    *,
    position: str | None,
    propensity: str | None = None,
    history_rows: np.ndarray | None = None,
) -> RankingExamples:
    """Examples of slates without retrieval scores.

    position: column of the context that holds positions from 0; None where the log has none.
    propensity: column of the context with the probability that a row was shown, by whose inverse it is weighted, so that
    the likelihood is that of a policy that shows all alike (Horvitz & Thompson 1952; Schnabel et al. 2016); None weights
    all rows alike.
    history_rows: [R] bool, of sets, the rows that make up the histories, none of which is a candidate; None where events
    are ordered: all earlier ones.
    """
    replay, shown = prepared.replay, slates.rows != PAD
    assert history_rows is None or not history_rows[slates.rows[shown]].any()
    labels = np.where(shown[..., None], replay.labels[slates.rows], np.nan)
    return RankingExamples(
        request=_requests(prepared, spec, items, slates.first, history_rows),
        candidate_rows=np.where(shown, replay.items[slates.rows], PAD),
        candidate_scores=np.zeros((*slates.rows.shape, 0), dtype=np.float32),
        labels=labels.astype(np.float32),
        positions=None if position is None else _positions(prepared, slates, position),
        weights=None if propensity is None else _weights(prepared, slates, propensity),
    )


def _requests(
    prepared: Prepared, spec: FeatureSpec, items: ItemTable, first: np.ndarray, history_rows: np.ndarray | None
) -> Arrays:
    """The tensors of a `RequestBatch` at rows [B] of the log."""
    replay = prepared.replay
    events, newest = _histories(prepared, first, history_rows, spec.history_length)
    profile = encode_users(spec, prepared.dataset, replay.names)
    context = encode_log(spec.context, prepared.dataset, replay.seconds)
    return RequestBatch(
        history=items.at(events.items_at(newest)),
        labels=events.labels_at(newest),
        gaps=events.gaps_at(newest, replay.seconds[first]),
        profile={part: array[replay.users[first]] for part, array in profile.items()},
        context={part: array[first] for part, array in context.items()},
    ).tensors()


def _histories(
    prepared: Prepared, first: np.ndarray, history_rows: np.ndarray | None, length: int
) -> tuple[EventSequences, np.ndarray]:
    """Sequences of the log, and the indices [B, L] of the newest events before rows [B] of the log."""
    replay = prepared.replay
    events = event_sequences(replay, np.ones(len(replay.users), dtype=bool) if history_rows is None else history_rows)
    stride, users = len(replay.users), replay.users[first]
    before = first if history_rows is None else stride
    ends = np.searchsorted(events.users * stride + events.rows, users * stride + before)
    return events, events.before(ends, users, length)


def _positions(prepared: Prepared, slates: Slates, column: str) -> np.ndarray:
    """Positions [B, C] int64; DataError for a negative one or no number."""
    shown = slates.rows != PAD
    positions = _column(prepared, column).cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()[slates.rows]
    if not (positions[shown] >= 0).all():
        raise DataError(f"{prepared.dataset.name}: {column} holds values that are no numbers from 0 on; give positions")
    return np.where(shown, positions, 0).astype(np.int64)


def _weights(prepared: Prepared, slates: Slates, column: str) -> np.ndarray:
    """Inverse propensities over their mean, clipped at MAX_WEIGHT, [B, C] float32; DataError outside (0, 1]."""
    propensities = _column(prepared, column).cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()[slates.rows]
    return inverse_weights(propensities, slates.rows, f"{prepared.dataset.name}: {column}")


def inverse_weights(propensities: np.ndarray, rows: np.ndarray, name: str) -> np.ndarray:
    """Inverse of the propensities of `rows` over their mean, clipped at MAX_WEIGHT, 0 at PAD, [B, C] float32; DataError
    for one outside (0, 1].
    """
    shown = rows != PAD
    if not ((propensities[shown] > 0) & (propensities[shown] <= 1)).all():
        raise DataError(f"{name} holds numbers outside (0, 1]; give the chance to be shown")
    inverse = 1 / np.where(shown, propensities, 1)
    inverse /= inverse[shown].mean()
    return np.where(shown, inverse.clip(max=MAX_WEIGHT), 0).astype(np.float32)


def _column(prepared: Prepared, name: str) -> pl.Series:
    context = prepared.dataset.description.context
    if name not in context:
        raise DataError(
            f"{prepared.dataset.name}: the context has no column {name!r}{did_you_mean(name, context)}; name one that it has"
        )
    return prepared.dataset.interactions[name]
