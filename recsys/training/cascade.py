"""Training of the whole cascade, each stage on what was known before its own labels.

FIT          early towers                 -> candidates for the requests of RANK
RANK         the ranker                   (and the number of epochs of the towers)
FIT + RANK   the towers that are served   -> candidates for the requests of VALIDATION
VALIDATION   early stopping and calibration of the ranker
TEST         nothing
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning.loggers import Logger

from recsys.candidates.sources import CandidateSources
from recsys.data.splits import FIT, RANK, VALIDATION
from recsys.errors import DataError
from recsys.features.encode import Arrays, ItemTable, encode_queries
from recsys.features.spec import FeatureSpec
from recsys.index.ann import IndexBuilder
from recsys.ranking.calibration import PlattCalibrator
from recsys.ranking.multi_objective import MultiObjectiveRanker
from recsys.retrieval.two_tower import TwoTower
from recsys.stages import Retrieve
from recsys.training.examples import anchors, encode_log, encode_users, sequences, windows
from recsys.training.loop import Loop
from recsys.training.prepare import Prepared
from recsys.training.ranking import RankingTraining, ranking_examples
from recsys.training.retrieval import RetrievalExamples, RetrievalTraining, Watched

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Knobs:
    """The configured parts of the cascade."""

    retrieval: RetrievalTraining
    candidates: CandidateSources
    index: IndexBuilder
    ranking: RankingTraining
    loop: Loop


@dataclass(frozen=True, kw_only=True)
class TrainedCascade:
    """Everything a bundle is made of, in memory."""

    retrieve: Retrieve
    towers: TwoTower
    item_vectors: np.ndarray
    """[N, D] float32"""
    index_recall: float
    ranker: MultiObjectiveRanker
    calibrator: PlattCalibrator

    @property
    def spec(self) -> FeatureSpec:
        return self.retrieve.spec


@dataclass(frozen=True, kw_only=True)
class _Run:
    prepared: Prepared
    knobs: Knobs
    folder: Path
    seed: int
    loggers: list[Logger]
    say: Say


def train_cascade(
    prepared: Prepared, knobs: Knobs, *, folder: Path, seed: int, loggers: list[Logger], say: Say
) -> TrainedCascade:
    """Train all stages; checkpoints go to `folder`, from where an interrupted call resumes."""
    run = _Run(prepared=prepared, knobs=knobs, folder=folder, seed=seed, loggers=loggers, say=say)
    say("towers on the first period, to see how they retrieve later")
    early, *_, epochs = _train_retrieval(run, "towers_early", latest=FIT, epochs=None)
    say(f"towers that are served, {epochs} epochs")
    retrieve, towers, vectors, recall, _ = _train_retrieval(run, "towers", latest=RANK, epochs=epochs)
    say("ranker on what the early towers retrieved")
    ranker, calibrator = _train_ranker(run, early, retrieve)
    return TrainedCascade(
        retrieve=retrieve,
        towers=towers,
        item_vectors=vectors,
        index_recall=recall,
        ranker=ranker,
        calibrator=calibrator,
    )


def _train_retrieval(
    run: _Run, name: str, *, latest: int, epochs: int | None
) -> tuple[Retrieve, TwoTower, np.ndarray, float, int]:
    prepared, knobs = run.prepared, run.knobs
    spec, items = prepared.spec(latest)
    known = prepared.split.periods <= latest
    examples = _retrieval_examples(prepared, spec, items, known)
    towers, vectors, trained = knobs.retrieval.fit(
        spec,
        items,
        examples,
        loop=knobs.loop,
        folder=run.folder / name,
        epochs=epochs,
        seed=run.seed,
        loggers=run.loggers,
    )
    index, recall = knobs.index.build(vectors)
    learnt = np.flatnonzero(known & prepared.replay.positives)
    replay = prepared.replay
    sources = knobs.candidates.fit(
        replay.users[learnt], replay.items[learnt], replay.seconds[learnt], len(items), index
    )
    retrieve = Retrieve(spec=spec, items=items, user_tower=eager_user_tower(towers), sources=sources)
    return retrieve, towers, vectors, recall, trained


def _retrieval_examples(
    prepared: Prepared, spec: FeatureSpec, items: ItemTable, known: np.ndarray
) -> RetrievalExamples:
    replay = prepared.replay
    events = sequences(replay, known)
    positives = replay.positives[events.rows]
    return RetrievalExamples(
        sequences=events,
        windows=windows(events, positives, spec.history_length),
        positives=positives,
        timestamps=replay.seconds[events.rows],
        profile=encode_users(spec, prepared.dataset, replay.names),
        context=encode_log(spec.context, prepared.dataset, replay.seconds),
        watched=_watched(prepared, spec, items, prepared.split.periods == RANK),
    )


def _watched(prepared: Prepared, spec: FeatureSpec, items: ItemTable, period: np.ndarray) -> Watched:
    """One query a user at the start of the period, what it has seen, and what it will meet for the first time."""
    replay = prepared.replay
    rows = _asking(prepared, period, per_user=1)
    queries = replay.queries(rows, k=1)
    seen = [np.unique([items.rows[event.item] for event in query.history]).astype(np.int64) for query in queries]
    request, _ = encode_queries(spec, items, queries)
    return Watched(queries=request, seen=seen, targets=replay.targets(rows, period & replay.positives))


def _asking(prepared: Prepared, period: np.ndarray, per_user: int) -> np.ndarray:
    rows = anchors(prepared.replay, period, per_user)
    if not len(rows):
        raise DataError(
            f"{prepared.dataset.name}: a period of the split holds no positive event; "
            "give more events or larger fractions for rank and validation"
        )
    return rows


def _train_ranker(run: _Run, early: Retrieve, served: Retrieve) -> tuple[MultiObjectiveRanker, PlattCalibrator]:
    prepared, ranking = run.prepared, run.knobs.ranking
    spec, items, replay = served.spec, served.items, prepared.replay
    examples = []
    for retrieve, period in ((early, RANK), (served, VALIDATION)):
        inside = prepared.split.periods == period
        rows = _asking(prepared, inside, ranking.requests_per_user)
        examples.append(ranking_examples(retrieve, spec, items, replay, rows, inside))
    return ranking.fit(
        spec,
        items,
        *examples,
        num_sources=len(served.sources.names),
        loop=run.knobs.loop,
        folder=run.folder / "ranker",
        seed=run.seed,
        loggers=run.loggers,
    )


def eager_user_tower(towers: TwoTower) -> Callable[[Arrays], np.ndarray]:
    """The user tower as the function of arrays that the retrieve stage calls."""

    @torch.no_grad()
    def user_vectors(request: Arrays) -> np.ndarray:
        return towers.users({name: torch.from_numpy(array) for name, array in request.items()}).numpy()

    return user_vectors
