"""Union of the candidates of all sources, each item once, with the score of every source for every item.

Shapes: B queries, K offers of all sources, E excluded items, W width of the union, S sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recsys.candidates.candidate_source import SourceScores
from recsys.contracts import PAD
from recsys.jit import compiled

MAX_OFFERS = 2**22
"""candidates of all sources in memory at a time"""


@dataclass(frozen=True, kw_only=True)
class CandidateUnion:
    """Candidates of B queries, each item once, scored by every source."""

    rows: np.ndarray
    """[B, W] int64 catalogue rows, ascending, PAD at the end"""
    offered: np.ndarray
    """[S, B, W] bool"""
    scores: np.ndarray
    """[S, B, W] float32, 0 for padding"""

    @cached_property
    def places(self) -> np.ndarray:
        """[S, B, W] float32, 1 / log2(2 + position) among the candidates of a source, 0 where it did not offer the item."""
        return gains_within_source(self.scores, self.offered)

    def select(self, queries: np.ndarray) -> "CandidateUnion":
        """Return the union of some queries [B] bool."""
        return CandidateUnion(rows=self.rows[queries], offered=self.offered[:, queries], scores=self.scores[:, queries])

    def merged(self, weights: np.ndarray) -> np.ndarray:
        """Weighted sum [B, W] float32, -inf for padding.

        weights: [2 S] or [B, 2 S] float32, of the scores of all sources, then of their places. Summed in a fixed order, so bits
        do not depend on B.
        """
        merged, num_sources = np.where(self.rows == PAD, np.float32(-np.inf), np.float32(0)), len(self.scores)
        for number, column in enumerate(np.atleast_2d(weights).T):
            if column.any():
                part = self.scores[number] if number < num_sources else self.places[number - num_sources]
                merged += column[:, None] * part
        return merged


def unite(sources: Sequence[SourceScores], nums: Sequence[int], excluded: np.ndarray) -> CandidateUnion:
    """Take nums [S] candidates from every source that are not excluded [B, E] (PAD allowed), and score them by every source.

    A source is searched nums + E deep, since all excluded items may rank first; so queries with many excluded items are
    searched apart from the others, which would otherwise pay for them.
    """
    parts = _parts_by_exclusions(excluded, nums)
    if len(parts) == 1:
        return _unite_all(sources, nums, excluded)
    ascending = np.sort(excluded, axis=1)  # PAD in front
    unions = [
        _unite_all(
            [one.select(part) for one in sources], nums, ascending[part, -max(1, _max_exclusions(excluded[part])) :]
        )
        for part in parts
    ]
    return _stitched(unions, parts)


def _max_exclusions(excluded: np.ndarray) -> int:
    return int((excluded != PAD).sum(axis=1).max(initial=0))


def _parts_by_exclusions(excluded: np.ndarray, nums: Sequence[int]) -> list[np.ndarray]:
    """Queries [B] in parts of at most MAX_OFFERS candidates, those with the fewest exclusions first."""
    counts = (excluded != PAD).sum(axis=1)
    if len(counts) * (sum(nums) + len(nums) * counts.max(initial=0)) <= MAX_OFFERS:
        return [np.arange(len(counts))]
    order = np.argsort(counts, kind="stable")
    parts, first = [], 0
    for at, query in enumerate(order):
        if (at - first + 1) * (sum(nums) + len(nums) * counts[query]) > MAX_OFFERS and at > first:
            parts.append(np.sort(order[first:at]))
            first = at
    return [*parts, np.sort(order[first:])]


def _stitched(unions: Sequence[CandidateUnion], parts: Sequence[np.ndarray]) -> CandidateUnion:
    """Join the unions of the parts of a batch."""
    width = max(one.rows.shape[1] for one in unions)
    rows = np.full((sum(map(len, parts)), width), PAD, dtype=np.int64)
    shape = (len(unions[0].scores), *rows.shape)
    offered, scores = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.float32)
    for part, one in zip(parts, unions, strict=True):
        own = one.rows.shape[1]
        rows[part, :own] = one.rows
        offered[:, part, :own] = one.offered
        scores[:, part, :own] = one.scores
    return CandidateUnion(rows=rows, offered=offered, scores=scores)


def _unite_all(sources: Sequence[SourceScores], nums: Sequence[int], excluded: np.ndarray) -> CandidateUnion:
    num_excluded = excluded.shape[1]
    offers = [one.top_k(num + num_excluded) for one, num in zip(sources, nums, strict=True)]
    rows, offered = deduplicated(offers, nums, excluded)
    query, column = np.nonzero(rows != PAD)
    candidates = rows[query, column]
    scores = np.zeros(offered.shape, dtype=np.float32)
    for number, one in enumerate(sources):
        scores[number, query, column] = one.score(query, candidates)
    return CandidateUnion(rows=rows, offered=offered, scores=scores)


def deduplicated(
    offers: Sequence[np.ndarray], nums: Sequence[int], excluded: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The first nums [S] candidates of each source that are not excluded -> union rows [B, W] and offered [S, B, W]."""
    bounds = np.cumsum([0, *(offer.shape[1] for offer in offers)])
    rows, offered, widths = _deduplicated(
        np.concatenate(offers, axis=1), bounds, np.asarray(nums), np.sort(excluded, axis=1)
    )
    width = widths.max(initial=0)
    return rows[:, :width], offered[:, :, :width]


def gains_within_source(scores: np.ndarray, offered: np.ndarray) -> np.ndarray:
    """Gains 1 / log2(2 + position) of candidates at their position in the order of a source, best first, ties as they stand.

    scores [S, B, W] and offered [S, B, W] bool -> [S, B, W] float32, 0 where the source did not offer the candidate.
    """
    gains = (1 / np.log2(2 + np.arange(scores.shape[2] + 1))).astype(np.float32)
    return _gains_within_source(np.ascontiguousarray(scores), np.ascontiguousarray(offered), gains)


@compiled()
def _gains_within_source(scores, offered, gains):
    """As `gains_within_source`, with gains [W + 1] by position."""
    found = np.zeros(scores.shape, np.float32)
    for s in range(scores.shape[0]):
        for b in range(scores.shape[1]):
            columns = np.flatnonzero(offered[s, b])
            order = np.argsort(-scores[s, b, columns], kind="mergesort")  # stable: ties keep the given order
            for position, at in enumerate(order):
                found[s, b, columns[at]] = gains[position]
    return found


@compiled()
def _deduplicated(offers, bounds, nums, excluded):
    """As `deduplicated`, with widths [B]. offers [B, K]: source s has columns bounds[s]:bounds[s + 1]; excluded ascends."""
    num_queries, num_offers = offers.shape
    rows = np.full((num_queries, num_offers), PAD, np.int64)
    offered = np.zeros((len(nums), num_queries, num_offers), np.bool_)
    widths = np.zeros(num_queries, np.int64)
    kept, ends = np.empty(num_offers, np.int64), np.zeros(len(nums) + 1, np.int64)
    for b in range(num_queries):
        # `kept` holds the candidates of source s at ends[s]:ends[s + 1], so that the second loop need not filter again
        for s in range(len(nums)):
            ends[s + 1] = end = ends[s]
            for row in offers[b, bounds[s] : bounds[s + 1]]:
                if end - ends[s] < nums[s] and row != PAD and not _contains(excluded[b], row):
                    kept[end] = row
                    end += 1
            ends[s + 1] = end
        widths[b] = _write_distinct(kept[: ends[-1]], rows[b])
        for s in range(len(nums)):
            for at in range(ends[s], ends[s + 1]):
                offered[s, b, np.searchsorted(rows[b, : widths[b]], kept[at])] = True
    return rows, offered, widths


@compiled()
def _contains(ascending, row):
    at = np.searchsorted(ascending, row)
    return at < len(ascending) and ascending[at] == row


@compiled()
def _write_distinct(rows, found):
    """Write the distinct rows into `found`, ascending; return their number."""
    num = 0
    for row in np.sort(rows):
        if num == 0 or found[num - 1] != row:
            found[num] = row
            num += 1
    return num
