"""Training examples of the ranker: requests at moments of the log with the candidates that retrieval returns for them.

Shapes: B requests, C candidates, T objectives, S sources.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.contracts import PAD, Query
from recsys.errors import DataError, check_ranges
from recsys.features.encode import ItemTable, encode_queries
from recsys.features.spec import FeatureSpec
from recsys.progress import Progress, silent
from recsys.replay.labelled_requests import LabelledRequests
from recsys.replay.threads import map_in_threads
from recsys.stages import Retrieve
from recsys.tensors import Arrays
from recsys.training.slate_source import SlateSource


class NoRequestsError(DataError):
    """A period holds no request for the ranker."""


ARRAYS, REQUEST = ("candidate_rows", "candidate_scores", "labels", "positions", "weights", "first"), "request."
"""names of the arrays of examples in a file, and the prefix of those of the request"""
THINNING = 8
"""one in so many of the candidates behind the first ones is a training candidate"""
RETRIEVAL_BATCH = 64
"""requests put through the retrieve stage at once"""


@dataclass(frozen=True, kw_only=True)
class ExampleSampling:
    """Requests and candidates that the ranker learns from (`ranking.sampling`)."""

    requests_per_user: int
    """of a user, at most, in each part of the log as long as the horizon (recsys/replay/labelled_requests.py)"""
    requests: int
    """at most, to learn from"""
    validation_requests: int
    """at most, to stop early and to calibrate by"""
    examples_gib: float
    """memory that the candidates of either may take, at most: fewer requests where they would take more"""
    dense_candidates: int
    """of a request, the first, that all are training candidates; of those behind them one in eight"""
    shown: Mapping[str, str | None] | str | None
    """learn from logged slates in the place of retrieved candidates: the columns of the context, or "impressions" or
    "weighed_impressions", see `SlateSource`; the log then decides the requests of a user and the candidates of a request"""

    def __post_init__(self) -> None:
        check_ranges(
            "ranking.sampling",
            requests_per_user=(self.requests_per_user, 1, 10_000),
            requests=(self.requests, 1, 10**9),
            validation_requests=(self.validation_requests, 1, 10**9),
            examples_gib=(self.examples_gib, 1e-3, 1e6),
            dense_candidates=(self.dense_candidates, 1, 10_000),
        )

    @property
    def logged(self) -> SlateSource | None:
        """Logged slates to learn from, None where `shown` is null."""
        return None if self.shown is None else SlateSource.of(self.shown)

    def affordable(self, total: int, num_scores: int, num_objectives: int) -> int:
        """Return how many requests with `total` candidates each have examples that fit into `examples_gib`, one at least."""
        cell = 4 * (num_scores + num_objectives) + 8
        request = cell * len(training_columns(total, self.dense_candidates))
        return max(1, int(self.examples_gib * 2**30 / request))


@dataclass(frozen=True, kw_only=True)
class RetrievalVersion:
    """Identity of the retrieval that wrote `candidate_scores`: columns of the same names differ between fits."""

    before: str
    """period before which all its training events lie"""
    columns: tuple[str, ...]
    """of the scores, in order"""
    fingerprint: str
    """first 16 hex digits of the sha256 over spec, towers, vectors and sources"""


@dataclass(frozen=True, kw_only=True)
class RankingExamples:
    """Requests with their candidates and labels."""

    request: Arrays
    """tensors of the request, [B, ...]"""
    candidate_rows: np.ndarray
    """[B, C] int64"""
    candidate_scores: np.ndarray
    """[B, C, S'] float32"""
    labels: np.ndarray
    """[B, C, T] float32, NaN where missing"""
    positions: np.ndarray | None = None
    """[B, C] int64 from 0 of logged slates; None for retrieved candidates"""
    weights: np.ndarray | None = None
    """[B, C] float32 of a candidate in the likelihood, about 1; None counts all alike"""
    first: np.ndarray | None = None
    """[B] bool, the first request of its user, as evaluation takes one; None: all requests are alike"""
    retrievals: tuple[RetrievalVersion, ...] = ()
    """that wrote the scores; empty where no retrieval did"""

    def __len__(self) -> int:
        return len(self.candidate_rows)

    def at(self, rows: np.ndarray) -> "RankingExamples":
        """Select requests by row."""
        return RankingExamples(
            request={name: array[rows] for name, array in self.request.items()},
            candidate_rows=self.candidate_rows[rows],
            candidate_scores=self.candidate_scores[rows],
            labels=self.labels[rows],
            positions=None if self.positions is None else self.positions[rows],
            weights=None if self.weights is None else self.weights[rows],
            first=None if self.first is None else self.first[rows],
            retrievals=self.retrievals,
        )

    @staticmethod
    def joined(parts: "Sequence[RankingExamples]") -> "RankingExamples":
        """Concatenate parts that were encoded by one spec; shorter candidate lists are padded."""
        if len(parts) == 1:
            return parts[0]
        longest = max(one.candidate_rows.shape[1] for one in parts)

        def column(name: str, filling: float) -> np.ndarray | None:
            arrays = [getattr(one, name) for one in parts]
            return None if arrays[0] is None else np.concatenate([_widened(one, longest, filling) for one in arrays])

        fillings = {"candidate_rows": PAD, "candidate_scores": 0, "labels": np.nan, "positions": 0, "weights": 0}
        firsts = [one.first for one in parts if one.first is not None]
        return RankingExamples(
            request={name: np.concatenate([one.request[name] for one in parts]) for name in parts[0].request},
            first=np.concatenate(firsts) if len(firsts) == len(parts) else None,
            retrievals=tuple(version for one in parts for version in one.retrievals),
            **{name: column(name, filling) for name, filling in fillings.items()},  # type: ignore[arg-type]
        )

    def to_documents(self) -> tuple[dict[str, Any], Arrays]:
        """Return the arrays by which a file keeps the examples; the versions of the retrieval are not among them."""
        own = {name: getattr(self, name) for name in ARRAYS}
        arrays = {name: array for name, array in own.items() if array is not None}
        return {}, arrays | {f"{REQUEST}{name}": array for name, array in self.request.items()}

    @staticmethod
    def from_documents(_: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "RankingExamples":
        """Build from what `to_documents` returned."""
        request = {name.removeprefix(REQUEST): one for name, one in arrays.items() if name.startswith(REQUEST)}
        own: dict[str, Any] = {name: arrays[name] for name in ARRAYS if name in arrays}
        return RankingExamples(request=request, **own)

    @property
    def judged(self) -> np.ndarray:
        """[B] bool, requests that stand for those of an evaluation: the first ones, where that is known."""
        return np.ones(len(self), dtype=bool) if self.first is None else self.first

    def never_reached(self, objectives: Sequence[str]) -> list[str]:
        """Names of the T objectives that no candidate reached."""
        reached = (self.labels[self.candidate_rows != PAD] > 0).any(axis=0)
        return [name for name, once in zip(objectives, reached, strict=True) if not once]


def _widened(array: np.ndarray, length: int, filling: float) -> np.ndarray:
    """[B, C, ...] -> [B, length, ...]"""
    widths = [(0, 0)] * array.ndim
    widths[1] = (0, length - array.shape[1])
    return np.pad(array, widths, constant_values=filling)


def ranking_examples(
    retrieve: Retrieve,
    spec: FeatureSpec,
    items: ItemTable,
    moments: LabelledRequests,
    *,
    dense: int,
    progress: Progress = silent,
) -> RankingExamples:
    """Retrieve candidates at moments of the log and label them.

    Retrieval must have been fitted on earlier periods only; the requests are encoded by the ranker's own spec.
    dense: as in `training_columns`. Raises NoRequestsError without moments.
    """
    if not len(moments):
        raise NoRequestsError(
            "no request of a period is followed by the whole horizon; give a shorter protocol.horizon_days"
        )
    kept = training_columns(retrieve.sources.total, dense)

    def part(batch: np.ndarray) -> Arrays:
        answer = retrieved_requests(retrieve, spec, items, moments.replay.queries(batch, k=1))
        return answer | {name: answer[name][:, kept] for name in ("candidate_rows", "candidate_scores")}

    arrays = in_batches(part, moments.rows, progress)
    candidates = arrays.pop("candidate_rows")
    return RankingExamples(
        candidate_rows=candidates,
        candidate_scores=arrays.pop("candidate_scores"),
        request=arrays,
        labels=moments.labels(candidates),
        first=moments.first,
    )


def retrieved_requests(retrieve: Retrieve, spec: FeatureSpec, items: ItemTable, queries: Sequence[Query]) -> Arrays:
    """Return tensors of B requests encoded by `spec`, with `candidate_rows` and `candidate_scores`."""
    answer = retrieve({"QUERY": queries})
    request, _ = encode_queries(spec, items, queries)
    return {**request.tensors(), **{name: answer[name] for name in ("candidate_rows", "candidate_scores")}}


def in_batches(part: Callable[[np.ndarray], Arrays], rows: np.ndarray, progress: Progress = silent) -> Arrays:
    """Concatenate part(rows) [B, ...] over batches of RETRIEVAL_BATCH rows, in threads."""
    first = part(rows[:RETRIEVAL_BATCH])
    whole = {name: np.empty((len(rows), *one.shape[1:]), one.dtype) for name, one in first.items()}

    def fill(start: int) -> None:  # in place: examples are the largest arrays of a training and fit into memory once
        for name, one in (part(rows[start : start + RETRIEVAL_BATCH]) if start else first).items():
            whole[name][start : start + RETRIEVAL_BATCH] = one

    map_in_threads(fill, range(0, len(rows), RETRIEVAL_BATCH), progress, f"candidates of {len(rows):,} requests")
    return whole


def training_columns(total: int, dense: int) -> np.ndarray:
    """Columns of the training candidates: of `total` the first `dense` and every THINNING-th of the others.

    Chosen by column and never by label, so that the rates of a column stay as they are.
    """
    columns = np.arange(total)
    return columns[(columns < dense) | ((columns - dense) % THINNING == 0)]


def tensors(examples: RankingExamples) -> dict[str, Tensor]:
    """Return the tensors of examples that `RankingTask` reads."""
    arrays = {
        **examples.request,
        "candidate_rows": examples.candidate_rows,
        "candidate_scores": examples.candidate_scores,
        "labels": examples.labels,
    }
    if examples.positions is not None:
        arrays["candidate_positions"] = examples.positions
    if examples.weights is not None:
        arrays["candidate_weights"] = examples.weights
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
