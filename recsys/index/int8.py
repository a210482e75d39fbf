"""Scan of item vectors as 8-bit integers with an error bound, which finds every row that can be in the top k.

Item x is stored as codes c and a scale s, so that |q.x - q.(s c)| <= ||q|| ||x - s c|| (Cauchy-Schwarz). A margin is
||x - s c|| plus ||x|| times the error of the rounded query and of float32 arithmetic. The best lower bound of a group is
a score that one of its rows reaches; the k-th best of these over all groups is a floor below which no result lies.

Shapes: N items, D dim, G groups of consecutive rows, C candidates, K results.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit

LEVELS = 127
ROUNDING = 2.0**-18
"""relative error of float32 arithmetic in a scan and in a folded score, together at most 2^-18 for D up to 4,096"""
UNDERFLOW_ERROR = np.float32(1e-34)
"""absolute error of products that underflow"""
MIN_SCALE = np.float32(1e-30)
NO_SCORE = np.float32(-3e38)
FASTMATH = {"reassoc", "contract", "nnan", "nsz"}
ENCODE_BLOCK = 65_536


ResultBuffers = tuple[np.ndarray, np.ndarray]
"""scores [K] float32 and rows [K] int64, to be filled"""


@dataclass(frozen=True, kw_only=True)
class Int8Codes:
    """Quantised vectors with the error bound of each."""

    codes: np.ndarray
    """[N, D] int8"""
    scales: np.ndarray
    """[N] float32"""
    margins: np.ndarray
    """[N] float32; times the query's norm an upper bound of the error of a scan's score"""

    @staticmethod
    def of(vectors: np.ndarray) -> "Int8Codes":
        """Encode vectors [N, D] float32, block by block."""
        starts = range(0, max(len(vectors), 1), ENCODE_BLOCK)
        codes, scales, margins = zip(*(_encode(vectors[at : at + ENCODE_BLOCK]) for at in starts), strict=True)
        return Int8Codes(codes=np.concatenate(codes), scales=np.concatenate(scales), margins=np.concatenate(margins))

    def joined(self, other: "Int8Codes") -> "Int8Codes":
        return Int8Codes(
            codes=np.concatenate([self.codes, other.codes]),
            scales=np.concatenate([self.scales, other.scales]),
            margins=np.concatenate([self.margins, other.margins]),
        )

    def search(self, query: np.ndarray, allowed: np.ndarray, vectors: np.ndarray, found: ResultBuffers) -> int:
        """Write the top k of query [D] among allowed [N] bool, descending, into `found`; return the number of scored rows.

        With fewer than k allowed rows the rest of `found` stays as it is.
        """
        return _compiled_search(len(query))(
            self.codes, self.scales, self.margins, allowed, vectors, query, _query_levels(len(query)), *found
        )


def _query_levels(dim: int) -> int:
    """Largest integer of a rounded query: it fits 16 bits, and sums of D products fit 32."""
    return min(32_767, (2**31 - 1) // (LEVELS * max(dim, 1)))


def _encode(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scales = np.maximum(np.abs(vectors).max(axis=1, initial=0) / LEVELS, MIN_SCALE)
    codes = np.rint(vectors / scales[:, None]).astype(np.int8)
    exact = vectors.astype(np.float64)
    dim = vectors.shape[1]
    relative = ROUNDING + np.sqrt(dim) / _query_levels(dim)
    lost = np.linalg.norm(exact - codes * scales[:, None].astype(np.float64), axis=1)
    margins = lost * 1.001 + relative * np.linalg.norm(exact, axis=1)
    return codes, scales, np.nextafter(margins.astype(np.float32), np.float32(np.inf))


@njit(nogil=True)
def _order_preserving(bits):
    """float32 bits as an integer of the same order; its own inverse."""
    return bits if bits >= 0 else bits ^ 0x7FFFFFFF


@njit(nogil=True)
def _kth_largest(lower, k):
    """The k-th largest of [G] numbers, rounded down by at most 2^-13 of it: a radix selection of the first 22 bits."""
    # with so few groups each may hold a result: no floor
    if len(lower) <= k:
        return NO_SCORE
    bits, prefix = lower.view(np.int32), np.int64(0)
    # 22 bits in two passes of 2,048 counters, which fit into the first-level cache; a floor may be too low, never too high
    for shift in (21, 10):
        counts = np.zeros(2048, dtype=np.int64)
        for at in range(len(bits)):
            key = _order_preserving(bits[at]) + 2**31
            if key >> (shift + 11) == prefix:
                counts[(key >> shift) & 2047] += 1
        bucket = 2047
        while counts[bucket] < k:
            k -= counts[bucket]
            bucket -= 1
        prefix = (prefix << 11) | bucket
    rounded = np.empty(1, dtype=np.int32)
    rounded[0] = _order_preserving((prefix << 10) - 2**31)
    return rounded.view(np.float32)[0]


@njit(nogil=True)
def _descending_order(scores):
    """Indices of [C] scores in descending order, stable: a radix sort by bytes."""
    bits = scores.view(np.int32)
    keys, order = np.empty(len(bits), dtype=np.int64), np.arange(len(bits))
    for at in range(len(bits)):
        keys[at] = 2**31 - 1 - _order_preserving(bits[at])
    # stable by bytes from the lowest: equal scores keep the order of their rows, which is the order of ties
    for shift in (0, 8, 16, 24):
        starts, sorted_order = np.zeros(257, dtype=np.int64), np.empty_like(order)
        for key in keys:
            starts[((key >> shift) & 255) + 1] += 1
        starts = np.cumsum(starts)
        for d in order:
            byte = (keys[d] >> shift) & 255
            sorted_order[starts[byte]] = d
            starts[byte] += 1
        order = sorted_order
    return order


@njit(nogil=True)
def _round_query(query, levels):
    """The query [D] as integers up to `levels`, the step between two of them, and an upper bound of its norm."""
    largest, squares = MIN_SCALE, 0.0
    for value in query:
        largest = max(largest, abs(value))
        squares += np.float64(value) * value
    step = np.float32(largest / levels)
    rounded = np.empty(len(query), dtype=np.int16)
    for at in range(len(query)):
        rounded[at] = np.int16(np.rint(query[at] / step))
    return rounded, step, np.float32(np.sqrt(squares) * (1 + 1e-6))


@lru_cache
def _compiled_fold(width: int) -> Callable[..., Any]:
    """Compile the folded sum of the first `width` products, see recsys.index.scores."""
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
def _compiled_approximate(dim: int) -> Callable[..., Any]:
    """Compile the scores of int8 codes, a group of rows at a time."""

    @njit(nogil=True, fastmath=FASTMATH)
    def approximate(codes, scales, rounded, step, start, num, scores):
        for at in range(num):
            # int32 sums are exact here, see _query_levels, and compile to vector multiply-adds
            total = np.int32(0)
            for d in range(dim):
                total = np.int32(total + np.int32(codes[start + at, d]) * np.int32(rounded[d]))
            scores[at] = total * (scales[start + at] * step)

    return approximate


@lru_cache
def _compiled_bounds(dim: int) -> Callable[..., Any]:
    """Compile the bounds of the scores of each group."""
    approximate = _compiled_approximate(dim)

    @njit(nogil=True, fastmath=FASTMATH)
    def bounds(codes, scales, margins, allowed, rounded, step, norm, size):
        """The best lower and upper bound of every group, NO_SCORE where none of its rows is allowed."""
        lower = np.empty((len(codes) + size - 1) // size, dtype=np.float32)
        upper = np.empty_like(lower)
        scores = np.empty(size, dtype=np.float32)
        for group in range(len(lower)):
            start = group * size
            num = min(size, len(codes) - start)
            approximate(codes, scales, rounded, step, start, num, scores)
            low = high = NO_SCORE
            for at in range(num):
                margin = norm * margins[start + at] + UNDERFLOW_ERROR
                low = max(low, scores[at] - margin if allowed[start + at] else NO_SCORE)
                high = max(high, scores[at] + margin if allowed[start + at] else NO_SCORE)
            lower[group], upper[group] = low, high
        return lower, upper

    return bounds


@lru_cache
def _compiled_collect(dim: int) -> Callable[..., Any]:
    """Compile the selection of rows that can be in the top k."""
    approximate = _compiled_approximate(dim)

    @njit(nogil=True)
    def collect(codes, scales, margins, allowed, rounded, step, norm, size, reached, floor):
        """Ascending rows of the reached groups whose upper bound is not below the floor."""
        rows, found = np.empty(len(reached) * size, dtype=np.int64), 0
        scores = np.empty(size, dtype=np.float32)
        for group in reached:
            start = group * size
            num = min(size, len(codes) - start)
            approximate(codes, scales, rounded, step, start, num, scores)
            for at in range(num):
                # written always and kept by adding a boolean: a branch on the bound would often be mispredicted
                rows[found] = start + at
                upper = scores[at] + (norm * margins[start + at] + UNDERFLOW_ERROR)
                found += allowed[start + at] and upper >= floor
        return rows[:found]

    return collect


@lru_cache
def _compiled_scored(dim: int) -> Callable[..., Any]:
    """Compile the exact scores of a few rows."""
    folded = _compiled_fold(dim)

    @njit(nogil=True)
    def scored(vectors, query, rows):
        """Folded scores of rows; -0.0 becomes 0.0, since the radix sort would order them."""
        exact, products = np.empty(len(rows), dtype=np.float32), np.zeros(max(dim, 1), dtype=np.float32)
        for at in range(len(rows)):
            for d in range(dim):
                products[d] = query[d] * vectors[rows[at], d]
            exact[at] = folded(products) + np.float32(0)
        return exact

    return scored


@lru_cache
def _compiled_search(dim: int) -> Callable[..., Any]:
    """Compile the search for one dim: with a constant length the inner loops become a few vector instructions."""
    bounds, collect, scored = _compiled_bounds(dim), _compiled_collect(dim), _compiled_scored(dim)

    @njit(nogil=True)
    def search(codes, scales, margins, allowed, vectors, query, levels, best_scores, best_rows):
        k = len(best_rows)
        rounded, step, norm = _round_query(query, levels)
        # groups of this size balance the number of groups, whose bounds are sorted, and the rows of reached groups
        size = max(round((len(codes) / (2 * k)) ** 0.5), 1)
        lower, upper = bounds(codes, scales, margins, allowed, rounded, step, norm, size)
        floor = _kth_largest(lower, k)
        reached = np.empty(len(upper), dtype=np.int64)
        num = 0
        for group in range(len(upper)):
            reached[num] = group
            num += upper[group] >= floor
        rows = collect(codes, scales, margins, allowed, rounded, step, norm, size, reached[:num], floor)
        exact = scored(vectors, query, rows)
        order = _descending_order(exact)[:k]
        for at in range(len(order)):
            best_scores[at], best_rows[at] = exact[order[at]], rows[order[at]]
        return len(rows)

    return search
