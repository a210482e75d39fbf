"""Weighted sum of the scores of all sources over the union of their candidates, with provenance and quotas.

Every source scores every candidate of the union, also those that only others offered, so that one sum ranks them all:
sum over sources of weight * score.

Shapes: B queries, W width of the union, C candidates, S sources, E newest events.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.candidates.candidate_union import CandidateUnion
from recsys.candidates.interfaces import RECENT_EVENTS, SourceScores
from recsys.candidates.topk import top_k
from recsys.contracts import PAD
from recsys.jit import compiled


@dataclass(frozen=True, kw_only=True)
class MergedCandidates:
    """The candidates of B queries, best first, padding at the end."""

    rows: np.ndarray
    """[B, C] int64 catalogue rows, PAD for padding"""
    scores: np.ndarray
    """[B, C] float32, the weighted sum, -inf for padding"""
    full_scores: np.ndarray
    """[B, C, S] float32, of every source, whether it offered the item or not; 0 for padding"""
    offered: np.ndarray
    """[B, C, S] bool"""
    sources: tuple[SourceScores, ...]

    @property
    def event_scores(self) -> np.ndarray:
        """[B, C, S, E] float32, the score of every source from each of the newest events alone; 0 for padding."""
        scores = np.zeros((*self.rows.shape, len(self.sources), RECENT_EVENTS), dtype=np.float32)
        query, position = np.nonzero(self.rows != PAD)
        for number, source in enumerate(self.sources):
            scores[query, position, number] = source.event_scores(query, self.rows[query, position])
        return scores

    @property
    def source_scores(self) -> np.ndarray:
        """[B, C, S] float32, NaN where the source did not offer the item."""
        return np.where(self.offered, self.full_scores, np.float32(np.nan))


def top_columns(merged: np.ndarray, total: int) -> np.ndarray:
    """[B, W] as `CandidateUnion.merged` -> [B, min(total, W)] columns, best first, ties by the lower row; PAD at the end."""
    return top_k(merged, np.arange(merged.shape[1]), total)


def merge(
    sources: Sequence[SourceScores], union: CandidateUnion, weights: Sequence[float], total: int
) -> MergedCandidates:
    """Return the `total` best candidates of a union, by weights [S]."""
    shape, num_sources = (len(union.rows), total), len(union.scores)
    merged = union.merged(weights)
    chosen = top_columns(merged, total)
    query, position = np.nonzero(chosen != PAD)
    column = chosen[query, position]
    rows = np.full(shape, PAD, dtype=np.int64)
    scores = np.full(shape, -np.inf, dtype=np.float32)
    full_scores = np.zeros((*shape, num_sources), dtype=np.float32)
    offered = np.zeros((*shape, num_sources), dtype=bool)
    rows[query, position] = union.rows[query, column]
    scores[query, position] = merged[query, column]
    full_scores[query, position] = union.scores[:, query, column].T
    offered[query, position] = union.offered[:, query, column].T
    return MergedCandidates(rows=rows, scores=scores, full_scores=full_scores, offered=offered, sources=tuple(sources))


def score_features(merged: MergedCandidates) -> np.ndarray:
    """Features of retrieval for the ranker: [B, C, 2 + 3 S + S E] float32, all zero for padding.

    The merged score and 1 / log2(2 + position); then the score of every source, also of those that did not offer the
    item; then whether each offered it; then 1 / log2(2 + position) among its own candidates, 0 where the item is none;
    then the scores of the newest events, source by source: a sum over the history does not tell the last event's share
    from the tenth's.
    """
    present = merged.rows != PAD
    gains = (1 / np.log2(2 + np.arange(present.shape[1] + 1))).astype(np.float32)
    parts = (
        np.where(present, merged.scores, 0)[..., None],
        np.where(present, gains[:-1], 0)[..., None],
        merged.full_scores,
        merged.offered,
        _gains_within_source(merged.full_scores, merged.offered, gains),
        merged.event_scores.reshape(*present.shape, -1),
    )
    return np.concatenate(parts, axis=-1, dtype=np.float32)


@compiled()
def _gains_within_source(scores, offered, gains):
    """scores and offered [B, C, S] -> [B, C, S]: gains [C] at the item's position among its source's candidates, best first."""
    found = np.zeros(scores.shape, np.float32)
    for b in range(scores.shape[0]):
        for s in range(scores.shape[2]):
            columns = np.flatnonzero(offered[b, :, s])
            order = np.argsort(-scores[b, columns, s], kind="mergesort")  # stable: ties keep the merged order
            for position, at in enumerate(order):
                found[b, columns[at], s] = gains[position]
    return found


def score_columns(sources: Sequence[str]) -> tuple[str, ...]:
    """Column names of `score_features`, by the names of the sources."""
    of_sources = (f"{name}{suffix}" for suffix in ("", ":offered", ":place") for name in sources)
    of_events = (f"{name}:event_{number}" for name in sources for number in range(1, RECENT_EVENTS + 1))
    return "merged", "merged:place", *of_sources, *of_events


def source_columns(sources: Sequence[int], num_sources: int) -> np.ndarray:
    """Columns of `score_features` with the scores, offers and positions of these sources."""
    return (2 + np.arange(3)[:, None] * num_sources + np.array(sources, dtype=np.int64)).ravel()


def num_score_features(num_sources: int) -> int:
    """Width of `score_features`."""
    return 2 + (3 + RECENT_EVENTS) * num_sources
