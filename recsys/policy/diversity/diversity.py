"""The interface of diversities: scores of the columns at each position, relevance traded against similarity to the items above.

A diversity is a class with compiled functions. The selection calls them by their addresses, so it is compiled once for all.

Shapes: N items of the catalogue, B queries, C columns of the pool, D dim of the vectors, V values of a category,
W rows of factors.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numba import typeof, types

from recsys.errors import check_ranges
from recsys.expressions import Columns
from recsys.jit import KernelType, compiled
from recsys.policy.pool import EligiblePool

UNKNOWN_PENALTY = 10.0
"""relevance subtracted for an unknown utility: no diversity penalty is as large, proportions have 4.6 at most"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSimilarity:
    """Similarity of the items of one catalogue."""

    units: np.ndarray
    """[N, D] float32 of length 1, or 0 for an item without a vector; D is 0 where a diversity reads none"""
    shares: np.ndarray
    """[N, V] float32, each item's shares of the values of one category, summing to 1, or 0 without any; V may be 0"""


class Scoring(NamedTuple):
    """Inputs of the scores within the window; positions behind it follow the utility order."""

    window: int
    """0 is no diversity"""
    trade_off: float
    relevance: np.ndarray
    """[B, C] float64, from 0; negative where the utility is unknown"""
    spans: np.ndarray
    """[B] float64, utility difference of one unit of relevance"""
    units: np.ndarray
    """[B, C, D] float32 of length 1 or 0"""
    shares: np.ndarray
    """[B, C, V] float32, values of each item"""
    target_shares: np.ndarray
    """[B, V] float32, shares of the values in the user's history, all 0 without one"""


class DiversityState(NamedTuple):
    """State of a slate that the scores of its next position read."""

    columns: np.ndarray
    """[2, C] float64, two numbers a column"""
    factors: np.ndarray
    """[W, C] float32, a row a position"""
    sums: np.ndarray
    """[V] float64"""
    number: np.ndarray
    """[1] int64, number of placed items"""


class DiversityKernels(NamedTuple):
    """Addresses of the compiled functions of a diversity."""

    start: int
    score: int
    add: int
    noise: int


SCORING = typeof(
    Scoring(
        window=1,
        trade_off=1.0,
        relevance=np.zeros((1, 1)),
        spans=np.zeros(1),
        units=np.zeros((1, 1, 1), dtype=np.float32),
        shares=np.zeros((1, 1, 1), dtype=np.float32),
        target_shares=np.zeros((1, 1), dtype=np.float32),
    )
)
STATE = typeof(
    DiversityState(np.zeros((1, 1)), np.zeros((1, 1), dtype=np.float32), np.zeros(1), np.zeros(1, dtype=np.int64))
)
VALUES, FLAGS = types.float64[::1], types.boolean[::1]
START = KernelType(types.void, types.int64, SCORING, STATE)
SCORE = KernelType(types.void, types.int64, SCORING, STATE, VALUES)
ADD = KernelType(types.void, types.int64, types.int64, SCORING, FLAGS, STATE)
NOISE = KernelType(types.void, SCORING, VALUES, VALUES, VALUES, VALUES)


@compiled()
def _start(b, scoring, state):
    """Keep the zeros."""


@compiled()
def _noise(scoring, scores, relevance_std, compared, stds):
    """Compare the scores themselves, of which relevance has the share trade_off."""
    for c in range(len(scores)):
        compared[c], stds[c] = scores[c], scoring.trade_off * relevance_std[c]


class Diversity(ABC):
    """Score of the first `window` positions; positions behind it follow falling utility.

    trade_off: 1 is relevance only, 0 diversity only. Relevance is the utility above the least of the eligible items,
    divided by `span`. None is the range within the request, which diversifies all slates equally. A number is the same for
    all requests: with calibrated utilities, confident rankings stay and flat ones are diversified more, which costs the
    fewest hits for a mean intra-list distance.

    Six members; `start`, `noise` and `sorts` have a default.
    """

    start: ClassVar[Any] = _start
    """compiled(b, scoring, state): write the state before any item is placed; it comes as zeros"""
    score: ClassVar[Any]
    """compiled(b, scoring, state, scores): write the scores [C] of all columns at the next position"""
    add: ClassVar[Any]
    """compiled(b, chosen, scoring, remaining, state): update the state by a placed column; only the remaining [C] can follow"""
    noise: ClassVar[Any] = _noise
    """compiled(scoring, scores, relevance_std, compared, stds): write scores [C] to compare under Thompson sampling, and
    their standard deviations"""
    sorts: ClassVar[bool] = False
    """whether the chosen items are sorted by falling utility at the end: the score does not depend on their order"""

    def __init__(self, *, trade_off: float, window: int, span: float | None) -> None:
        check_ranges("diversity", trade_off=(trade_off, 0.0, 1.0), window=(window, 0, 1_000))
        if span is not None:
            check_ranges("diversity", span=(span, 1e-9, 1e9))
        self.trade_off = float(trade_off)
        self.window = window
        self.span = None if span is None else float(span)

    @abstractmethod
    def similarity(self, vectors: np.ndarray, catalogue: Columns, types: Mapping[str, str]) -> ItemSimilarity:
        """Compute similarities; vectors [N, D'] of any length. ConfigError for a column that is no category."""

    @classmethod
    def kernels(cls) -> DiversityKernels:
        return _addresses(cls.start, cls.score, cls.add, cls.noise)

    def scoring(
        self, pool: EligiblePool, similarity: ItemSimilarity, histories: Sequence[Sequence[int]], *, ranked: bool
    ) -> Scoring:
        """Return the inputs of a batch.

        histories: catalogue rows of each query's history. ranked: utilities come from probabilities; otherwise `span` has
        the wrong unit, and that of the request is used.
        """
        window = self.window if self.trade_off < 1 else 0
        units, shares = (one if window else one[:, :0] for one in (similarity.units, similarity.shares))
        target_shares = np.zeros((len(histories), shares.shape[1]), dtype=np.float32)
        for own, rows in zip(target_shares, histories, strict=True):
            if rows and shares.shape[1]:
                own[:] = shares[list(rows)].mean(axis=0)
        lows, spans = scale(pool)
        if self.span is not None and ranked:
            spans = np.full_like(spans, self.span)
        return Scoring(
            window=window,
            trade_off=self.trade_off,
            relevance=relevance(pool, lows, spans),
            spans=spans,
            units=units[pool.rows],
            shares=shares[pool.rows],
            target_shares=target_shares,
        )


@cache
def _addresses(start: Any, score: Any, add: Any, noise: Any) -> DiversityKernels:
    return DiversityKernels(
        START.address_of(start), SCORE.address_of(score), ADD.address_of(add), NOISE.address_of(noise)
    )


@compiled()
def weighted_relevance(b, scoring, c):
    """Return trade_off * relevance. A relevance below 0 marks an unknown utility and stays as it is, below all others."""
    value = scoring.relevance[b, c]
    return value * scoring.trade_off if value >= 0 else value


def relevance(pool: EligiblePool, lows: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Return relevance [B, C] of eligible columns, negative where the utility is unknown; lows, spans: from `scale`."""
    relevances = np.zeros(pool.utility.shape)
    _relate(pool.eligible, pool.utility, lows, spans, relevances)
    return relevances


def scale(pool: EligiblePool) -> tuple[np.ndarray, np.ndarray]:
    """Return [B] lows and spans: the utility of relevance 0, and the range up to relevance 1."""
    lows, spans = np.zeros(len(pool.utility)), np.ones(len(pool.utility))
    _measure_span(pool.eligible, pool.utility, lows, spans)
    return lows, spans


@compiled()
def _measure_span(eligible, utility, lows, spans):
    """Write lows and spans [B] over eligible columns of known utility; equal utilities get span 1, not a division by 0."""
    for b in range(len(utility)):
        low, high = math.inf, -math.inf
        for c in range(utility.shape[1]):
            if eligible[b, c] and not math.isnan(utility[b, c]):
                low, high = min(low, utility[b, c]), max(high, utility[b, c])
        if low <= high:
            lows[b], spans[b] = low, high - low if high > low else 1.0


@compiled()
def _relate(eligible, utility, lows, spans, relevances):
    """Write relevances [B, C]; columns that are not eligible keep 0, they are never scored."""
    for b in range(len(utility)):
        for c in range(utility.shape[1]):
            if math.isnan(utility[b, c]):
                relevances[b, c] = -UNKNOWN_PENALTY
            elif eligible[b, c]:
                relevances[b, c] = (utility[b, c] - lows[b]) / spans[b]
