"""One pass over item vectors kept as 8-bit integers, with a bound on what that loses: finds all that can be in the top k.

Item x is kept as codes c and a scale s, so that |q.x - q.(s c)| <= ||q|| ||x - s c|| (Cauchy-Schwarz). A margin is
||x - s c|| and, times ||x||, what the rounded query and float32 arithmetic add. The best lower bound of a group is
a score that one of its rows reaches; the k-th best of these over all groups is a floor below which no result lies.

Shapes: N items, D dim, G groups of consecutive rows, C candidates.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

LEVELS = 127
ROUNDING = 2.0**-18
"""relative, of float32 arithmetic in a scan and in a folded score, together at most 2^-18 for D up to 4,096"""
TINY = np.float32(1e-34)
"""absolute, of products that underflow"""
SMALLEST = np.float32(1e-30)
LOWEST = np.float32(-3e38)
FAST = {"reassoc", "contract", "nnan", "nsz"}
BLOCK = 65_536


@dataclass(frozen=True, kw_only=True)
class Codes:
    """What a scan reads instead of the vectors."""

    codes: np.ndarray
    """[N, D] int8"""
    scales: np.ndarray
    """[N] float32"""
    margins: np.ndarray
    """[N] float32; times the query's norm the most by which a scan's score is off"""

    @staticmethod
    def of(vectors: np.ndarray) -> "Codes":
        """Encode vectors [N, D] float32, block by block."""
        starts = range(0, max(len(vectors), 1), BLOCK)
        codes, scales, margins = zip(*(_encode(vectors[at : at + BLOCK]) for at in starts), strict=True)
        return Codes(codes=np.concatenate(codes), scales=np.concatenate(scales), margins=np.concatenate(margins))

    def joined(self, other: "Codes") -> "Codes":
        return Codes(
            codes=np.concatenate([self.codes, other.codes]),
            scales=np.concatenate([self.scales, other.scales]),
            margins=np.concatenate([self.margins, other.margins]),
        )

    def candidates(
        self, query: np.ndarray, k: int, allowed: np.ndarray, vectors: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Folded scores [C] and rising rows [C] of all that may be among the k best of query [D]; allowed: [N] bool."""
        levels = _query_levels(len(query))
        step = np.float32(max(np.abs(query).max(initial=0), SMALLEST) / levels)
        rounded = np.rint(query / step).astype(np.int16)
        norm = np.float32(np.sqrt(query.astype(np.float64) @ query) * (1 + 1e-6))
        size = max(round((len(allowed) / (2 * k)) ** 0.5), 1)
        bounds, collect = _compiled(len(query))
        known = (self.codes, self.scales, self.margins, allowed, rounded, step, norm, size)
        lower, upper = bounds(*known)
        floor = _floor(lower, k)
        return collect(*known, np.flatnonzero(upper >= floor), floor, vectors, query)


def _query_levels(dim: int) -> int:
    """Steps of a rounded query: as many as fit 16 bits, and sums of D products 32."""
    return min(32_767, (2**31 - 1) // (LEVELS * max(dim, 1)))


def _encode(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scales = np.maximum(np.abs(vectors).max(axis=1, initial=0) / LEVELS, SMALLEST)
    codes = np.rint(vectors / scales[:, None]).astype(np.int8)
    exact = vectors.astype(np.float64)
    dim = vectors.shape[1]
    relative = ROUNDING + np.sqrt(dim) / _query_levels(dim)
    lost = np.linalg.norm(exact - codes * scales[:, None].astype(np.float64), axis=1)
    margins = lost * 1.001 + relative * np.linalg.norm(exact, axis=1)
    return codes, scales, np.nextafter(margins.astype(np.float32), np.float32(np.inf))


@njit(nogil=True)
def _floor(lower, k):
    """The k-th largest of [G] numbers, rounded down by at most 2^-13 of it: a radix selection of the first 22 bits."""
    if len(lower) <= k:
        return LOWEST
    bits, prefix = lower.view(np.int32), np.int64(0)
    for shift in (21, 10):
        counts = np.zeros(2048, dtype=np.int64)
        for at in range(len(bits)):
            key = _rising(bits[at]) + 2**31
            if key >> (shift + 11) == prefix:
                counts[(key >> shift) & 2047] += 1
        bucket = 2047
        while counts[bucket] < k:
            k -= counts[bucket]
            bucket -= 1
        prefix = (prefix << 11) | bucket
    rounded = np.empty(1, dtype=np.int32)
    rounded[0] = _rising((prefix << 10) - 2**31)
    return rounded.view(np.float32)[0]


@njit(nogil=True)
def _rising(bits):
    """float32 bits as a whole number of the same order; its own inverse."""
    return bits if bits >= 0 else bits ^ 0x7FFFFFFF


@lru_cache
def _compiled_fold(width: int) -> Callable[..., Any]:
    """A folded sum over the first `width` products, see recsys.index.scores."""
    if width <= 1:
        return njit(nogil=True)(lambda products: products[0])
    half = (width + 1) // 2
    others, rest = width - half, _compiled_fold(half)

    @njit(nogil=True)
    def folded(products):
        for at in range(others):
            products[at] += products[half + at]
        return rest(products)

    return folded


@lru_cache
def _compiled(dim: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The machine code for one dim: with a constant length the inner loops become a few vector instructions."""

    @njit(nogil=True, fastmath=FAST)
    def approximate(codes, scales, rounded, step, start, num, scores):
        for at in range(num):
            total = np.int32(0)
            for place in range(dim):
                total = np.int32(total + np.int32(codes[start + at, place]) * np.int32(rounded[place]))
            scores[at] = total * (scales[start + at] * step)

    @njit(nogil=True, fastmath=FAST)
    def bounds(codes, scales, margins, allowed, rounded, step, norm, size):
        """The best lower and upper bound of every group, LOWEST where none of its rows is allowed."""
        lower = np.empty((len(codes) + size - 1) // size, dtype=np.float32)
        upper = np.empty_like(lower)
        scores = np.empty(size, dtype=np.float32)
        for group in range(len(lower)):
            start = group * size
            num = min(size, len(codes) - start)
            approximate(codes, scales, rounded, step, start, num, scores)
            low = high = LOWEST
            for at in range(num):
                margin = norm * margins[start + at] + TINY
                low = max(low, scores[at] - margin if allowed[start + at] else LOWEST)
                high = max(high, scores[at] + margin if allowed[start + at] else LOWEST)
            lower[group], upper[group] = low, high
        return lower, upper

    folded = _compiled_fold(dim)

    @njit(nogil=True)
    def collect(codes, scales, margins, allowed, rounded, step, norm, size, reached, floor, vectors, query):
        """Folded scores and rows of all in the reached groups whose upper bound is not below the floor."""
        exact = np.empty(len(reached) * size, dtype=np.float32)
        rows = np.empty(len(reached) * size, dtype=np.int64)
        scores = np.empty(size, dtype=np.float32)
        products = np.zeros(max(dim, 1), dtype=np.float32)
        found = 0
        for group in reached:
            start = group * size
            num = min(size, len(codes) - start)
            approximate(codes, scales, rounded, step, start, num, scores)
            for at in range(num):
                row = start + at
                if allowed[row] and scores[at] + (norm * margins[row] + TINY) >= floor:
                    for place in range(dim):
                        products[place] = query[place] * vectors[row, place]
                    rows[found], exact[found] = row, folded(products)
                    found += 1
        return exact[:found], rows[:found]

    return bounds, collect
