"""Training of the whole cascade, each stage on events before the period of its own labels.

One retrieval is fitted for each period whose requests it answers, on the events before that period:

VALIDATION   towers and sources; epochs and parameters of sources are chosen here, weights and decays too
RANK         the same with these values -> candidates of the requests that the ranker learns from; where periods have common
             times its queries choose weights and decays as well; early stopping and calibration of the ranker use
             VALIDATION, with the candidates of the line above
TEST         the same with tuned values: it is measured, once the configuration was chosen by VALIDATION
LATER        the same on all events: it is served, where everything is fitted again (`CascadeTrainer.refitted`)
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.loggers import Logger

from recsys.cache.stage_cache import NO_CACHE, Result, StageCache
from recsys.candidates.candidate_source import TrainingInteractions
from recsys.candidates.score_layout import ScoreLayout
from recsys.candidates.sources import CandidateSourcesConfig, MergedSources, ScoreFunction, TuningQueries
from recsys.candidates.tuned_source import Choice
from recsys.data.splits import LATER, PERIODS, RANK, TEST, VALIDATION, Split
from recsys.errors import DataError
from recsys.features.batches import RequestBatch
from recsys.features.encode import ItemTable
from recsys.features.spec import FeatureSpec
from recsys.index import Index
from recsys.index.faiss_index import IndexBuilder
from recsys.policy.excluded_items import HiddenItems
from recsys.ranking.objective_chain import describe
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.replay.labelled_requests import LabelledRequests
from recsys.retrieval.two_tower import TowerEnsemble
from recsys.stages import Retrieve, seen_filter
from recsys.tensors import Arrays
from recsys.training.fit_logger import of_fit
from recsys.training.impressions import impression_examples
from recsys.training.prepare import Prepared
from recsys.training.ranking import RankerTrainerConfig, TrainedRanker
from recsys.training.ranking_examples import NoRequestsError, RankingExamples, RetrievalVersion, ranking_examples
from recsys.training.retrieval import RetrievalExamples, RetrievalTrainerConfig
from recsys.training.slates import shown_examples
from recsys.training.trainer import Trainer
from recsys.training.validation_queries import ValidationQueries

Echo = Callable[[str], None]
UserTower = Callable[[Arrays], np.ndarray]
"""request tensors -> user vectors [B, D]"""

WEIGHTS = ("weight", "place_weight", "new_user_weight", "new_user_place_weight")
MAX_VALIDATION_USERS = 2_000
"""users of a period, at most, for early stopping of the towers and the weights of the merge"""
MAX_CHOOSING_USERS = 10_000
"""users, at most, for the parameters of sources: neighbouring points differ by less than the noise of 2,000 users"""


@dataclass(frozen=True, kw_only=True)
class CascadeConfig:
    """Configuration of the stages of a cascade."""

    retrieval: RetrievalTrainerConfig
    candidates: CandidateSourcesConfig
    index: IndexBuilder
    ranking: RankerTrainerConfig | None
    """None: candidates are served in the order of retrieval"""
    trainer: Trainer


@dataclass(frozen=True, kw_only=True)
class TrainedRetrieval:
    """The retrieve stage, fitted on the events before one period."""

    retrieve: Retrieve
    period: int
    known: np.ndarray
    """[R] bool, rows of the log that it was fitted on"""
    towers: TowerEnsemble
    item_vectors: np.ndarray
    """[N, D] float32"""
    index_recall: float
    epochs: int
    choices: Mapping[str, Choice]
    """tuned source -> its parameters"""

    @property
    def tuned(self) -> str:
        """Return what was chosen, as lines for the terminal: one a source that weighs something."""
        lines = [f"tuned: {self.epochs} epochs; weights of scores and places (those of new users)"]
        for name, one in self.retrieve.sources.chosen.items():
            weights = [one[key] for key in WEIGHTS]
            if any(weights):
                choices = {**({"decay": one["decay"]} if "decay" in one else {}), **self.choices.get(name, {})}
                score, place, new_score, new_place = (f"{weight:.3f}" for weight in weights)
                own = ", ".join(f"{key} {value}" for key, value in choices.items())
                lines.append(f"  {name:20} {score} {place} ({new_score} {new_place})  {own}".rstrip())
        return "\n".join(lines)

    def with_sources(self, sources: MergedSources) -> "TrainedRetrieval":
        """Return a copy whose candidates come from other sources."""
        return replace(self, retrieve=replace(self.retrieve, sources=sources))

    @cached_property
    def version(self) -> RetrievalVersion:
        """Columns of its features in ranking examples, with a fingerprint of the fit."""
        spec, sources = self.retrieve.spec, self.retrieve.sources
        document, arrays = sources.to_documents()
        weights = {name: tensor.numpy() for name, tensor in self.towers.state_dict().items()}
        digest = hashlib.sha256(json.dumps([spec.fingerprint, document]).encode())
        for parts in (weights, {"item_vectors": self.item_vectors}, arrays):
            for name, array in sorted(parts.items()):
                digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
        return RetrievalVersion(
            before=PERIODS[self.period],
            columns=ScoreLayout(tuple(sources.names)).names,
            fingerprint=digest.hexdigest()[:16],
        )


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Spec and catalogue by which a ranker reads its requests."""

    spec: FeatureSpec
    items: ItemTable


@dataclass(frozen=True, kw_only=True)
class SelectedCascade:
    """Fits that the validation period judges: nothing of TEST has reached them."""

    by_period: Mapping[int, TrainedRetrieval]
    """VALIDATION, with the tuned values, and with a ranker RANK"""
    ranking: TrainedRanker | None

    @property
    def notes(self) -> list[str]:
        """Return what validation decided, as sentences for a report."""
        chosen = self.by_period[VALIDATION].choices
        named = [f"{name} {', '.join(f'{key} {value}' for key, value in one.items())}" for name, one in chosen.items()]
        notes = [f"chosen on validation: {'; '.join(named)}"] if named else []
        if self.ranking is not None and self.ranking.verdict is not None:
            notes.append(self.ranking.verdict)
        if self.ranking is not None and self.ranking.taught:
            notes.append("the ranker learnt from boosted trees, which were better on the validation")
        return notes


@dataclass(frozen=True, kw_only=True)
class TrainedCascade:
    """A trained cascade in memory, as a bundle stores it."""

    retrieval: TrainedRetrieval
    ranking: TrainedRanker | None
    by_period: Mapping[int, TrainedRetrieval]
    """period -> the retrieval that answers its requests"""

    @property
    def spec(self) -> FeatureSpec:
        return self.retrieval.retrieve.spec


@dataclass(frozen=True, kw_only=True)
class CascadeTrainer:
    """Trainer of one cascade, for one split and one seed, with checkpoints in `folder`."""

    prepared: Prepared
    validation: EvaluationQueries
    config: CascadeConfig
    folder: Path
    seed: int
    loggers: list[Logger]
    echo: Echo
    cache: StageCache = NO_CACHE

    def cascade(self) -> TrainedCascade:
        """Train all stages; after an interrupted call resume from its checkpoints."""
        return self.measured(self.selected())

    def selected(self) -> SelectedCascade:
        """Train what the validation period judges; resumes as `cascade` does."""
        if self.config.ranking is not None:
            self._check(self.config.ranking)
        self.echo("towers for the validation period: their epochs are tuned")
        fitted = {VALIDATION: self._retrieval(VALIDATION, epochs=None)}
        if self.config.ranking is not None:
            self.echo("towers for the period that the ranker learns from")
            chosen = fitted[VALIDATION]
            fitted[RANK] = self._retrieval(RANK, epochs=chosen.epochs, choices=chosen.choices)
        by_period = self._tuned(fitted)
        chosen = by_period[VALIDATION]
        self.echo(chosen.tuned)
        if self.config.ranking is None:
            return SelectedCascade(by_period=by_period, ranking=None)
        return SelectedCascade(by_period=by_period, ranking=self._ranking(self.config.ranking, by_period))

    def measured(self, selected: SelectedCascade) -> TrainedCascade:
        """Fit the towers that answer the test period, and keep all that was selected."""
        retrieval = self._before_test(selected.by_period[VALIDATION])
        by_period = {**selected.by_period, TEST: retrieval}
        return TrainedCascade(retrieval=retrieval, ranking=selected.ranking, by_period=by_period)

    @property
    def curves(self) -> str:
        """Return the part of all keys of curves that tells this split and seed from others: split_0/seed_0."""
        return f"{self.folder.name.removesuffix(f'_seed_{self.seed}')}/seed_{self.seed}"

    @cached_property
    def encoding(self) -> Encoding:
        """Encoding of the test period, by which the ranker reads the requests of all periods."""
        spec, items = self.prepared.spec(self.prepared.split.known(TEST))
        return Encoding(spec=spec, items=items)

    def refitted(self, measured: TrainedCascade) -> TrainedCascade:
        """Fit the same cascade on all events with the tuned epochs, weights and decays; nothing is tuned, and nothing stopped
        early but the trees that teach a ranker, by what calibrates it.

        The ranker learns from RANK, VALIDATION and the first half of TEST, and is calibrated on the second half, the
        newest data that can be held out. Requests of each period get the candidates of the retrieval that was fitted for
        it, so no candidate comes from towers that had seen its label, and only the towers to be served are fitted anew.
        """
        self.echo("towers that are served, on all events")
        retrieval = self._as_chosen(LATER, measured.by_period[VALIDATION])
        ranking = None
        if self.config.ranking is not None and measured.ranking is not None:
            self.echo("ranker that is served")
            served = Encoding(spec=retrieval.retrieve.spec, items=retrieval.retrieve.items)
            ranking = self._ranking_again(self.config.ranking, measured, served)
        return TrainedCascade(retrieval=retrieval, ranking=ranking, by_period=measured.by_period)

    def _check(self, ranking: RankerTrainerConfig) -> None:
        """Raise ConfigError for a ranker that these data could not train, before the towers are trained."""
        ranking.check(self.prepared.dataset.description.objectives, self.config.trainer)
        if (logged := ranking.sampling.logged) is not None:
            logged.check(self.prepared.features, self.prepared.split)

    def _before_test(self, chosen: TrainedRetrieval) -> TrainedRetrieval:
        split = self.prepared.split
        if np.array_equal(split.known(TEST), split.known(VALIDATION)):
            return replace(chosen, period=TEST)
        self.echo("towers for the test period")
        return self._as_chosen(TEST, chosen)

    def _as_chosen(self, period: int, chosen: TrainedRetrieval) -> TrainedRetrieval:
        fitted = self._retrieval(period, epochs=chosen.epochs, choices=chosen.choices)
        return fitted.with_sources(fitted.retrieve.sources.with_choices_of(chosen.retrieve.sources))

    def _retrieval(
        self, period: int, *, epochs: int | None, choices: Mapping[str, Choice] | None = None
    ) -> TrainedRetrieval:
        """Fit towers, index and sources for a period; what is None is chosen on the validation queries."""
        known = self.prepared.split.known(period)
        spec, items = (self.encoding.spec, self.encoding.items) if period == TEST else self.prepared.spec(known)
        towers, vectors, trained = self.config.retrieval.fit(
            spec,
            items,
            RetrievalExamples.of(self.prepared, spec, known),
            ValidationQueries.of(self.validation.sample(MAX_VALIDATION_USERS, seed=0), spec, items)
            if epochs is None
            else None,
            trainer=self.config.trainer,
            folder=self.folder / f"towers_{PERIODS[period].lower()}",
            epochs=epochs,
            seed=self.seed,
            loggers=of_fit(self.loggers, f"retrieval/{self.curves}/{PERIODS[period].lower()}"),
            cache=self.cache,
        )
        index, recall = self.config.index.build(vectors)
        user_tower, interactions = eager_user_tower(towers), self._interactions(spec, items, known, index)
        if choices is None:
            choices = self._choices(interactions, user_tower)
        sources = self._sources(self.config.candidates.with_choices(choices), interactions, vectors)
        return TrainedRetrieval(
            retrieve=Retrieve(
                spec=spec,
                items=items,
                user_tower=user_tower,
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
            choices=choices,
        )

    def _interactions(
        self, spec: FeatureSpec, items: ItemTable, known: np.ndarray, index: Index
    ) -> TrainingInteractions:
        replay = self.prepared.replay
        rows = np.flatnonzero(known & replay.positives)
        return TrainingInteractions(
            users=replay.users[rows],
            items=replay.items[rows],
            timestamps=replay.seconds[rows],
            table=items,
            spec=spec,
            index=index,
            ordered=self.prepared.dataset.description.order != "none",
            repeats=replay.repeat.possible,
        )

    def _choices(self, interactions: TrainingInteractions, user_tower: UserTower) -> Mapping[str, Choice]:
        """Choose the parameters of the tuned sources on a sample of the validation queries."""
        sample = self.validation.sample(MAX_CHOOSING_USERS, seed=0)
        validation = ValidationQueries.of(sample, interactions.spec, interactions.table)
        config = self.config.candidates

        def choose() -> Result:
            queries = tuning_queries(validation, user_tower, validation.ndcg_at_10)
            return {"choices": config.choose(interactions, queries, self.config.trainer.display)}, {}

        inputs = {"config": config, "interactions": interactions.contents, "validation": validation}
        return self.cache.arrays("choices", choose, code=type(self), **inputs)[0]["choices"]

    def _sources(
        self, config: CandidateSourcesConfig, interactions: TrainingInteractions, vectors: np.ndarray
    ) -> MergedSources:
        inputs = {"config": config, "interactions": interactions.contents, "vectors": vectors}
        stored = self.cache.arrays(
            "sources", lambda: config.fit(interactions).to_documents(), code=type(self), **inputs
        )
        return MergedSources.from_documents(*stored, interactions.index)

    def _tuned(self, fitted: Mapping[int, TrainedRetrieval]) -> dict[int, TrainedRetrieval]:
        """Tune the merge on VALIDATION, and on RANK where periods have common times; return all fits with the choices.

        A list of new or popular items that suits one period may not suit the next one.
        """
        first, config = fitted[VALIDATION], self.config.candidates.with_choices(fitted[VALIDATION].choices)
        periods = [
            (one, ValidationQueries.of(queries, one.retrieve.spec, one.retrieve.items))
            for period, one in fitted.items()
            if (queries := self._queries_of(period)) is not None
        ]

        def tune() -> Result:
            parts = [
                (one.retrieve.sources, tuning_queries(queries, one.retrieve.user_tower, queries.score))
                for one, queries in periods
            ]
            return {"chosen": config.tune(parts, self.config.trainer.display).chosen}, {}

        sources = {
            period: one.retrieve.sources.with_choices_of(first.retrieve.sources) for period, one in fitted.items()
        }
        inputs = {"retrieval": [one.version for one, _ in periods], "validation": [queries for _, queries in periods]}
        document, _ = self.cache.arrays("weights", tune, code=type(self), config=config, **inputs)
        return {
            period: one.with_sources(sources[period].with_choices(document["chosen"])) for period, one in fitted.items()
        }

    def _queries_of(self, period: int) -> EvaluationQueries | None:
        """Return the queries by which weights are tuned; None for RANK without common times, or without a user to ask."""
        if period == VALIDATION:
            return self.validation.sample(MAX_VALIDATION_USERS, seed=0)
        if self.prepared.split.cuts is None:
            return None
        try:
            queries = EvaluationQueries.of(self.prepared.dataset, self.prepared.split, self.prepared.replay, period)
        except DataError:
            return None
        return queries.sample(min(len(self.validation), MAX_VALIDATION_USERS), seed=0)

    def _ranking(self, ranking: RankerTrainerConfig, by_period: Mapping[int, TrainedRetrieval]) -> TrainedRanker:
        """Train the ranker on requests encoded as those of TEST, with candidates of each period's own retrieval."""
        self.echo("ranker")
        encoder, split = self.encoding, self.prepared.split
        examples = [
            self._examples(ranking, by_period[period], split, encoder, limit)
            for period, limit in ((RANK, ranking.sampling.requests), (VALIDATION, ranking.sampling.validation_requests))
        ]
        trained = self._fit(ranking, encoder, *examples, folder="ranker")
        if trained.verdict is not None:
            self.echo(trained.verdict)
        if chain := describe(tuple(encoder.spec.objectives), trained.calibrator.parents):
            self.echo(f"objectives conditional on another one: {chain}")
        return trained

    def _ranking_again(self, ranking: RankerTrainerConfig, measured: TrainedCascade, served: Encoding) -> TrainedRanker:
        assert measured.ranking is not None
        train, valid = self._examples_again(ranking, measured.by_period, served)
        return self._fit(
            ranking,
            served,
            train,
            valid,
            folder="ranker_served",
            epochs=measured.ranking.epochs,
            taught=measured.ranking.taught,
            keeps_order=measured.ranking.keeps_order,
        )

    def _examples_again(
        self, ranking: RankerTrainerConfig, by_period: Mapping[int, TrainedRetrieval], served: Encoding
    ) -> tuple[RankingExamples, RankingExamples]:
        """Examples to learn from and to calibrate by; their parts are freed on return, since they take as much again."""
        valid, *newest_first = self._newest_first(ranking, by_period, served)
        return RankingExamples.joined(newest_first[::-1]), valid

    def _newest_first(
        self, ranking: RankerTrainerConfig, by_period: Mapping[int, TrainedRetrieval], served: Encoding
    ) -> Iterator[RankingExamples]:
        """Examples by period, the newest first: those of the newest calibrate the ranker, the others train it."""
        split = self.prepared.split
        parts = [(RANK, split), (VALIDATION, split), *((TEST, half) for half in split.halves(self.prepared.dataset))]
        calibrating, left = True, min(ranking.sampling.requests, self._affordable(ranking, by_period[TEST].retrieve))
        for period, part in reversed(parts):
            limit = ranking.sampling.validation_requests if calibrating else left
            try:
                examples = self._examples(ranking, by_period[period], part, served, limit)
            except NoRequestsError:
                continue
            yield examples
            left -= 0 if calibrating else len(examples)
            calibrating = False
            if not left:
                return

    def _fit(
        self,
        ranking: RankerTrainerConfig,
        encoder: Encoding,
        train: RankingExamples,
        valid: RankingExamples,
        *,
        folder: str,
        epochs: int | None = None,
        taught: bool | None = None,
        keeps_order: bool = False,
    ) -> TrainedRanker:
        """Select a ranker or, for `epochs`, fit the one that was selected."""
        options: dict[str, Any] = {
            "trainer": self.config.trainer,
            "folder": self.folder / folder,
            "seed": self.seed,
            "loggers": of_fit(self.loggers, f"ranking/{self.curves}/{'measured' if epochs is None else 'served'}"),
            "cache": self.cache,
        }
        if epochs is None:
            return ranking.select(encoder.spec, encoder.items, train, valid, **options)
        options |= {"epochs": epochs, "taught": taught, "keeps_order": keeps_order}
        return ranking.fit(encoder.spec, encoder.items, train, valid, **options)

    def _examples(
        self, ranking: RankerTrainerConfig, fitted: TrainedRetrieval, split: Split, encoder: Encoding, limit: int
    ) -> RankingExamples:
        """At most `limit` requests of the period of a retrieval, encoded by `encoder`; NoRequestsError where there are none."""
        inputs = {"prepared": replace(self.prepared, split=split).fingerprint, "period": fitted.period, "limit": limit}
        stored = self.cache.arrays(
            "examples",
            lambda: self._requests(ranking, fitted, split, encoder, limit).to_documents(),
            **{
                "code": type(self),
                "retrieval": fitted.version,
                "encoder": encoder,
                "sampling": ranking.sampling,
                **inputs,
            },
        )
        examples = RankingExamples.from_documents(*stored)
        for name in examples.never_reached(tuple(self.prepared.dataset.description.objectives)):
            self.echo(
                f"{PERIODS[fitted.period]}: none of the candidates of {len(examples):,} requests came to {name!r}, so nothing "
                "is learnt of it; a longer period of protocol, a longer horizon or better candidates would help"
            )
        return replace(examples, retrievals=(fitted.version,))

    def _requests(
        self, ranking: RankerTrainerConfig, fitted: TrainedRetrieval, split: Split, encoder: Encoding, limit: int
    ) -> RankingExamples:
        retrieve, period, prepared = fitted.retrieve, fitted.period, replace(self.prepared, split=split)
        logged, spec, items = ranking.sampling.logged, encoder.spec, encoder.items
        if logged is not None and logged.impressions:
            weighed = logged.propensity is not None
            return impression_examples(retrieve, prepared, spec, items, period, weighed=weighed, most=limit)
        if logged is not None:
            inside = split.periods == period
            return shown_examples(retrieve, prepared, spec, items, inside, logged, most=limit)
        per_user, limit = ranking.sampling.requests_per_user, min(limit, self._affordable(ranking, retrieve))
        moments = LabelledRequests.of(prepared.replay, split, period, per_user=per_user, max_requests=limit)
        return ranking_examples(
            retrieve,
            spec,
            items,
            moments,
            dense=ranking.sampling.dense_candidates,
            progress=self.config.trainer.display,
        )

    @staticmethod
    def _affordable(ranking: RankerTrainerConfig, retrieve: Retrieve) -> int:
        """Requests, at most, whose candidates fit into `ranking.sampling.examples_gib`."""
        sources, num_objectives = retrieve.sources, retrieve.spec.num_objectives
        return ranking.sampling.affordable(sources.total, ScoreLayout(tuple(sources.names)).width, num_objectives)


def tuning_queries(queries: ValidationQueries, user_tower: UserTower, score_function: ScoreFunction) -> TuningQueries:
    """Return queries as candidate sources read them: user vectors, histories, excluded rows."""
    vectors = np.concatenate([user_tower(batch) for batch in queries.batches()])
    return TuningQueries(
        vectors=vectors,
        history=queries.history,
        excluded=queries.removed_rows,
        score_function=score_function,
        first_places=queries.ndcg_at_10,
    )


def eager_user_tower(towers: TowerEnsemble) -> UserTower:
    """Wrap the user tower as the function of arrays that the retrieve stage calls."""

    @torch.no_grad()
    def user_vectors(request: Arrays) -> np.ndarray:
        trimmed = RequestBatch.of(request).without_padding().tensors()
        return towers.users({name: torch.from_numpy(array) for name, array in trimmed.items()}).numpy()

    return user_vectors
