"""Weighted sum of the scores of all sources, over the union of what they offer, with provenance and quotas.

Every source scores every candidate of the union, also those that only others offered, so that the order is that of one
sum: sum over sources of weight * score.

Shapes: B queries, K offers of a source, E excluded items, W width of the union, C candidates, S sources,
E newest events.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.candidates.best import best
from recsys.candidates.contract import RECENT, Answer
from recsys.contracts import PAD


@dataclass(frozen=True, kw_only=True)
class Union:
    """All that was offered to B queries, and what every source thinks of it."""

    rows: np.ndarray
    """[B, W] int64 catalogue rows, rising, PAD at the end"""
    offered: np.ndarray
    """[S, B, W] bool"""
    scores: np.ndarray
    """[S, B, W] float32, 0 for padding"""

    def merged(self, weights: Sequence[float]) -> np.ndarray:
        """[B, W] float32, -inf for padding; summed source by source, so that no batch changes a bit of it."""
        merged = np.where(self.rows == PAD, np.float32(-np.inf), np.float32(0))
        for weight, scores in zip(weights, self.scores, strict=True):
            if weight:
                merged += np.float32(weight) * scores
        return merged


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


def union(answers: Sequence[Answer], nums: Sequence[int], excluded: np.ndarray) -> Union:
    """Ask every source for nums [S] candidates that are not excluded [B, E] (PAD allowed), and for all their scores."""
    beyond = excluded.shape[1]
    offers = [answer.offer(num + beyond) for answer, num in zip(answers, nums, strict=True)]
    rows, offered = _joined(offers, nums, excluded)
    query, column = np.nonzero(rows != PAD)
    scores = np.zeros(offered.shape, dtype=np.float32)
    for number, answer in enumerate(answers):
        scores[number, query, column] = answer.score(query, rows[query, column])
    return Union(rows=rows, offered=offered, scores=scores)


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


def _joined(offers: Sequence[np.ndarray], nums: Sequence[int], excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offers [B, K] of S sources -> rows [B, W] of their union and offered [S, B, W]."""
    query, source, row = _flatten(offers, nums, excluded)
    stride = int(row.max(initial=0)) + 1
    keys, member = np.unique(query * stride + row, return_inverse=True)
    found_query, found_row = keys // stride, keys % stride
    column = np.arange(len(keys)) - np.searchsorted(found_query, found_query)
    shape = (len(excluded), int(column.max(initial=-1)) + 1)
    rows = np.full(shape, PAD, dtype=np.int64)
    rows[found_query, column] = found_row
    offered = np.zeros((len(offers), *shape), dtype=bool)
    offered[source, query, column[member]] = True
    return rows, offered


def _flatten(offers: Sequence[np.ndarray], nums: Sequence[int], excluded: np.ndarray) -> tuple[np.ndarray, ...]:
    """One entry an offer that counts: its query, source and row."""
    rows = np.concatenate(offers, axis=1)
    bounds = np.cumsum([0, *(offer.shape[1] for offer in offers)])
    allowed = (rows != PAD) & ~_contains(excluded, rows)
    for num, start, stop in zip(nums, bounds[:-1], bounds[1:], strict=True):
        allowed[:, start:stop] &= np.cumsum(allowed[:, start:stop], axis=1) <= num
    query, column = np.nonzero(allowed)
    return query, np.searchsorted(bounds, column, side="right") - 1, rows[query, column]


def _contains(excluded: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[B, E], [B, K] -> [B, K] True where the row of the offer is excluded for its query."""
    if not excluded.size or not rows.size:
        return np.zeros(rows.shape, dtype=bool)
    stride = int(max(excluded.max(), rows.max())) + 2
    offset = np.arange(len(rows))[:, None] * stride + 1
    return np.isin(rows + offset, excluded + offset)


def score_features(merged: Merged) -> np.ndarray:
    """What the ranker reads of retrieval: [B, C, 2 + 3 S + S E] float32, all zero for padding.

    The merged score and 1 / log2(2 + place); then the score of every source, also of those that did not offer the item;
    then whether each offered it; then 1 / log2(2 + place) among its own offers, 0 where it made none; then what each of
    the newest events says, source by source: the sums over a history do not tell whether the last event spoke or the
    tenth.
    """
    offered, full = merged.offered, merged.full_scores
    falling = np.argsort(np.where(offered, -full, np.inf), axis=1, kind="stable")
    places = np.argsort(falling, axis=1, kind="stable")
    gains = np.where(offered, 1 / np.log2(2 + places), 0)
    present = merged.rows != PAD
    total = np.where(present, merged.scores, 0)[..., None]
    gain = np.where(present, 1 / np.log2(2 + np.arange(present.shape[1])), 0)[..., None]
    recent = merged.recent.reshape(*present.shape, -1)
    return np.concatenate([total, gain, full, offered, gains, recent], axis=-1).astype(np.float32)


def num_score_features(num_sources: int) -> int:
    """Width of `score_features`."""
    return 2 + (3 + RECENT) * num_sources
