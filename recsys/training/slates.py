"""Logged slates as examples of the ranker: what was shown at one moment is one request with its candidates.

Where nothing orders the events, some of a user's are asked about and the others are told, as a set.

The request is encoded from all events at once; it equals what `encode_queries` makes of the query that the user would
have sent (tested). Shapes: R rows of the log, B requests, C longest slate, L history, M remembered events.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from recsys.contracts import PAD
from recsys.data.description import did_you_mean
from recsys.errors import DataError
from recsys.features.encode import Arrays, ItemTable, encode_gaps
from recsys.features.spec import FeatureSpec
from recsys.replay.labelled_requests import sample_rows
from recsys.stages import Retrieve
from recsys.training.examples import encode_log, encode_users, event_sequences
from recsys.training.prepare import Prepared
from recsys.training.ranking_examples import NoRequestsError, RankingExamples, asked, in_batches
from recsys.training.shown import Shown

MOST = 10.0
"""times the mean that a row counts at most, however rare it was"""


@dataclass(frozen=True, kw_only=True)
class Slates:
    """Rows of the log that one user met at one moment, or some that one user met at all."""

    rows: np.ndarray
    """[B, C] rows of the log in canonical order, PAD at the end"""

    @property
    def first(self) -> np.ndarray:
        """[B] the row at which each request comes"""
        return self.rows[:, 0]

    @staticmethod
    def of(prepared: Prepared, period: np.ndarray) -> "Slates":
        """Of the rows in `period` [R] bool, ascending by first row; NoRequestsError where there is none."""
        rows = np.flatnonzero(period)
        if not len(rows):
            raise NoRequestsError(f"{prepared.dataset.name}: a period of the split holds no event; give more events")
        return Slates._grouped(rows, prepared.replay.users[rows], prepared.replay.timestamps[rows])

    @staticmethod
    def of_sets(prepared: Prepared, period: np.ndarray, longest: int) -> "Slates":
        """The same of sets: what a user has in `period` in parts of `longest`, whatever their times."""
        rows = np.flatnonzero(period)
        rows = rows[np.argsort(prepared.replay.users[rows], kind="stable")]
        users = prepared.replay.users[rows]
        return Slates._grouped(rows, users, (np.arange(len(rows)) - np.searchsorted(users, users)) // longest)

    @staticmethod
    def _grouped(rows: np.ndarray, users: np.ndarray, parts: np.ndarray) -> "Slates":
        """Rows of one user and one part together, [R] each."""
        order = np.lexsort((rows, parts, users))
        same = (np.diff(users[order]) == 0) & (np.diff(parts[order]) == 0)
        request = np.concatenate([[0], np.cumsum(~same)])
        place = np.arange(len(order)) - np.searchsorted(request, request)
        grouped = np.full((request[-1] + 1, place.max() + 1), PAD, dtype=np.int64)
        grouped[request, place] = rows[order]
        return Slates(rows=grouped[np.argsort(grouped[:, 0])])


def shown_examples(
    retrieve: Retrieve,
    prepared: Prepared,
    spec: FeatureSpec,
    items: ItemTable,
    period: np.ndarray,
    shown: Shown,
    *,
    most: int,
) -> RankingExamples:
    """What was shown in `period` [R] bool, in `most` slates at most, with what retrieval says of it. What retrieval does not
    offer at that moment is left out, since the ranker is never asked about it.
    """
    slates = Slates.of(prepared, period)
    slates = Slates(rows=slates.rows[sample_rows(np.arange(len(slates.rows)), most)])
    logged = logged_examples(prepared, spec, items, slates, position=shown.position, propensity=shown.propensity)

    def part(places: np.ndarray) -> Arrays:
        queries = prepared.replay.queries(slates.first[places], k=1)
        return said_of(logged.candidate_rows[places], asked(retrieve, spec, items, queries))

    return offered(logged, in_batches(part, np.arange(len(logged))), prepared.dataset.name)


def offered(logged: RankingExamples, said: Arrays, name: str) -> RankingExamples:
    """What was shown and retrieval offers, with what it says of it; NoRequestsError where that is nothing.

    said: of `said_of`
    """
    found = said["found"]
    if not found.any():
        raise NoRequestsError(
            f"{name}: retrieval offers nothing of what was shown; "
            "leave ranking.shown out, so that the ranker learns from what is retrieved"
        )
    return replace(
        logged,
        candidate_rows=np.where(found, logged.candidate_rows, PAD),
        candidate_scores=said["scores"],
        labels=np.where(found[..., None], logged.labels, np.float32(np.nan)),
        weights=None if logged.weights is None else np.where(found, logged.weights, np.float32(0)),
    )


def said_of(rows: np.ndarray, answer: Arrays) -> Arrays:
    """found: which of rows [B, K] retrieval offers, [B, K] bool; scores: theirs, [B, K, S], of the first where it does not."""
    offers = answer["candidate_rows"][:, None, :]
    same = (rows[:, :, None] == offers) & (offers != PAD)
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
    told: np.ndarray | None = None,
) -> RankingExamples:
    """position: column of the context that holds places from 0; None where the log has none.

    propensity: column of the context that holds the chance a row had to be shown, by whose inverse it then counts, so that
    the likelihood is that of a policy that shows all alike (Horvitz & Thompson 1952; Schnabel et al. 2016); None counts all
    rows alike.
    told: [R] bool, of sets, the rows that histories hold, none of which is asked about; None where events are ordered:
    all that came before.
    """
    replay, shown = prepared.replay, slates.rows != PAD
    assert told is None or not told[slates.rows[shown]].any()
    labels = np.where(shown[..., None], replay.labels[slates.rows], np.nan)
    return RankingExamples(
        request=_requests(prepared, spec, items, slates.first, told),
        candidate_rows=np.where(shown, replay.items[slates.rows], PAD),
        candidate_scores=np.zeros((*slates.rows.shape, 0), dtype=np.float32),
        labels=labels.astype(np.float32),
        positions=None if position is None else _positions(prepared, slates, position),
        weights=None if propensity is None else _weights(prepared, slates, propensity),
    )


def _requests(
    prepared: Prepared, spec: FeatureSpec, items: ItemTable, first: np.ndarray, told: np.ndarray | None
) -> Arrays:
    """The tensors of `spec.request_tensors()` at rows [B] of the log."""
    replay = prepared.replay
    rows, labels, times = _histories(prepared, spec, first, told)
    now = replay.seconds[first][:, None]
    profile = encode_users(spec, prepared.dataset, replay.names)
    context = encode_log(spec.context, prepared.dataset, replay.seconds)
    return {
        **items.join("history", rows),
        "history_labels": labels,
        "history_gaps": encode_gaps(times, now),
        **{f"profile_{part}": array[replay.users[first]] for part, array in profile.items()},
        **{f"context_{part}": array[first] for part, array in context.items()},
    }


def _histories(
    prepared: Prepared, spec: FeatureSpec, first: np.ndarray, told: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Catalogue rows [B, L], labels [B, L, T] and timestamps [B, L] of the newest events before rows [B] of the log."""
    replay = prepared.replay
    events = event_sequences(replay, np.ones(len(replay.users), dtype=bool) if told is None else told)
    stride = len(replay.users)
    before = first if told is None else stride
    ends = np.searchsorted(events.users * stride + events.rows, replay.users[first] * stride + before)
    places = ends[:, None] + np.arange(-spec.history_length, 0)
    known = places >= events.offsets[replay.users[first]][:, None]
    places = np.where(known, places, 0)
    labels = np.where(known[..., None], events.labels[places], 0).astype(np.float32)
    times = np.where(known, replay.seconds[events.rows[places]], np.nan)
    return np.where(known, events.items[places], PAD), labels, times


def _positions(prepared: Prepared, slates: Slates, column: str) -> np.ndarray:
    """[B, C] int64; DataError where one is no place."""
    shown = slates.rows != PAD
    places = _column(prepared, column).cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()[slates.rows]
    if not (places[shown] >= 0).all():
        raise DataError(f"{prepared.dataset.name}: {column} holds what is no number from 0 on; give places")
    return np.where(shown, places, 0).astype(np.int64)


def _weights(prepared: Prepared, slates: Slates, column: str) -> np.ndarray:
    """[B, C] float32, inverse propensities over their mean, cut at MOST; DataError where one is no chance."""
    chances = _column(prepared, column).cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()[slates.rows]
    return inverse_weights(chances, slates.rows, f"{prepared.dataset.name}: {column}")


def inverse_weights(chances: np.ndarray, rows: np.ndarray, name: str) -> np.ndarray:
    """[B, C] float32 of the chances of `rows`: inverse over their mean, cut at MOST, 0 at PAD; DataError where one is none."""
    shown = rows != PAD
    if not ((chances[shown] > 0) & (chances[shown] <= 1)).all():
        raise DataError(f"{name} holds numbers outside (0, 1]; give the chance to be shown")
    inverse = 1 / np.where(shown, chances, 1)
    inverse /= inverse[shown].mean()
    return np.where(shown, inverse.clip(max=MOST), 0).astype(np.float32)


def _column(prepared: Prepared, name: str) -> pl.Series:
    context = prepared.dataset.description.context
    if name not in context:
        raise DataError(
            f"{prepared.dataset.name}: the context has no column {name!r}{did_you_mean(name, context)}; name one that it has"
        )
    return prepared.dataset.interactions[name]
