"""Choice of the text encoder on validation: content alone ranks the catalogue, and cold items among themselves.

Shapes: Q queries, N items, K positions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from recsys.candidates.candidate_source import TrainingInteractions
from recsys.candidates.content import ContentNeighbours
from recsys.candidates.sources import MergedSources, WeightedSource
from recsys.content.choice import TextChoice
from recsys.content.text_encoder import TextVectorizer
from recsys.contracts import PAD
from recsys.data.splits import VALIDATION
from recsys.errors import ConfigError, DataError
from recsys.evaluation.intervals import paired_bootstrap
from recsys.index import ExactIndex
from recsys.metrics import Targets, hits, ndcg, recall
from recsys.replay.evaluation_queries import EvaluationQueries
from recsys.training.prepare import Prepared, text_columns
from recsys.training.validation_queries import QUERY_BATCH, ValidationQueries

MAX_QUERIES = 2_000
NDCG_AT, COLD_AT = 10, 20
NEIGHBOURS, DECAY = 100, 0.9

PrepareWith = Callable[[TextVectorizer], Prepared]
ValidationOf = Callable[[Prepared], EvaluationQueries]


@dataclass(frozen=True, kw_only=True)
class ContentFigures:
    """Quality of the item content under one text encoder, by query."""

    ndcg: np.ndarray
    """[Q] NDCG@10 of all items"""
    cold_rows: np.ndarray
    """queries with a target that has no event before validation, ascending"""
    cold_recall: np.ndarray
    """recall@20 of these targets among all items without an event"""

    @cached_property
    def score(self) -> np.ndarray:
        """[Q] sum of both, by which encoders are compared."""
        score = self.ndcg.copy()
        score[self.cold_rows] += self.cold_recall
        return score

    def __str__(self) -> str:
        cold = f", recall@{COLD_AT} among cold items {self.cold_recall.mean():.4f}" if len(self.cold_rows) else ""
        return f"NDCG@{NDCG_AT} {self.ndcg.mean():.4f}{cold}"


def choose_text(choice: TextChoice, prepare_with: PrepareWith, validation_of: ValidationOf) -> Prepared:
    """Return the data prepared with the first encoder, or with one that is better beyond chance; its notes say why."""
    (name, first), *others = choice.choices.items()
    best = prepare_with(first)
    if best.text is None:
        return best
    reached = content_figures(best, validation_of(best))
    notes = [f"content ranked by {name}: {reached}"]
    for other, vectorizer in others:
        if reason := _unusable(vectorizer, best, choice.max_seconds):
            notes.append(f"{other} left out: {reason}")
            continue
        prepared = prepare_with(vectorizer)
        found = content_figures(prepared, validation_of(prepared))
        _, low, high = paired_bootstrap(found.score, reached.score, seed=0)
        notes.append(f"by {other}: {found}, difference to {name} {low:+.4f} to {high:+.4f}")
        if low > 0:
            best, reached, name = prepared, found, other
    return replace(best, notes=(f"item texts by {name}, chosen on validation; {'; '.join(notes)}",))


def _unusable(vectorizer: TextVectorizer, prepared: Prepared, max_seconds: float) -> str | None:
    """Return why an encoder cannot be had or would take too long, None where nothing speaks against it."""
    try:
        seconds = vectorizer.estimated_s(text_columns(prepared.dataset, prepared.features))
    except (ConfigError, DataError) as error:
        return str(error)
    if seconds > max_seconds:
        return f"it would take {seconds:.0f} s, more than content.max_seconds={max_seconds:g}"
    return None


def content_figures(prepared: Prepared, validation: EvaluationQueries) -> ContentFigures:
    """Rank for the validation queries by the similarity of items to the history alone."""
    known = prepared.split.known(VALIDATION)
    spec, items = prepared.spec(known)
    queries = ValidationQueries.of(validation.sample(MAX_QUERIES, seed=0), spec, items)
    rows = np.flatnonzero(known & prepared.replay.positives)
    interactions = TrainingInteractions(
        users=prepared.replay.users[rows],
        items=prepared.replay.items[rows],
        timestamps=prepared.replay.seconds[rows],
        table=items,
        spec=spec,
        index=ExactIndex(np.zeros((len(items), 1), dtype=np.float32)),
        ordered=prepared.dataset.description.order != "none",
    )
    cold = np.bincount(interactions.items, minlength=len(items)) == 0
    cold_rows, targets = _targets_among(queries.targets, cold)
    listed = _rankings(interactions, queries, COLD_AT, only_cold=True)[cold_rows]
    return ContentFigures(
        ndcg=_ndcg(_rankings(interactions, queries, NDCG_AT, only_cold=False), queries.targets),
        cold_rows=cold_rows,
        cold_recall=np.zeros(0) if targets is None else recall(hits(listed, targets), targets.num_targets, COLD_AT),
    )


def _targets_among(targets: Targets, items: np.ndarray) -> tuple[np.ndarray, Targets | None]:
    """Return the queries with a target among items [N] bool and these targets, None where there is none."""
    kept = items[targets.items]
    return targets.only(kept) if kept.any() else (np.zeros(0, dtype=np.int64), None)


def _ndcg(rows: np.ndarray, targets: Targets) -> np.ndarray:
    return ndcg(hits(rows, targets), targets.num_targets, NDCG_AT)


def _rankings(interactions: TrainingInteractions, queries: ValidationQueries, num: int, only_cold: bool) -> np.ndarray:
    """[Q, num] catalogue rows by content alone, best first, PAD at the end."""
    config = ContentNeighbours(num=num, weight=1.0, decays=[DECAY], neighbours=NEIGHBOURS, only_cold=only_cold)
    num_queries, source = len(queries.history), config.fit(interactions)
    if source is None:
        return np.full((num_queries, num), PAD)
    alone = WeightedSource(name="content", num=num, weight=1.0, source=source)
    merged = MergedSources(index=interactions.index, sources=(alone,), total=num)
    parts = [slice(start, start + QUERY_BATCH) for start in range(0, num_queries, QUERY_BATCH)]
    found = [
        merged.search(np.zeros((len(history), 1), dtype=np.float32), history, queries.removed_rows[part]).rows
        for part in parts
        for history in [queries.history[part]]
    ]
    return np.concatenate(found)
