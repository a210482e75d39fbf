"""Weighted sum of the scores of all sources over the union of their candidates, with provenance.

Every source scores every candidate of the union, also those that only others offered, so that one sum ranks them all:
sum over sources of weight * score + place weight * place, where the place is 1 / log2(2 + position) among the candidates of the
source. Scores say how sure a source is; places do not depend on their scale, so that a list may fill the top and leave the rest
to others.

Shapes: B queries, W width of the union, C candidates, S sources, E newest events.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.candidates.candidate_source import RECENT_EVENTS, SourceScores
from recsys.candidates.candidate_union import CandidateUnion
from recsys.candidates.cold_items import ColdPositions
from recsys.candidates.topk import top_k
from recsys.contracts import PAD


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
    sources: Sequence[SourceScores],
    union: CandidateUnion,
    weights: np.ndarray,
    total: int,
    positions: ColdPositions | None = None,
) -> MergedCandidates:
    """Return the `total` best candidates of a union, by weights as in `CandidateUnion.merged`.

    positions: those that are kept for cold items
    """
    shape, num_sources = (len(union.rows), total), len(union.scores)
    merged = union.merged(weights)
    chosen = top_columns(merged, total)
    values = np.take_along_axis(merged, np.maximum(chosen, 0), axis=1)
    if positions is not None:
        chosen, values = positions.keep(union, merged, chosen)
    query, position = np.nonzero(chosen != PAD)
    column = chosen[query, position]
    rows = np.full(shape, PAD, dtype=np.int64)
    scores = np.full(shape, -np.inf, dtype=np.float32)
    full_scores = np.zeros((*shape, num_sources), dtype=np.float32)
    offered = np.zeros((*shape, num_sources), dtype=bool)
    rows[query, position] = union.rows[query, column]
    scores[query, position] = values[query, position]
    full_scores[query, position] = union.scores[:, query, column].T
    offered[query, position] = union.offered[:, query, column].T
    return MergedCandidates(rows=rows, scores=scores, full_scores=full_scores, offered=offered, sources=tuple(sources))
