"""The candidate sources of the retrieve stage: fit, query and merge them, and tune the weights and decays of the merge.

Shapes: B queries, H history, D dim, M events, E excluded items, C candidates, K best of them, S sources.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np

from recsys.candidates.candidate_source import (
    CandidateSource,
    Document,
    SourceConfig,
    SourceQuery,
    SourceScores,
    TrainingInteractions,
)
from recsys.candidates.candidate_union import CandidateUnion, unite
from recsys.candidates.cold_items import ColdItems, ColdPositions
from recsys.candidates.merge import MergedCandidates, merge, top_columns
from recsys.candidates.neighbours import ItemNeighbours
from recsys.candidates.operators import TooManyItemsError
from recsys.candidates.popularity import ItemList
from recsys.candidates.tuned_source import Choice, TunedSource
from recsys.candidates.two_tower_source import TwoTowerSource
from recsys.candidates.weight_search import PeriodSearch, Weights
from recsys.class_paths import class_at
from recsys.contracts import PAD
from recsys.errors import BundleError, ConfigError, check_ranges
from recsys.index import Index
from recsys.kept_positions import KeptPositions
from recsys.progress import Progress, silent, tracked
from recsys.tensors import Arrays

SOURCE_TYPES: dict[str, type[CandidateSource]] = {
    kind.kind: kind for kind in (TwoTowerSource, ItemNeighbours, ItemList, ColdItems)
}
"""sources with a short name in bundles; others are found by their import path"""
TUNING_BATCH = 512
"""queries whose candidate union is built at once while weights are tuned"""
MIN_CANDIDATES, MAX_CANDIDATES, SMALL_CATALOGUE = 200, 500, 2_000
"""candidates of a query for a small and for a large catalogue, and the items of a small one: `candidates_for_catalogue`"""
TUNED_CANDIDATES = 100
"""candidates of a query that the score function of `tune` reads"""
MAX_TUNED = 1_000
"""queries of a period with and without a history, at most each, by which weights are chosen"""
MIN_TUNED = 50
"""queries of a period, at least, with and without a history, for weights of their own"""


class RowBatches(Protocol):
    """[B, L] catalogue rows, padded, sliced by query."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> np.ndarray: ...


ScoreFunction = Callable[[np.ndarray], np.ndarray]
"""catalogue rows [B, K], best first, PAD at the end, K at most TUNED_CANDIDATES -> quality [B], larger is better"""


@dataclass(frozen=True, kw_only=True)
class WeightedSource:
    """One fitted source with its number of candidates and its weight in the merge."""

    name: str
    num: int
    """candidates kept for a query, counted after excluded items are removed"""
    weight: float
    """of its scores in the merge"""
    place_weight: float = 0.0
    """of its places in the merge"""
    new_user_weight: float | None = None
    """of its scores for users without a history; None: as for the others"""
    new_user_place_weight: float | None = None
    source: CandidateSource

    @property
    def of_new_users(self) -> tuple[float, float]:
        """Weights of its scores and of its places for users without a history."""
        score, place = self.new_user_weight, self.new_user_place_weight
        return self.weight if score is None else score, self.place_weight if place is None else place

    @property
    def chosen(self) -> dict[str, float]:
        """Its weights and, where it reads the history, its decay."""
        score, place = self.of_new_users
        weights = {"weight": self.weight, "place_weight": self.place_weight}
        weights |= {"new_user_weight": score, "new_user_place_weight": place}
        return weights if self.source.decay is None else {**weights, "decay": self.source.decay}


@dataclass(frozen=True, kw_only=True)
class MergedSources:
    """All fitted sources, merged into `total` candidates a query."""

    index: Index
    sources: tuple[WeightedSource, ...]
    total: int
    hidden: np.ndarray | None = None
    """[N] bool, rows that may not be recommended to anybody; None where all may"""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.sources)

    @property
    def weights(self) -> Weights:
        """Weights [2 S] of the scores of all sources, then of their places, for users with a history."""
        return (*(one.weight for one in self.sources), *(one.place_weight for one in self.sources))

    @property
    def new_user_weights(self) -> Weights:
        """The same for users without a history."""
        scores, places = zip(*(one.of_new_users for one in self.sources), strict=True)
        return (*scores, *places)

    @property
    def chosen(self) -> dict[str, dict[str, float]]:
        """Source name -> its weights and, where it reads the history, its decay."""
        return {one.name: one.chosen for one in self.sources}

    def search(
        self, vectors: np.ndarray, history: np.ndarray, excluded: np.ndarray, factors: np.ndarray | None = None
    ) -> MergedCandidates:
        """User vectors [B, D], history rows [B, H] newest last, excluded rows [B, E] -> candidates [B, C].

        factors: [B, S] of the weights of the sources
        """
        scores = self._scores(vectors, history)
        weights = np.array([self.new_user_weights, self.weights], dtype=np.float32)[
            known_users(history).astype(np.intp)
        ]
        if factors is not None:
            weights = weights * np.tile(factors, 2)
        return merge(scores, self._union(scores, excluded), weights, self.total, self.cold_positions)

    def unite(self, vectors: np.ndarray, history: np.ndarray, excluded: np.ndarray) -> CandidateUnion:
        """Return the candidates of all sources before the merge cuts them; arguments as in `search`."""
        return self._union(self._scores(vectors, history), excluded)

    def _scores(self, vectors: np.ndarray, history: np.ndarray) -> list[SourceScores]:
        queries = SourceQuery(vectors=vectors, history=history, hidden=self.hidden)
        return [one.source.scores_for(queries) for one in self.sources]

    def _union(self, scores: list[SourceScores], excluded: np.ndarray) -> CandidateUnion:
        return unite(scores, [one.num for one in self.sources], excluded)

    @cached_property
    def cold_positions(self) -> ColdPositions | None:
        """Places that are kept for cold items; None without a source of them."""
        for number, one in enumerate(self.sources):
            if isinstance(one.source, ColdItems):
                positions = KeptPositions(num=one.num, every=one.source.every)
                return ColdPositions(source=number, rows=one.source.rows, positions=positions)
        return None

    def weighted(self, weights: Weights, new_user_weights: Weights | None = None) -> "MergedSources":
        """Return a copy with other weights [2 S]; those of users without a history are the same unless given."""
        num, of_new = len(self.sources), weights if new_user_weights is None else new_user_weights
        parts = zip(self.sources, weights[:num], weights[num:], of_new[:num], of_new[num:], strict=True)
        sources = (
            replace(one, weight=score, place_weight=place, new_user_weight=new_score, new_user_place_weight=new_place)
            for one, score, place, new_score, new_place in parts
        )
        return replace(self, sources=tuple(sources))

    def with_decays(self, decays: Mapping[str, float]) -> "MergedSources":
        """Return a copy with other decays of the sources that are named."""
        sources = (
            replace(one, source=one.source.with_decay(decays[one.name])) if one.name in decays else one
            for one in self.sources
        )
        return replace(self, sources=tuple(sources))

    def with_choices_of(self, other: "MergedSources") -> "MergedSources":
        """Return a copy with the weights and decays of another fit; ConfigError where the two differ in their sources."""
        if lacking := sorted(set(self.names) ^ set(other.names)):
            name = lacking[0]
            raise ConfigError(
                f"candidates.sources.{name} has nothing to read in one of the periods that a ranker learns from and is served "
                f"after; set candidates.sources.{name}=null, or give protocol a longer first period"
            )
        return self.with_choices(other.chosen)

    def with_choices(self, choices: Mapping[str, Mapping[str, float]]) -> "MergedSources":
        """Return a copy with other weights and decays, in the form of `chosen`."""
        return replace(self, sources=tuple(_with_choice(one, choices[one.name]) for one in self.sources))

    def with_new_items(self, index: Index, newest: np.ndarray, hidden: np.ndarray | None) -> "MergedSources":
        """Return a copy over an index to which rows were appended since the training.

        newest: the rows that came since, newest first. hidden: [N] bool as above.
        """
        sources = tuple(replace(one, source=one.source.with_new_items(index, newest)) for one in self.sources)
        return replace(self, index=index, sources=sources, hidden=hidden)

    def select_source(self, name: str) -> "MergedSources":
        """Return a copy with one source alone, which fills all `total` candidates."""
        chosen = (one for one in self.sources if one.name == name)
        alone = tuple(replace(one, num=self.total) for one in chosen)
        return replace(self, sources=alone).weighted((1.0, 0.0))

    def to_documents(self) -> tuple[Document, Arrays]:
        """Return the document and the arrays that a bundle stores beside the index."""
        document: Document = {"total": self.total, "sources": []}
        arrays: Arrays = {}
        for one in self.sources:
            settings, parts = one.source.to_documents()
            entry = {"name": one.name, "kind": one.source.kind, "num": one.num}
            document["sources"].append(entry | one.chosen | settings)
            arrays |= {f"{one.name}.{part}": array for part, array in parts.items()}
        return document, arrays

    @staticmethod
    def from_documents(document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> "MergedSources":
        sources = tuple(_weighted_source(entry, arrays, index) for entry in document["sources"])
        return MergedSources(index=index, sources=sources, total=document["total"])


@dataclass(frozen=True, kw_only=True)
class TuningQueries:
    """Queries [B] by which sources are chosen and merges are tuned."""

    vectors: np.ndarray
    """[B, D] of the user tower"""
    history: RowBatches
    excluded: RowBatches
    score_function: ScoreFunction
    first_places: ScoreFunction
    """the same for the first places alone, where the merge may not be worse than its best source"""

    @property
    def known(self) -> np.ndarray:
        """[B] bool, queries with a history."""
        return np.concatenate([known_users(self.history[batch]) for batch in self._batches])

    @property
    def _batches(self) -> list[slice]:
        return [slice(start, start + TUNING_BATCH) for start in range(0, len(self.history), TUNING_BATCH)]

    def score_alone(self, source: CandidateSource, index: Index) -> float:
        """Return the mean quality of the candidates of one source."""
        weighted = WeightedSource(name="alone", num=TUNED_CANDIDATES, weight=1.0, source=source)
        alone = MergedSources(index=index, sources=(weighted,), total=TUNED_CANDIDATES)
        return float(self.score_function(_top_rows(self.unions(alone), (1.0,), TUNED_CANDIDATES)).mean())

    def unions(self, sources: MergedSources) -> list[CandidateUnion]:
        """Return the candidates of the queries before the merge, TUNING_BATCH queries each."""
        return [
            sources.unite(self.vectors[batch], self.history[batch], self.excluded[batch]) for batch in self._batches
        ]


class CandidateSourcesConfig:
    """Configuration of the retrieve stage's sources: fits them, and tunes their weights and decays."""

    def __init__(self, *, total: int | None, events_per_user: int, sources: Mapping[str, SourceConfig | None]) -> None:
        """
        total: candidates a query after the merge, 1 to 10,000; None grows with the catalogue, and with it the `num` of
            every source, see `candidates_for_catalogue`
        events_per_user: the newest events of a user, at most, for sources that read pairs of events
        sources: by the name that explanations show, in the order in which the ranker reads them; null leaves one out
        """
        check_ranges(
            "candidates",
            total=(MIN_CANDIDATES if total is None else total, 1, 10_000),
            events_per_user=(events_per_user, 1, 10**9),
        )
        self.total, self.events_per_user = total, events_per_user
        self.sources = {name: source for name, source in sources.items() if source is not None}
        if not self.sources:
            raise ConfigError("candidates.sources has no source; give at least one, e.g. two_tower")

    def with_choices(self, choices: Mapping[str, Choice]) -> "CandidateSourcesConfig":
        """Return a copy whose tuned sources are those of their choices."""
        sources = {
            name: source.at(choices[name]) if isinstance(source, TunedSource) and name in choices else source
            for name, source in self.sources.items()
        }
        return CandidateSourcesConfig(total=self.total, events_per_user=self.events_per_user, sources=sources)

    def fit(self, interactions: TrainingInteractions) -> MergedSources:
        """Fit every source on training positives in canonical order; one that finds nothing to read is left out.

        Weights are those of the configuration, decays the first of their grids. ConfigError when no source is left.
        """
        interactions = replace(interactions, events_per_user=self.events_per_user)
        fitted = {name: source.fit(interactions) for name, source in self.sources.items()}
        total = candidates_for_catalogue(interactions.num_items) if self.total is None else self.total
        growth = total / MIN_CANDIDATES if self.total is None else 1.0
        sources = tuple(
            WeightedSource(
                name=name,
                num=round(self.sources[name].num * growth),
                weight=self.sources[name].weight,
                source=source,
            )
            for name, source in fitted.items()
            if source is not None
        )
        if not sources:
            raise ConfigError(
                f"candidates.sources: the data have nothing to read for any of {list(fitted)}; add two_tower"
            )
        return MergedSources(index=interactions.index, sources=sources, total=min(total, interactions.num_items))

    def choose(
        self, interactions: TrainingInteractions, queries: TuningQueries, progress: Progress = silent
    ) -> dict[str, Choice]:
        """Return the choice of each tuned source: the point whose candidates alone score highest, at its best decay.

        Points that do not fit a catalogue of this size are left out; ties go to the first.
        """
        interactions = replace(interactions, events_per_user=self.events_per_user)
        return {
            name: choice
            for name, source in self.sources.items()
            if isinstance(source, TunedSource)
            and (choice := _best_point(source, interactions, queries, progress, f"parameters of {name}")) is not None
        }

    def tune(
        self, periods: Sequence[tuple[MergedSources, TuningQueries]], progress: Progress = silent
    ) -> MergedSources:
        """Return the sources of the first period with the decays and weights of highest mean score over all periods.

        periods: for each its queries and the sources that were fitted before it.

        The decay of a source is chosen by its candidates alone. The weights are searched from those of the configuration,
        from equal ones, and from the best source alone, so that the merge is hardly worse than any of its sources; of equals
        the first are taken. The towers never weigh nothing: items that come after the training are found by them. What is
        chosen has to hold on queries that did not choose it, see `PeriodSearch`. Users without a history, to whom most
        sources have nothing to say, get weights of their own where each period has MIN_TUNED of either kind.
        """
        first = periods[0][0]
        names = tracked(first.names, len(first.names), progress, "decays of the candidate sources")
        decays = {name: self._best_decay(name, periods) for name in names if len(self.sources[name].decays) > 1}
        faded, known = first.with_decays(decays), [queries.known for _, queries in periods]
        merges = [
            _TunedMerge(
                unions=queries.unions(sources.with_decays(decays)),
                score_function=queries.score_function,
                first_places=queries.first_places,
                scored=np.ones_like(one),
            )
            for (sources, queries), one in zip(periods, known, strict=True)
        ]
        text = "weights of the candidate sources"
        if any(min(one.sum(), (~one).sum()) < MIN_TUNED for one in known):
            return faded.weighted(_searched([one.of(one.scored) for one in merges], first, progress, text))
        pairs = list(zip(merges, known, strict=True))
        return faded.weighted(
            _searched([merge.of(one) for merge, one in pairs], first, progress, text),
            _searched([merge.of(~one) for merge, one in pairs], first, progress, f"{text}, new users"),
        )

    def _best_decay(self, name: str, periods: Sequence[tuple[MergedSources, TuningQueries]]) -> float:
        """Return the decay of the grid with which the candidates of a source alone score highest."""
        own = [
            (next(part.source for part in sources.sources if part.name == name), queries, sources.index)
            for sources, queries in periods
        ]
        return max(
            self.sources[name].decays,
            key=lambda decay: np.mean(
                [queries.score_alone(one.with_decay(decay), index) for one, queries, index in own]
            ),
        )


def _best_point(
    source: TunedSource,
    interactions: TrainingInteractions,
    queries: TuningQueries,
    progress: Progress,
    name: str,
) -> Choice | None:
    """Return the best point of a grid, None where no point finds anything to read."""
    best, highest = None, -np.inf
    for point in tracked(source.points, len(source.points), progress, name):
        config = source.at(point)
        try:
            fitted = config.fit(interactions)
        except TooManyItemsError:
            continue
        if fitted is None:
            continue
        decayed = [fitted.with_decay(decay) for decay in config.decays] or [fitted]
        if (reached := max(queries.score_alone(one, interactions.index) for one in decayed)) > highest:
            best, highest = point, reached
    return best


def candidates_for_catalogue(num_items: int) -> int:
    """MIN_CANDIDATES up to SMALL_CATALOGUE items, beyond with the square root of their number, at most MAX_CANDIDATES."""
    growth = math.sqrt(max(num_items, SMALL_CATALOGUE) / SMALL_CATALOGUE)
    return min(MAX_CANDIDATES, round(MIN_CANDIDATES * growth))


@dataclass(frozen=True, kw_only=True)
class _TunedMerge:
    """Candidates of some queries of a period, before the merge, and how their order is scored."""

    unions: list[CandidateUnion]
    score_function: ScoreFunction
    first_places: ScoreFunction
    scored: np.ndarray
    """[B] bool, queries of the period that the unions are of"""

    def of(self, scored: np.ndarray) -> "_TunedMerge":
        """Return the part of some queries [B] bool, MAX_TUNED of them at most, from a merge of all."""
        drawn = np.random.default_rng(0).permutation(np.flatnonzero(scored))[:MAX_TUNED]
        scored = np.bincount(drawn, minlength=len(scored)) > 0
        bounds = np.cumsum([0, *(len(one.rows) for one in self.unions)])
        parts = [
            one.select(scored[start:stop]) for one, start, stop in zip(self.unions, bounds, bounds[1:], strict=False)
        ]
        return replace(self, unions=parts, scored=scored)

    def score(self, weights: Weights, *, total: int, score_function: ScoreFunction) -> np.ndarray:
        """Return the quality of the first `total` candidates of each query."""
        rows = np.full((len(self.scored), total), PAD, dtype=np.int64)
        rows[self.scored] = _top_rows(self.unions, weights, total)
        return score_function(rows)[self.scored]


def _searched(merges: Sequence[_TunedMerge], sources: MergedSources, progress: Progress, text: str) -> Weights:
    """Return the weights [2 S] that suit the merges of all periods."""
    own, total = sources.sources, min(TUNED_CANDIDATES, sources.total)
    search = PeriodSearch(
        objectives=[partial(one.score, total=total, score_function=one.score_function) for one in merges],
        first_places=[partial(one.score, total=total, score_function=one.first_places) for one in merges],
        starts=[sources.weights, (1.0,) * len(sources.weights)],
        kept=[number for number, one in enumerate(own) if isinstance(one.source, TwoTowerSource)],
        lists=[number for number, one in enumerate(own * 2) if isinstance(one.source, ItemList)],
        places=[len(own) + number % len(own) for number in range(2 * len(own))],
    )
    return search.best(lambda starts: tracked(starts, len(starts), progress, text))


def _top_rows(unions: list[CandidateUnion], weights: Weights, total: int) -> np.ndarray:
    """[B, total] catalogue rows, best first, PAD at the end."""
    parts = []
    for union in unions:
        columns = top_columns(union.merged(np.array(weights, dtype=np.float32)), total)
        rows = np.full((len(columns), total), PAD, dtype=np.int64)
        found = np.take_along_axis(union.rows, np.maximum(columns, 0), axis=1) if columns.size else columns
        rows[:, : columns.shape[1]] = np.where(columns == PAD, PAD, found)
        parts.append(rows)
    return np.concatenate(parts)


def known_users(history: np.ndarray) -> np.ndarray:
    """Return for histories [B, H] which have an event, [B] bool."""
    return np.asarray((history != PAD).any(axis=1))


def _with_choice(weighted: WeightedSource, choice: Mapping[str, float]) -> WeightedSource:
    source = weighted.source
    if source.decay is not None and "decay" in choice:
        source = source.with_decay(choice["decay"])
    return replace(weighted, source=source, **_weights_in(choice))


def _weights_in(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights of a choice or of a document; older ones have no weights of places and of new users."""
    weights = {"weight": entry["weight"], "place_weight": entry.get("place_weight", 0.0)}
    return weights | {name: entry.get(name) for name in ("new_user_weight", "new_user_place_weight")}


def _weighted_source(entry: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> WeightedSource:
    prefix = f"{entry['name']}."
    own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    source = source_type(entry["kind"]).from_documents(entry, own, index)
    return WeightedSource(name=entry["name"], num=entry["num"], source=source, **_weights_in(entry))


def source_type(kind: str) -> type[CandidateSource]:
    """Return the class of a source that a bundle names; BundleError where it is not installed, or is no source."""
    if kind in SOURCE_TYPES:
        return SOURCE_TYPES[kind]
    try:
        return class_at(kind, CandidateSource)
    except ImportError:
        raise BundleError(
            f"the bundle has candidates of {kind!r}, which cannot be imported here; install the package that defines it"
        ) from None
    except TypeError:
        raise BundleError(
            f"the bundle has candidates of {kind!r}, which is no CandidateSource; train it again"
        ) from None
