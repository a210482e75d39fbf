"""Training of the whole cascade, each stage on what was known before its own labels.

asked in VALIDATION   towers and sources fitted on what is known then; epochs, weights and decays are chosen here
asked in RANK         the same on what is known then -> candidates for the requests that the ranker learns from;
                      early stopping and calibration of the ranker on VALIDATION, with the candidates of the line above
asked in TEST         the same with the epochs and weights as chosen, on all that is known then: what is served
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning.loggers import Logger

from recsys.candidates.merge import score_columns
from recsys.candidates.sources import CandidateSources, Sources
from recsys.data.splits import PERIODS, RANK, TEST, VALIDATION
from recsys.evaluation.moments import Moments
from recsys.evaluation.questions import Questions
from recsys.features.encode import Arrays, ItemTable, without_padding
from recsys.features.spec import FeatureSpec
from recsys.index import Index
from recsys.index.ann import IndexBuilder
from recsys.ranking.funnel import told
from recsys.retrieval.two_tower import TowerEnsemble
from recsys.stages import Retrieve
from recsys.training.impressions import impression_examples
from recsys.training.loop import Loop
from recsys.training.prepare import Prepared
from recsys.training.ranking import RankingTraining, TrainedRanker
from recsys.training.ranking_examples import RankingExamples, RetrievalVersion, ranking_examples
from recsys.training.retrieval import RetrievalExamples, RetrievalTraining
from recsys.training.slates import shown_examples
from recsys.training.watched import Watched

Say = Callable[[str], None]

WATCHED = 2_000
"""validation users, at most, on whom the towers are measured after every epoch"""


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """The configured parts of the cascade."""

    retrieval: RetrievalTraining
    candidates: CandidateSources
    index: IndexBuilder
    ranking: RankingTraining | None
    """None: candidates are served in the order of retrieval"""
    loop: Loop


@dataclass(frozen=True, kw_only=True)
class TrainedRetrieval:
    """The first stage, fitted on what is known when one period begins."""

    retrieve: Retrieve
    period: int
    known: np.ndarray
    """[R] bool, rows of the log that it was fitted on"""
    towers: TowerEnsemble
    item_vectors: np.ndarray
    """[N, D] float32"""
    index_recall: float
    epochs: int

    @cached_property
    def version(self) -> RetrievalVersion:
        """The columns that it adds to examples, and which fit wrote them."""
        spec, sources = self.retrieve.spec, self.retrieve.sources
        document, arrays = sources.to_documents()
        weights = {name: tensor.numpy() for name, tensor in self.towers.state_dict().items()}
        digest = hashlib.sha256(json.dumps([spec.fingerprint, document]).encode())
        for parts in (weights, {"item_vectors": self.item_vectors}, arrays):
            for name, array in sorted(parts.items()):
                digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        return RetrievalVersion(
            before=PERIODS[self.period], columns=score_columns(sources.names), fingerprint=digest.hexdigest()[:16]
        )


@dataclass(frozen=True, kw_only=True)
class TrainedCascade:
    """Everything a bundle is made of, in memory."""

    retrieval: TrainedRetrieval
    ranking: TrainedRanker | None

    @property
    def spec(self) -> FeatureSpec:
        return self.retrieval.retrieve.spec


@dataclass(frozen=True, kw_only=True)
class Run:
    """One cascade to train: on which split, from which seed, and where its checkpoints go."""

    prepared: Prepared
    validation: Questions
    knobs: Knobs
    folder: Path
    seed: int
    loggers: list[Logger]
    say: Say

    def cascade(self) -> TrainedCascade:
        """Train all stages; an interrupted call goes on from its checkpoints."""
        if self.knobs.ranking is not None:
            self._check(self.knobs.ranking)
        self.say("towers that are asked in the validation period: epochs and weights are chosen")
        chosen = self._choose(self._retrieval(VALIDATION, epochs=None))
        self.say(f"chosen: {chosen.epochs} epochs, {chosen.retrieve.sources.chosen}")
        served = self._served(chosen)
        ranking = None if self.knobs.ranking is None else self._ranking(self.knobs.ranking, chosen, served.retrieve)
        return TrainedCascade(retrieval=served, ranking=ranking)

    def _check(self, ranking: RankingTraining) -> None:
        """ConfigError for a ranker that could not be trained on this, before the towers are."""
        ranking.check(self.prepared.dataset.description.objectives, self.knobs.loop)
        if (logged := ranking.logged) is not None:
            logged.check(self.prepared.features, self.prepared.split)

    def _served(self, chosen: TrainedRetrieval) -> TrainedRetrieval:
        split = self.prepared.split
        if np.array_equal(split.known(TEST), split.known(VALIDATION)):
            return chosen
        self.say("towers that are served, on all that is known before the test")
        return self._as_chosen(TEST, chosen)

    def _as_chosen(self, period: int, chosen: TrainedRetrieval) -> TrainedRetrieval:
        fitted = self._retrieval(period, epochs=chosen.epochs)
        sources = fitted.retrieve.sources.with_choices_of(chosen.retrieve.sources)
        return replace(fitted, retrieve=replace(fitted.retrieve, sources=sources))

    def _retrieval(self, period: int, *, epochs: int | None) -> TrainedRetrieval:
        """Towers, index and sources that are asked in a period; they are watched when `epochs` is not known."""
        known = self.prepared.split.known(period)
        spec, items = self.prepared.spec(known)
        towers, vectors, trained = self.knobs.retrieval.fit(
            spec,
            items,
            RetrievalExamples.of(self.prepared, spec, known),
            Watched.of(self.validation.sample(WATCHED, seed=0), spec, items) if epochs is None else None,
            loop=self.knobs.loop,
            folder=self.folder / f"towers_{PERIODS[period].lower()}",
            epochs=epochs,
            seed=self.seed,
            loggers=self.loggers,
        )
        index, recall = self.knobs.index.build(vectors)
        sources = self._sources(spec, items, known, index)
        return TrainedRetrieval(
            retrieve=Retrieve(
                spec=spec, items=items, user_tower=eager_user_tower(towers), sources=sources, ranked=True
            ),
            period=period,
            known=known,
            towers=towers,
            item_vectors=vectors,
            index_recall=recall,
            epochs=trained,
        )

    def _sources(self, spec: FeatureSpec, items: ItemTable, known: np.ndarray, index: Index) -> Sources:
        replay = self.prepared.replay
        learnt = np.flatnonzero(known & replay.positives)
        return self.knobs.candidates.fit(
            users=replay.users[learnt],
            items=replay.items[learnt],
            timestamps=replay.seconds[learnt],
            items_table=items,
            spec=spec,
            index=index,
            ordered=self.prepared.dataset.description.order != "none",
        )

    def _choose(self, fitted: TrainedRetrieval) -> TrainedRetrieval:
        retrieve = fitted.retrieve
        watched = Watched.of(self.validation, retrieve.spec, retrieve.items)
        vectors = np.concatenate([retrieve.user_tower(batch) for batch in watched.batches()])
        sources = self.knobs.candidates.choose(
            retrieve.sources, vectors, watched.history, watched.removed_rows, watched.judge
        )
        return replace(fitted, retrieve=replace(retrieve, sources=sources))

    def _ranking(self, ranking: RankingTraining, chosen: TrainedRetrieval, served: Retrieve) -> TrainedRanker:
        """The ranker reads requests as the served stage encodes them, whoever finds its candidates."""
        self.say("towers that are asked in the period that the ranker learns from")
        early = self._as_chosen(RANK, chosen)
        self.say("ranker")
        spec, items = served.spec, served.items
        examples = [
            self._versioned(self._examples(ranking, fitted, spec, items, most), fitted)
            for fitted, most in ((early, ranking.requests), (chosen, ranking.validation_requests))
        ]
        trained = ranking.fit(
            spec,
            items,
            *examples,
            loop=self.knobs.loop,
            folder=self.folder / "ranker",
            seed=self.seed,
            loggers=self.loggers,
        )
        if follows := told(tuple(spec.objectives), trained.ranker.parents):
            self.say(f"objectives learnt given another one: {follows}")
        return trained

    def _examples(
        self,
        ranking: RankingTraining,
        fitted: TrainedRetrieval,
        spec: FeatureSpec,
        items: ItemTable,
        most: int,
    ) -> RankingExamples:
        """At most so many requests of the period in which this retrieval is asked."""
        retrieve, period = fitted.retrieve, fitted.period
        logged, inside = ranking.logged, self.prepared.split.periods == period
        if logged is not None and logged.impressions:
            weighed = logged.propensity is not None
            return impression_examples(retrieve, self.prepared, spec, items, period, weighed=weighed, most=most)
        if logged is not None:
            return shown_examples(retrieve, self.prepared, spec, items, inside, logged, most=most)
        replay, split = self.prepared.replay, self.prepared.split
        moments = Moments.of(replay, split, period, per_user=ranking.requests_per_user, most=most)
        return ranking_examples(retrieve, spec, items, moments, dense=ranking.dense_candidates)

    def _versioned(self, examples: RankingExamples, fitted: TrainedRetrieval) -> RankingExamples:
        for name in examples.never_reached(tuple(self.prepared.dataset.description.objectives)):
            self.say(
                f"{PERIODS[fitted.period]}: none of the candidates of {len(examples):,} requests came to {name!r}, so nothing "
                "is learnt of it; a longer period of protocol, a longer horizon or better candidates would help"
            )
        return replace(examples, retrieval=fitted.version)


def eager_user_tower(towers: TowerEnsemble) -> Callable[[Arrays], np.ndarray]:
    """The user tower as the function of arrays that the retrieve stage calls."""

    @torch.no_grad()
    def user_vectors(request: Arrays) -> np.ndarray:
        trimmed = without_padding(request)
        return towers.users({name: torch.from_numpy(array) for name, array in trimmed.items()}).numpy()

    return user_vectors
