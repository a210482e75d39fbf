"""Training of the whole cascade, each stage on what was known before its own labels.

asked in VALIDATION   towers and sources fitted on what is known then; epochs, weights and decays are chosen here
asked in RANK         the same on what is known then -> candidates for the requests that the ranker learns from;
                      early stopping and calibration of the ranker on VALIDATION, with the candidates of the line above
asked in TEST         the same with the epochs and weights as chosen, on all that is known then: what is measured
asked in LATER        the same on everything: what is served, where all is fitted again (`Run.refitted`)
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning.loggers import Logger

from recsys.candidates.merge import num_score_features, score_columns
from recsys.candidates.sources import CandidateSources, Sources
from recsys.data.splits import LATER, PERIODS, RANK, TEST, VALIDATION, Split
from recsys.evaluation.evaluation_queries import EvaluationQueries
from recsys.evaluation.labelled_requests import LabelledRequests
from recsys.features.encode import Arrays, ItemTable, without_padding
from recsys.features.spec import FeatureSpec
from recsys.index import Index
from recsys.index.ann import IndexBuilder
from recsys.policy.hidden_items import HiddenItems
from recsys.ranking.funnel import told
from recsys.retrieval.two_tower import TowerEnsemble
from recsys.stages import Retrieve, seen_filter
from recsys.training.impressions import impression_examples
from recsys.training.loop import Loop
from recsys.training.prepare import Prepared
from recsys.training.ranking import RankingTraining, TrainedRanker
from recsys.training.ranking_examples import NoRequestsError, RankingExamples, RetrievalVersion, ranking_examples
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
    asked: Mapping[int, TrainedRetrieval]
    """period -> the retrieval whose candidates are asked for in it"""

    @property
    def spec(self) -> FeatureSpec:
        return self.retrieval.retrieve.spec


@dataclass(frozen=True, kw_only=True)
class Run:
    """One cascade to train: on which split, from which seed, and where its checkpoints go."""

    prepared: Prepared
    validation: EvaluationQueries
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
        asked = {VALIDATION: chosen, TEST: self._before_test(chosen)}
        if self.knobs.ranking is None:
            return TrainedCascade(retrieval=asked[TEST], ranking=None, asked=asked)
        self.say("towers that are asked in the period that the ranker learns from")
        asked[RANK] = self._as_chosen(RANK, chosen)
        ranking = self._ranking(self.knobs.ranking, asked)
        return TrainedCascade(retrieval=asked[TEST], ranking=ranking, asked=asked)

    def refitted(self, measured: TrainedCascade) -> TrainedCascade:
        """The same cascade fitted on everything, with what was chosen before: nothing is chosen or stopped here.

        The ranker learns from RANK, VALIDATION and the first half of TEST, and is calibrated on the second half, which
        is the newest that can be held out from it. Each of these periods is asked of the retrieval that was asked in it
        before, so no candidate comes from towers that had seen its label, and the only towers to fit are those to serve.
        """
        self.say("towers that are served, on everything")
        retrieval = self._as_chosen(LATER, measured.asked[VALIDATION])
        ranking = None
        if self.knobs.ranking is not None and measured.ranking is not None:
            self.say("ranker that is served")
            ranking = self._ranking_again(self.knobs.ranking, measured, retrieval.retrieve)
        return TrainedCascade(retrieval=retrieval, ranking=ranking, asked=measured.asked)

    def _check(self, ranking: RankingTraining) -> None:
        """ConfigError for a ranker that could not be trained on this, before the towers are."""
        ranking.check(self.prepared.dataset.description.objectives, self.knobs.loop)
        if (logged := ranking.logged) is not None:
            logged.check(self.prepared.features, self.prepared.split)

    def _before_test(self, chosen: TrainedRetrieval) -> TrainedRetrieval:
        split = self.prepared.split
        if np.array_equal(split.known(TEST), split.known(VALIDATION)):
            return replace(chosen, period=TEST)
        self.say("towers that are asked in the test period")
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
                spec=spec,
                items=items,
                user_tower=eager_user_tower(towers),
                sources=sources,
                ranked=True,
                seen=seen_filter(self.prepared.replay.repeat, spec),
                hiding=HiddenItems(types=self.prepared.rule_types(), column=self.prepared.dataset.items.get_column),
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
            repeats=replay.repeat.possible,
        )

    def _choose(self, fitted: TrainedRetrieval) -> TrainedRetrieval:
        retrieve = fitted.retrieve
        watched = Watched.of(self.validation, retrieve.spec, retrieve.items)
        vectors = np.concatenate([retrieve.user_tower(batch) for batch in watched.batches()])
        sources = self.knobs.candidates.choose(
            retrieve.sources, vectors, watched.history, watched.removed_rows, watched.judge
        )
        return replace(fitted, retrieve=replace(retrieve, sources=sources))

    def _ranking(self, ranking: RankingTraining, asked: Mapping[int, TrainedRetrieval]) -> TrainedRanker:
        """The ranker reads requests as the stage asked in TEST encodes them, whoever finds its candidates."""
        self.say("ranker")
        read, split = asked[TEST].retrieve, self.prepared.split
        examples = [
            self._examples(ranking, asked[period], split, read, most)
            for period, most in ((RANK, ranking.requests), (VALIDATION, ranking.validation_requests))
        ]
        trained = self._fit(ranking, read, *examples, folder="ranker")
        if follows := told(tuple(read.spec.objectives), trained.ranker.parents):
            self.say(f"objectives learnt given another one: {follows}")
        return trained

    def _ranking_again(self, ranking: RankingTraining, measured: TrainedCascade, served: Retrieve) -> TrainedRanker:
        assert measured.ranking is not None
        valid, *newest_first = self._newest_first(ranking, measured.asked, served)
        train = RankingExamples.joined(newest_first[::-1])
        return self._fit(ranking, served, train, valid, folder="ranker_served", epochs=measured.ranking.epochs)

    def _newest_first(
        self, ranking: RankingTraining, asked: Mapping[int, TrainedRetrieval], served: Retrieve
    ) -> Iterator[RankingExamples]:
        """Of the newest period with requests as many as calibration reads, then those that are learnt from."""
        split = self.prepared.split
        parts = [(RANK, split), (VALIDATION, split), *((TEST, half) for half in split.halves(self.prepared.dataset))]
        calibrating, left = True, ranking.requests
        for period, part in reversed(parts):
            most = ranking.validation_requests if calibrating else left
            try:
                examples = self._examples(ranking, asked[period], part, served, most)
            except NoRequestsError:
                continue
            yield examples
            left -= 0 if calibrating else len(examples)
            calibrating = False
            if not left:
                return

    def _fit(
        self,
        ranking: RankingTraining,
        read: Retrieve,
        train: RankingExamples,
        valid: RankingExamples,
        *,
        folder: str,
        epochs: int | None = None,
    ) -> TrainedRanker:
        return ranking.fit(
            read.spec,
            read.items,
            train,
            valid,
            loop=self.knobs.loop,
            folder=self.folder / folder,
            seed=self.seed,
            loggers=self.loggers,
            epochs=epochs,
        )

    def _examples(
        self, ranking: RankingTraining, fitted: TrainedRetrieval, split: Split, read: Retrieve, most: int
    ) -> RankingExamples:
        """At most so many requests of the period in which a retrieval is asked, as `read` encodes them.

        NoRequestsError where there are none.
        """
        examples = self._requests(ranking, fitted, split, read, most)
        for name in examples.never_reached(tuple(self.prepared.dataset.description.objectives)):
            self.say(
                f"{PERIODS[fitted.period]}: none of the candidates of {len(examples):,} requests came to {name!r}, so nothing "
                "is learnt of it; a longer period of protocol, a longer horizon or better candidates would help"
            )
        return replace(examples, retrievals=(fitted.version,))

    def _requests(
        self, ranking: RankingTraining, fitted: TrainedRetrieval, split: Split, read: Retrieve, most: int
    ) -> RankingExamples:
        retrieve, period, prepared = fitted.retrieve, fitted.period, replace(self.prepared, split=split)
        logged, spec, items = ranking.logged, read.spec, read.items
        if logged is not None and logged.impressions:
            weighed = logged.propensity is not None
            return impression_examples(retrieve, prepared, spec, items, period, weighed=weighed, most=most)
        if logged is not None:
            inside = split.periods == period
            return shown_examples(retrieve, prepared, spec, items, inside, logged, most=most)
        sources = retrieve.sources
        fit = ranking.affordable(sources.total, num_score_features(len(sources.names)), spec.num_objectives)
        per_user, most = ranking.requests_per_user, min(most, fit)
        moments = LabelledRequests.of(prepared.replay, split, period, per_user=per_user, max_requests=most)
        return ranking_examples(retrieve, spec, items, moments, dense=ranking.dense_candidates)


def eager_user_tower(towers: TowerEnsemble) -> Callable[[Arrays], np.ndarray]:
    """The user tower as the function of arrays that the retrieve stage calls."""

    @torch.no_grad()
    def user_vectors(request: Arrays) -> np.ndarray:
        trimmed = without_padding(request)
        return towers.users({name: torch.from_numpy(array) for name, array in trimmed.items()}).numpy()

    return user_vectors
