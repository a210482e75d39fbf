"""The three stages: what the Triton models and the in-process pipeline both run.

Each stage declares the tensors it reads and adds; `export` generates every Triton configuration from these lists.

Shapes: B queries, L history, C candidates, S sources, T objectives, E excluded items.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from recsys.candidates.score_layout import ScoreLayout
from recsys.candidates.sources import MergedSources
from recsys.contracts import FUTURE_S, PAD, RANKED, RETRIEVED, CandidateBatch, Flags, Query, Slate
from recsys.errors import QueryError
from recsys.features.batches import CandidateFeatures, RequestBatch
from recsys.features.encode import ItemTable, encode_queries, missing_columns
from recsys.features.spec import FeatureSpec
from recsys.policy.compose import CompiledPolicy
from recsys.policy.excluded_items import HiddenItems, excluded_rows
from recsys.policy.overrides import SOURCES, source_factors
from recsys.policy.repeat import SeenFilter
from recsys.stages.release import DRAFT, RANKED_RELEASE, RELEASE, check_release, release_tensor
from recsys.tensors import VARIABLE, Arrays, TensorBatch, TensorSpec, tensor

QUERY = TensorSpec(name="QUERY", dtype="bytes", shape=(1,))
LATEST = 1e11
"""unix seconds of the year 5138: a larger number is milliseconds or finer"""

UNKNOWN_ROWS = "items:ahead"
"""retrieval offered items that came so lately that the rules do not know them; they are left out"""

Tensors = Mapping[str, Any]
Offered = tuple[Sequence[Query], CandidateBatch]
UserTower = Callable[[Arrays], np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlateTensors(TensorBatch):
    """Answers of the server: whole slates as JSON, and their items as arrays for callers that read nothing else."""

    slates: np.ndarray = field(metadata=tensor("SLATE", "bytes", 1))
    items: np.ndarray = field(metadata=tensor("ITEMS", "bytes", VARIABLE))
    utilities: np.ndarray = field(metadata=tensor("UTILITIES", "float32", VARIABLE))


(SLATE,) = SlateTensors.specs({}, ("slates",))


def check_times(queries: Sequence[Query]) -> None:
    """QueryError for milliseconds, and for an event later than its query by more than clocks differ.

    It would be the newest of its user for good. Not by the clock of this machine: a logged request is asked again at its own
    time.
    """
    for query in queries:
        if query.now > LATEST:
            raise QueryError(f"query.now is {query.now:.0f}, which looks like milliseconds; send unix seconds")
        for index, event in enumerate(query.history):
            if event.timestamp > query.now + FUTURE_S:
                raise QueryError(
                    f"query.history[{index}].timestamp is {event.timestamp:.0f}, more than a day after query.now, "
                    f"{query.now:.0f}; send unix seconds of what has happened"
                )


@dataclass(frozen=True, kw_only=True)
class Retrieve:
    """Encode the query, search every source, merge, join the features of the candidates."""

    spec: FeatureSpec
    items: ItemTable
    user_tower: UserTower
    """request tensors -> [B, D]"""
    sources: MergedSources
    ranked: bool
    """whether a ranker follows, which reads the request and the features of its candidates"""
    seen: SeenFilter
    """items that histories bar"""
    hiding: HiddenItems
    """items that queries do not want to see"""
    release: str = DRAFT
    """fingerprint of the bundle"""
    name: str = "retrieve"
    optional_inputs: tuple[TensorSpec, ...] = ()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (QUERY,)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        num_sources = len(self.sources.names)
        candidates = CandidateBatch.specs({"sources": num_sources}, RETRIEVED)
        return (*(ranker_inputs(self.spec, num_sources) if self.ranked else ()), *candidates, RELEASE)

    def __call__(self, tensors: Tensors) -> Arrays:
        queries: Sequence[Query] = tensors["QUERY"]
        if self.spec.clock:
            check_times(queries)
        request, history = encode_queries(self.spec, self.items, queries)
        named, excluded = request.tensors(), self._excluded(queries)
        merged = self.sources.search(self.user_tower(named), history, excluded, self._factors(queries))
        candidates = CandidateBatch(
            rows=merged.rows,
            scores=merged.scores,
            source_scores=merged.source_scores,
            degraded=self._degraded(queries, request, history, self.sources.index.degraded),
        )
        answer = {**candidates.tensors(), RELEASE.name: release_tensor(self.release, len(queries))}
        if not self.ranked:
            return answer
        layout = ScoreLayout(tuple(self.sources.names))
        features = CandidateFeatures(items=self.items.at(merged.rows), scores=layout.features(merged))
        return {**named, **features.tensors(), **answer}

    def user_vectors(self, queries: Sequence[Query]) -> np.ndarray:
        """Vectors [B, D] of the user tower."""
        request, _ = encode_queries(self.spec, self.items, queries)
        return self.user_tower(request.tensors())

    def only(self, source: str) -> "Retrieve":
        """The same stage with one of its sources alone, for no ranker."""
        return replace(self, sources=self.sources.select_source(source), ranked=False)

    def _factors(self, queries: Sequence[Query]) -> np.ndarray | None:
        """[B, S] float32 factors of the weights of the sources by arms; None where no query has any."""
        if not any(SOURCES in query.policy for query in queries):
            return None
        return np.array([source_factors(query.policy, self.sources.names) for query in queries], dtype=np.float32)

    def _excluded(self, queries: Sequence[Query]) -> np.ndarray:
        """[B, E] rows that the history bars or the query excludes or hides, PAD at the end."""
        listed = excluded_rows(queries, self.items.rows, self.seen, self.hiding)
        excluded = np.full((len(queries), max(map(len, listed), default=0)), PAD, dtype=np.int64)
        for place, rows in enumerate(listed):
            excluded[place, : len(rows)] = rows
        return excluded

    def _degraded(
        self, queries: Sequence[Query], request: RequestBatch, history: np.ndarray, of_index: Sequence[str]
    ) -> Flags:
        """Parts of each query that were missing, unknown or of the wrong kind, and the flags of the index."""
        flags = [self._history_flags(query, rows) + [*of_index] for query, rows in zip(queries, history, strict=True)]
        for table, encoded in ((self.spec.profile, request.profile), (self.spec.context, request.context)):
            for row, columns in enumerate(missing_columns(table, encoded, len(queries))):
                flags[row] += [f"{table.name}:{column}" for column in columns]
        return tuple(map(tuple, flags))

    def _history_flags(self, query: Query, rows: np.ndarray) -> list[str]:
        if (rows != PAD).any():
            return []
        if not query.history:
            return ["history:empty"]
        known = any(event.item in self.items.rows for event in query.history)
        return ["history:no-objective" if known else "history:unknown"]


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One calibrated probability an objective for each candidate, and how sure the ranker is of it."""

    features: tuple[TensorSpec, ...]
    """tensors that the model reads"""
    num_objectives: int
    model: Callable[[Arrays], Arrays]
    uncertain: bool
    """whether the model gives deviations, as it does where the policy of its bundle wants them: they take a sixth of its
    time. Without them, also in an older bundle, Thompson sampling does not explore and says so.
    """
    release: str = DRAFT
    """fingerprint of the bundle"""
    name: str = "rank"
    optional_inputs: tuple[TensorSpec, ...] = ()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (*self.features, RELEASE)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        sizes = {"objectives": self.num_objectives}
        return (*CandidateBatch.specs(sizes, RANKED[: 1 + self.uncertain]), RANKED_RELEASE)

    def __call__(self, tensors: Tensors) -> Arrays:
        check_release(self.name, self.release, tensors)
        found = self.model({tensor.name: tensors[tensor.name] for tensor in self.features})
        return {**found, RANKED_RELEASE.name: tensors[RELEASE.name]}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Value, filters, diversity and explanations: candidates -> slates. Works without probabilities."""

    policy: CompiledPolicy
    num_sources: int
    num_objectives: int
    name: str = "rules"
    lost: None = None
    """rules that do not change are never lost"""

    @property
    def release(self) -> str:
        """Fingerprint of the bundle."""
        return self.policy.bundle

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (QUERY, *CandidateBatch.specs({"sources": self.num_sources}, RETRIEVED), RELEASE)

    @property
    def optional_inputs(self) -> tuple[TensorSpec, ...]:
        """Absent when the ranker is left out."""
        return (*CandidateBatch.specs({"objectives": self.num_objectives}, RANKED), RANKED_RELEASE)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return SlateTensors.specs({})

    def __call__(self, tensors: Tensors) -> dict[str, list[Slate]]:
        return {"SLATE": self.policy.compose(*self.offered(tensors))}

    def rows(self, tensors: Tensors) -> np.ndarray:
        """The items of the same slates without their explanations, [B, K] catalogue rows, PAD behind the last."""
        return self.policy.rows(*self.offered(tensors))

    def offered(self, tensors: Tensors) -> Offered:
        """Queries and their candidates, as the policy wants them; ReleaseError for tensors of another bundle."""
        check_release(self.name, self.release, tensors)
        return tensors["QUERY"], known(CandidateBatch.of(tensors), len(self.policy.items))


def ranker_inputs(spec: FeatureSpec, num_sources: int) -> tuple[TensorSpec, ...]:
    """All that the ranker reads, in the order of its graph."""
    sizes = {**spec.sizes, "scores": ScoreLayout.unnamed(num_sources).width}
    return (*RequestBatch.specs(sizes), *CandidateFeatures.specs(sizes))


def known(candidates: CandidateBatch, num_items: int) -> CandidateBatch:
    """The same without rows of items that came later than the rules know, which `degraded` then says."""
    ahead = candidates.rows >= num_items
    if not ahead.any():
        return candidates
    flags = zip(candidates.degraded, ahead.any(axis=1), strict=True)
    return replace(
        candidates,
        rows=np.where(ahead, PAD, candidates.rows),
        scores=np.where(ahead, np.float32(-np.inf), candidates.scores),
        degraded=tuple((*degraded, UNKNOWN_ROWS) if left_out else degraded for degraded, left_out in flags),
    )
