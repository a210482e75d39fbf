"""All that the sources offer to a query, each item once, and what every source thinks of it.

Shapes: B queries, K offers of all sources, E excluded items, W width of the union, S sources.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.candidates.contract import Answer
from recsys.contracts import PAD
from recsys.jit import compiled

OFFERS = 2**22
"""offers of all sources held at a time"""


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


def union(answers: Sequence[Answer], nums: Sequence[int], excluded: np.ndarray) -> Union:
    """Ask every source for nums [S] candidates that are not excluded [B, E] (PAD allowed), and for all their scores.

    A source is asked for as many more as are excluded, so queries with many excluded items are asked apart from others.
    """
    parts = _by_exclusions(excluded, nums)
    if len(parts) == 1:
        return _union(answers, nums, excluded)
    rising = np.sort(excluded, axis=1)  # PAD in front
    unions = [
        _union([answer.only(part) for answer in answers], nums, rising[part, -max(1, _most(excluded[part])) :])
        for part in parts
    ]
    return _stitched(unions, parts)


def _most(excluded: np.ndarray) -> int:
    return int((excluded != PAD).sum(axis=1).max(initial=0))


def _by_exclusions(excluded: np.ndarray, nums: Sequence[int]) -> list[np.ndarray]:
    """Queries [B] in parts whose offers are at most OFFERS, those with the fewest exclusions first."""
    counts = (excluded != PAD).sum(axis=1)
    if len(counts) * (sum(nums) + len(nums) * counts.max(initial=0)) <= OFFERS:
        return [np.arange(len(counts))]
    order = np.argsort(counts, kind="stable")
    parts, first = [], 0
    for at, query in enumerate(order):
        if (at - first + 1) * (sum(nums) + len(nums) * counts[query]) > OFFERS and at > first:
            parts.append(np.sort(order[first:at]))
            first = at
    return [*parts, np.sort(order[first:])]


def _stitched(unions: Sequence[Union], parts: Sequence[np.ndarray]) -> Union:
    """The unions of parts of a batch as that of the batch."""
    width = max(one.rows.shape[1] for one in unions)
    rows = np.full((sum(map(len, parts)), width), PAD, dtype=np.int64)
    shape = (len(unions[0].scores), *rows.shape)
    offered, scores = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=np.float32)
    for part, one in zip(parts, unions, strict=True):
        own = one.rows.shape[1]
        rows[part, :own] = one.rows
        offered[:, part, :own] = one.offered
        scores[:, part, :own] = one.scores
    return Union(rows=rows, offered=offered, scores=scores)


def _union(answers: Sequence[Answer], nums: Sequence[int], excluded: np.ndarray) -> Union:
    beyond = excluded.shape[1]
    offers = [answer.offer(num + beyond) for answer, num in zip(answers, nums, strict=True)]
    rows, offered = joined(offers, nums, excluded)
    query, column = np.nonzero(rows != PAD)
    asked = rows[query, column]
    scores = np.zeros(offered.shape, dtype=np.float32)
    for number, answer in enumerate(answers):
        scores[number, query, column] = answer.score(query, asked)
    return Union(rows=rows, offered=offered, scores=scores)


def joined(offers: Sequence[np.ndarray], nums: Sequence[int], excluded: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first nums [S] of the offers of each source that count -> rows [B, W] of their union and offered [S, B, W]."""
    bounds = np.cumsum([0, *(offer.shape[1] for offer in offers)])
    rows, offered, widths = _joined(np.concatenate(offers, axis=1), bounds, np.asarray(nums), np.sort(excluded, axis=1))
    width = widths.max(initial=0)
    return rows[:, :width], offered[:, :, :width]


@compiled()
def _joined(offers, bounds, nums, excluded):
    """offers [B, K], those of source s from bounds [S + 1]; excluded rises. As `joined`, with the width of each query."""
    num_queries, num_offers = offers.shape
    rows = np.full((num_queries, num_offers), PAD, np.int64)
    offered = np.zeros((len(nums), num_queries, num_offers), np.bool_)
    widths = np.zeros(num_queries, np.int64)
    kept, ends = np.empty(num_offers, np.int64), np.zeros(len(nums) + 1, np.int64)
    for b in range(num_queries):
        for s in range(len(nums)):
            ends[s + 1] = end = ends[s]
            for row in offers[b, bounds[s] : bounds[s + 1]]:
                if end - ends[s] < nums[s] and row != PAD and not _holds(excluded[b], row):
                    kept[end] = row
                    end += 1
            ends[s + 1] = end
        widths[b] = _distinct(kept[: ends[-1]], rows[b])
        for s in range(len(nums)):
            for at in range(ends[s], ends[s + 1]):
                offered[s, b, np.searchsorted(rows[b, : widths[b]], kept[at])] = True
    return rows, offered, widths


@compiled()
def _holds(rising, row):
    at = np.searchsorted(rising, row)
    return at < len(rising) and rising[at] == row


@compiled()
def _distinct(rows, found):
    """Write every one of the rows once into `found`, rising; returns their number."""
    num = 0
    for row in np.sort(rows):
        if num == 0 or found[num - 1] != row:
            found[num] = row
            num += 1
    return num
