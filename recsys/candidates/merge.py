"""Weighted sum of the scores of all sources, over the union of what they offer, with provenance and quotas.

Every source scores every candidate of the union, also those that only others offered, so that the order is that of one
sum: sum over sources of weight * score.

Shapes: B queries, W width of the union, C candidates, S sources, E newest events.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.candidates.best import best
from recsys.candidates.contract import RECENT, Answer
from recsys.candidates.union import Union
from recsys.contracts import PAD
from recsys.jit import compiled


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The candidates of B queries, best first, padding at the end."""

    rows: np.ndarray
    """[B, C] int64 catalogue rows, PAD for padding"""
    scores: np.ndarray
    """[B, C] float32, the weighted sum, -inf for padding"""
    full_scores: np.ndarray
    """[B, C, S] float32, of every source, whether it offered the item or not; 0 for padding"""
    offered: np.ndarray
    """[B, C, S] bool"""
    answers: tuple[Answer, ...]
    """of the sources"""

    @property
    def recent(self) -> np.ndarray:
        """[B, C, S, E] float32, what each of the newest events alone says, asked of every source; 0 for padding."""
        said = np.zeros((*self.rows.shape, len(self.answers), RECENT), dtype=np.float32)
        query, place = np.nonzero(self.rows != PAD)
        for number, answer in enumerate(self.answers):
            said[query, place, number] = answer.recent(query, self.rows[query, place])
        return said

    @property
    def source_scores(self) -> np.ndarray:
        """[B, C, S] float32, NaN where the source did not offer the item."""
        return np.where(self.offered, self.full_scores, np.float32(np.nan))


def best_columns(merged: np.ndarray, total: int) -> np.ndarray:
    """[B, W] as `Union.merged` -> [B, min(total, W)] columns, best first, equal ones by the lower row; PAD at the end."""
    return best(merged, np.arange(merged.shape[1]), total)


def merge(answers: Sequence[Answer], joined: Union, weights: Sequence[float], total: int) -> Merged:
    """The `total` best of a union of answers, by weights [S]."""
    shape, num_sources = (len(joined.rows), total), len(joined.scores)
    merged = joined.merged(weights)
    chosen = best_columns(merged, total)
    query, place = np.nonzero(chosen != PAD)
    column = chosen[query, place]
    rows = np.full(shape, PAD, dtype=np.int64)
    scores = np.full(shape, -np.inf, dtype=np.float32)
    full_scores = np.zeros((*shape, num_sources), dtype=np.float32)
    offered = np.zeros((*shape, num_sources), dtype=bool)
    rows[query, place] = joined.rows[query, column]
    scores[query, place] = merged[query, column]
    full_scores[query, place] = joined.scores[:, query, column].T
    offered[query, place] = joined.offered[:, query, column].T
    return Merged(rows=rows, scores=scores, full_scores=full_scores, offered=offered, answers=tuple(answers))


def score_features(merged: Merged) -> np.ndarray:
    """What the ranker reads of retrieval: [B, C, 2 + 3 S + S E] float32, all zero for padding.

    The merged score and 1 / log2(2 + place); then the score of every source, also of those that did not offer the item;
    then whether each offered it; then 1 / log2(2 + place) among its own offers, 0 where it made none; then what each of
    the newest events says, source by source: the sums over a history do not tell whether the last event spoke or the
    tenth.
    """
    present = merged.rows != PAD
    gains = (1 / np.log2(2 + np.arange(present.shape[1] + 1))).astype(np.float32)
    parts = (
        np.where(present, merged.scores, 0)[..., None],
        np.where(present, gains[:-1], 0)[..., None],
        merged.full_scores,
        merged.offered,
        _own_gains(merged.full_scores, merged.offered, gains),
        merged.recent.reshape(*present.shape, -1),
    )
    return np.concatenate(parts, axis=-1, dtype=np.float32)


@compiled()
def _own_gains(scores, offered, gains):
    """[B, C, S] each -> [B, C, S]: gains [C] of the place of an item among those that its source offered, best first."""
    found = np.zeros(scores.shape, np.float32)
    for b in range(scores.shape[0]):
        for s in range(scores.shape[2]):
            places = np.flatnonzero(offered[b, :, s])
            order = np.argsort(-scores[b, places, s], kind="mergesort")
            for place, at in enumerate(order):
                found[b, places[at], s] = gains[place]
    return found


def score_columns(sources: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns of `score_features`, by the names of the sources."""
    said = (f"{name}{what}" for what in ("", ":offered", ":place") for name in sources)
    of_events = (f"{name}:event_{number}" for name in sources for number in range(1, RECENT + 1))
    return "merged", "merged:place", *said, *of_events


def columns_of(sources: Sequence[int], num_sources: int) -> np.ndarray:
    """Columns of `score_features` in which the scores, offers and places of these sources stand."""
    return (2 + np.arange(3)[:, None] * num_sources + np.array(sources, dtype=np.int64)).ravel()


def num_score_features(num_sources: int) -> int:
    """Width of `score_features`."""
    return 2 + (3 + RECENT) * num_sources
