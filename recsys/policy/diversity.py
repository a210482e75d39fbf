"""Greedy selection of a slate: maximal marginal relevance under the caps of the rules, one loop over the places.

Shapes: B queries of a batch, C columns of the pool, K places, D dim of the vectors, N items, M values of an item.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys.errors import ConfigError
from recsys.policy.rules import CompiledCap

UNKNOWN_PENALTY = 4.0
"""more than the scores of two items with a known utility can differ, which is 3"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What may be shown to each query of a batch. Columns lie in plain order: utility falling, then row rising."""

    rows: np.ndarray
    """[B, C] int64, row of the item in the catalogue, PAD where there is none"""
    utility: np.ndarray
    """[B, C] float64, NaN where unknown"""
    eligible: np.ndarray
    """[B, C] bool, False also for the items of pins"""
    pinned: np.ndarray
    """[B, K] int64, column that holds the place by a pin, -1 where the place is free"""
    sizes: np.ndarray
    """[B] int64, places to fill, at most as many as there are eligible columns and pins"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which column of the pool stands where."""

    columns: np.ndarray
    """[B, K] int64, -1 beyond the size of the slate"""
    relaxed: np.ndarray
    """[B] bool, True where a cap could not be kept"""
    passed_over: np.ndarray
    """[number of caps, B, C] bool, True where the cap cost the item a place"""


class MaximalMarginalRelevance:
    """Pick, place by place, argmax of trade_off * relevance - (1 - trade_off) * similarity to what stands above.

    Relevance is the utility scaled to [0, 1] over the eligible items of the query, similarity the greatest cosine.
    trade_off 1 is relevance only; places from `window` on are filled in plain order. Ties go to the plain order.
    Source: Carbonell and Goldstein, The Use of MMR, Diversity-Based Reranking, SIGIR 1998.
    """

    def __init__(self, *, trade_off: float, window: int) -> None:
        if isinstance(trade_off, bool) or not isinstance(trade_off, int | float) or not 0 <= trade_off <= 1:
            raise ConfigError(f"diversity.trade_off is {trade_off!r}; write a number from 0 to 1")
        if isinstance(window, bool) or not isinstance(window, int) or window < 0:
            raise ConfigError(f"diversity.window is {window!r}; write a whole number from 0")
        self.trade_off = float(trade_off)
        self.window = window

    def select(self, pool: Pool, vectors: np.ndarray, lengths: np.ndarray, caps: Sequence[CompiledCap]) -> Selection:
        """Fill the places of every query; vectors [N, D] of any length, lengths [N] theirs.

        At each place the choice is among the items that break the fewest caps, so a cap yields only when it must.
        Every step is elementwise or along one row, so a query gets the same slate in any batch.
        """
        window = self.window if self.trade_off < 1 else 0
        counters = [CapCounter(cap, pool) for cap in caps]
        greedy = min(pool.pinned.shape[1], max([window, *(cap.top for cap in caps)]))
        state = _Greedy(pool, counters)
        diversity = _Diversity(pool, vectors, lengths, self.trade_off) if min(greedy, window) else None
        plain = np.broadcast_to(-np.arange(pool.rows.shape[1], dtype=np.float64), pool.rows.shape)
        for place in range(greedy):
            diverse = diversity is not None and place < window
            chosen = state.step(place, diversity.scores() if diversity and diverse else plain)
            if diversity and diverse:
                diversity.add(chosen)
        state.fill_rest(greedy)
        return Selection(columns=state.columns, relaxed=state.relaxed, passed_over=state.passed_over)


@dataclass(slots=True)
class _Greedy:
    """The slates while they are filled."""

    pool: Pool
    counters: list["CapCounter"]
    free: np.ndarray = field(init=False)
    columns: np.ndarray = field(init=False)
    relaxed: np.ndarray = field(init=False)
    passed_over: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.free = self.pool.eligible.copy()
        self.columns = np.full(self.pool.pinned.shape, -1, dtype=np.int64)
        self.relaxed = np.zeros(len(self.free), dtype=bool)
        for counter in self.counters:
            self.relaxed |= counter.overfull()
        self.passed_over = np.zeros((len(self.counters), *self.free.shape), dtype=bool)

    def step(self, place: int, scores: np.ndarray) -> np.ndarray:
        """Fill one place by the greatest score [B, C]; returns the column [B] that stands there, -1 for none."""
        pinned = self.pool.pinned[:, place]
        picks = (pinned < 0) & (place < self.pool.sizes)
        broken = [counter.broken(place) for counter in self.counters]
        allowed, forced = self._allowed(broken)
        choice = np.argmax(np.where(allowed, scores, -np.inf), axis=1)
        self.relaxed |= picks & forced
        self._note_passed_over(broken, picks, choice, scores)
        self._take(np.flatnonzero(picks), choice)
        self.columns[:, place] = np.where(picks, choice, np.where(place < self.pool.sizes, pinned, -1))
        return self.columns[:, place]

    def _allowed(self, broken: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Free columns [B, C] that break the fewest caps, and where [B] even these break one."""
        if not broken:
            return self.free, np.zeros(len(self.free), dtype=bool)
        num_broken = np.where(self.free, np.sum(broken, axis=0), len(broken) + 1)
        fewest = num_broken.min(axis=1)
        return self.free & (num_broken == fewest[:, None]), fewest > 0

    def _note_passed_over(
        self, broken: list[np.ndarray], picks: np.ndarray, choice: np.ndarray, scores: np.ndarray
    ) -> None:
        if not np.any(broken):
            return
        best = np.take_along_axis(scores, choice[:, None], axis=1)
        before = np.arange(scores.shape[1]) < choice[:, None]
        better = self.free & picks[:, None] & ((scores > best) | ((scores == best) & before))
        for index, breaks in enumerate(broken):
            self.passed_over[index] |= better & breaks

    def _take(self, queries: np.ndarray, choice: np.ndarray) -> None:
        self.free[queries, choice[queries]] = False
        for counter in self.counters:
            counter.add(queries, choice[queries])

    def fill_rest(self, start: int) -> None:
        """Fill the places from `start` in plain order, around the pins."""
        pinned = self.pool.pinned[:, start:]
        places = np.arange(start, start + pinned.shape[1])
        inside = places < self.pool.sizes[:, None]
        order = np.argsort(~self.free, axis=1, kind="stable")
        turn = np.cumsum(inside & (pinned < 0), axis=1) - 1
        following = np.take_along_axis(order, np.clip(turn, 0, None), axis=1) if order.size else pinned
        self.columns[:, start:] = np.where(inside, np.where(pinned < 0, following, pinned), -1)


class CapCounter:
    """How many items of each value stand among the first `top` places, the pinned ones from the beginning."""

    def __init__(self, cap: CompiledCap, pool: Pool) -> None:
        self.top = cap.top
        self.cap = cap.cap
        self.groups = cap.groups[pool.rows]
        """[B, C, M]"""
        self.counts = np.zeros((len(pool.rows), cap.num_groups + 1), dtype=np.int32)
        queries, places = np.nonzero(pool.pinned[:, : cap.top] >= 0)
        self.add(queries, pool.pinned[queries, places])

    def add(self, queries: np.ndarray, columns: np.ndarray) -> None:
        """Count the items that stand in these columns of these queries."""
        np.add.at(self.counts, (queries[:, None], self.groups[queries, columns]), 1)
        self.counts[:, -1] = 0

    def broken(self, place: int) -> np.ndarray:
        """[B, C] bool, True where the item would be one too many at this place."""
        if place >= self.top:
            return np.zeros(self.groups.shape[:2], dtype=bool)
        counts = self.counts[np.arange(len(self.groups))[:, None, None], self.groups]
        return np.asarray((counts >= self.cap).any(axis=2))

    def overfull(self) -> np.ndarray:
        """[B] bool, True where the pins alone break the cap."""
        return np.asarray((self.counts > self.cap).any(axis=1))


class _Diversity:
    """Scores of maximal marginal relevance, updated by one comparison with the latest choice a place."""

    def __init__(self, pool: Pool, vectors: np.ndarray, lengths: np.ndarray, trade_off: float) -> None:
        scale = np.where(lengths > 0, lengths, 1).astype(np.float32)
        self.units = vectors[pool.rows] / scale[pool.rows][..., None]
        """[B, C, D]"""
        self.weight = 1 - trade_off
        self.base = trade_off * relevance(pool) - UNKNOWN_PENALTY * np.isnan(pool.utility)
        self.closest: np.ndarray | None = None

    def scores(self) -> np.ndarray:
        """[B, C] float64"""
        return self.base if self.closest is None else self.base - self.weight * self.closest

    def add(self, columns: np.ndarray) -> None:
        """Take in the columns [B] chosen for one place; -1, beyond a slate, may count for nothing."""
        latest = self.units[np.arange(len(columns)), columns]
        similarity = np.einsum("bcd,bd->bc", self.units, latest).astype(np.float64)
        self.closest = similarity if self.closest is None else np.maximum(self.closest, similarity)


def relevance(pool: Pool) -> np.ndarray:
    """Utility [B, C] scaled to [0, 1] over the eligible columns of each query; 0 where it is unknown."""
    known = pool.eligible & ~np.isnan(pool.utility)
    low = np.min(pool.utility, axis=1, where=known, initial=np.inf, keepdims=True)
    high = np.max(pool.utility, axis=1, where=known, initial=-np.inf, keepdims=True)
    span = np.where(high > low, high - low, 1)
    return np.where(known, (pool.utility - np.where(np.isfinite(low), low, 0)) / span, 0)
