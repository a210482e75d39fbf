"""How alike the items of a slate may be: what is traded against relevance at the first places.

Shapes: N items of the catalogue, B queries, C columns of the pool, D dim of the vectors, V values of a category.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from recsys.errors import ConfigError, check_ranges
from recsys.expressions import Columns, suggestion
from recsys.jit import compiled
from recsys.policy.quotas import NOWHERE, grouping, numbered
from recsys.policy.scores import DPP, MAX_SUM, MMR, PLAIN, PROPORTIONS
from recsys.policy.selection import Pool, Scoring

UNKNOWN_PENALTY = 10.0
"""of relevance: no likeness lowers the score of an item of known utility so far; proportions do by 4.6 at most"""
CONTENT_DIM = 64
"""values of all categories beyond so many share places of the content vectors"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """What is known of how alike items are, fitted to one catalogue."""

    units: np.ndarray
    """[N, D] float32 of length 1, or 0 for an item that resembles nothing"""
    shares: np.ndarray
    """[N, V] float32, each item's values of the balanced category, adding up to 1, or 0 without any"""


class Diversity:
    """A way to score the first `window` places; those behind are filled in plain order, by falling utility.

    trade_off: 1 is relevance only, 0 diversity only. Relevance is how far the utility lies above the least of the eligible
    items, as a share of `span`. None is the span of the request: every slate becomes as unlike as any other. A number is
    the same for all: where utilities are calibrated, those who are sure to want something get it, and those for whom
    nothing stands out get more to choose from, which costs the fewest hits for a mean unlikeness.
    """

    kind: ClassVar[str]
    mode: ClassVar[int]
    keys: ClassVar[tuple[str, ...]] = ("trade_off", "window", "span")

    def __init__(self, *, trade_off: float, window: int, span: float | None) -> None:
        check_ranges("diversity", trade_off=(trade_off, 0.0, 1.0), window=(window, 0, 1_000))
        if span is not None:
            check_ranges("diversity", span=(span, 1e-9, 1e9))
        self.trade_off = float(trade_off)
        self.window = window
        self.span = None if span is None else float(span)

    def to_document(self) -> dict[str, Any]:
        return {"kind": self.kind, **{key: getattr(self, key) for key in self.keys}}

    def likeness(self, vectors: np.ndarray, catalogue: Columns, types: Mapping[str, str]) -> Likeness:
        """vectors [N, D'] of any length; ConfigError for a column that does not fit."""
        raise NotImplementedError

    def scoring(self, pool: Pool, likeness: Likeness, seen: Sequence[Sequence[int]], *, ranked: bool) -> Scoring:
        """seen: catalogue rows of each query's history. ranked: utilities are those of probabilities; without them `span`
        says nothing, and that of the request is taken.
        """
        mode = self.mode if self.window and self.trade_off < 1 else PLAIN
        alike = mode in (MMR, DPP, MAX_SUM)
        shares = likeness.shares if mode == PROPORTIONS else likeness.shares[:, :0]
        wanted = np.zeros((len(seen), shares.shape[1]), dtype=np.float32)
        for own, rows in zip(wanted, seen, strict=True):
            if rows and mode == PROPORTIONS:
                own[:] = shares[list(rows)].mean(axis=0)
        lows, spans = scale(pool)
        if self.span is not None and ranked:
            spans = np.full_like(spans, self.span)
        return Scoring(
            mode=mode,
            window=self.window,
            trade_off=self.trade_off,
            relevance=relevance(pool, lows, spans),
            spans=spans,
            units=likeness.units[pool.rows] if alike else np.empty((*pool.rows.shape, 0), dtype=np.float32),
            shares=shares[pool.rows],
            wanted=wanted,
        )


class Alike(Diversity):
    """Diversity by the cosine of two items: of what users make of them and of what they are."""

    keys = (*Diversity.keys, "content")

    def __init__(self, *, trade_off: float, window: int, span: float | None, content: float) -> None:
        """content: share of the items' categories in the cosine, beside that of their vectors"""
        super().__init__(trade_off=trade_off, window=window, span=span)
        check_ranges("diversity", content=(content, 0.0, 1.0))
        self.content = float(content)

    def likeness(self, vectors: np.ndarray, catalogue: Columns, types: Mapping[str, str]) -> Likeness:
        parts = [np.sqrt(np.float32(1 - self.content)) * unit_length(vectors)]
        if self.content:
            parts.append(np.sqrt(np.float32(self.content)) * content_vectors(catalogue, types))
        shares = np.empty((len(vectors), 0), dtype=np.float32)
        return Likeness(units=np.concatenate(parts, axis=1, dtype=np.float32), shares=shares)


class MaximalMarginalRelevance(Alike):
    """Place by place, argmax of trade_off * relevance - (1 - trade_off) * greatest cosine to what stands above.

    Source: Carbonell and Goldstein, The Use of MMR, Diversity-Based Reranking, SIGIR 1998.
    """

    kind, mode = "mmr", MMR


class MaxSum(Alike):
    """Place by place, argmax of trade_off * relevance - (1 - trade_off) * mean cosine to what stands above.

    It raises the intra-list distance itself, the mean over pairs. Without exploration the places are then given by
    falling utility, for the sum does not depend on the order; pins stay, and what a quota counts in its `top` does not
    leave it. Source: Borodin, Lee and Ye, Max-Sum Diversification, Monotone Submodular Functions and Dynamic Updates,
    PODS 2012; the greedy choice reaches half of the optimum.
    """

    kind, mode = "maxsum", MAX_SUM


class Determinantal(Alike):
    """Place by place, the greatest gain in log det(I + L), L = diag(q) S diag(q), S the cosines of the items.

    q^2 = exp(relevance * trade_off / (1 - trade_off)). Source: Chen, Zhang and Zhou, Fast Greedy MAP Inference for
    Determinantal Point Process, NeurIPS 2018; with the identity added the gain is never negative and falls.
    """

    kind, mode = "dpp", DPP


class Proportions(Diversity):
    """The categories of the slate in the proportions of the user's own history.

    Place by place, argmax of trade_off * relevance - (1 - trade_off) * KL(history || slate). Source: Steck, Calibrated
    Recommendations, RecSys 2018. Who has no history gets the plain order.
    """

    kind, mode = "proportions", PROPORTIONS
    keys = (*Diversity.keys, "of")

    def __init__(self, *, trade_off: float, window: int, span: float | None, of: str) -> None:
        """of: a category or categories column of the items"""
        super().__init__(trade_off=trade_off, window=window, span=span)
        self.of = of

    def likeness(self, vectors: np.ndarray, catalogue: Columns, types: Mapping[str, str]) -> Likeness:
        groups, num = numbered(grouping("diversity.of", self.of, catalogue, types))
        shares = np.zeros((len(vectors), num + 1), dtype=np.float32)
        np.add.at(shares, (np.arange(len(groups))[:, None], np.where(groups == NOWHERE, num, groups)), 1)
        shares = shares[:, :num] / np.maximum(shares[:, :num].sum(axis=1, keepdims=True), 1)
        return Likeness(units=np.empty((len(vectors), 0), dtype=np.float32), shares=np.ascontiguousarray(shares))


KINDS: dict[str, type[Diversity]] = {
    one.kind: one for one in (MaximalMarginalRelevance, MaxSum, Determinantal, Proportions)
}


def diversity_from_document(document: Any) -> Diversity:
    """ConfigError names a key that is absent, unknown or out of range. Without `span` it is that of the request."""
    if not isinstance(document, Mapping) or document.get("kind") not in KINDS:
        found = document.get("kind") if isinstance(document, Mapping) else document
        raise ConfigError(f"policy.diversity.kind is {found!r}; choose one of {', '.join(KINDS)}")
    kind, document = KINDS[document["kind"]], {"span": None, **document}
    if unknown := [str(key) for key in document if key not in (*kind.keys, "kind")]:
        raise ConfigError(f"policy.diversity has the unknown key {unknown[0]!r}; {suggestion(unknown[0], kind.keys)}")
    if absent := [key for key in kind.keys if key not in document]:
        raise ConfigError(f"policy.diversity lacks the key {absent[0]!r}; give {', '.join(kind.keys)}")
    return kind(**{key: document[key] for key in kind.keys})


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """[N, D] float32; rows of zeros stay."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float32))
    return vectors / np.where(lengths > 0, lengths, np.float32(1))[:, None]


def content_vectors(catalogue: Columns, types: Mapping[str, str]) -> np.ndarray:
    """[N, CONTENT_DIM or fewer] float32 of length 1: the items' values of all their categories, the id aside.

    More values than dimensions are hashed to a place and a sign (Weinberger et al. 2009), which keeps cosines on average.
    """
    values = [
        [f"{column}={value}" for column in parts for value in parts[column]] for parts in _categories(catalogue, types)
    ]
    known = sorted({value for row in values for value in row})
    exact = len(known) <= CONTENT_DIM
    width = len(known) if exact else CONTENT_DIM
    place_of = {value: place if exact else zlib.crc32(value.encode()) % width for place, value in enumerate(known)}
    sign_of = {value: 1.0 if exact or zlib.crc32(b"sign" + value.encode()) % 2 else -1.0 for value in known}
    vectors = np.zeros((len(values), width), dtype=np.float32)
    for row, mine in enumerate(values):
        for value in mine:
            vectors[row, place_of[value]] += sign_of[value]
    return unit_length(vectors)


def _categories(catalogue: Columns, types: Mapping[str, str]) -> list[dict[str, tuple[str, ...]]]:
    """Of each item, column -> its values; a column with a value for every second item or more, a title, tells who it is."""
    num_items, grouped = len(catalogue["item"]), {}
    for name, kind in types.items():
        if kind in ("category", "categories") and name != "item":
            rows = grouping("diversity", name, catalogue, types)
            if len({value for row in rows for value in row}) <= num_items / 2:
                grouped[name] = rows
    return [{name: rows[row] for name, rows in grouped.items()} for row in range(num_items)]


def relevance(pool: Pool, lows: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """[B, C] of the utilities of eligible columns, below 0 where they are unknown; lows, spans: as of `scale`."""
    relevances = np.zeros(pool.utility.shape)
    _relate(pool.eligible, pool.utility, lows, spans, relevances)
    return relevances


def scale(pool: Pool) -> tuple[np.ndarray, np.ndarray]:
    """[B] each: the utility that has the relevance 0, and how far above it that of 1 is."""
    lows, spans = np.zeros(len(pool.utility)), np.ones(len(pool.utility))
    _measure(pool.eligible, pool.utility, lows, spans)
    return lows, spans


@compiled()
def _measure(eligible, utility, lows, spans):
    for b in range(len(utility)):
        low, high = math.inf, -math.inf
        for c in range(utility.shape[1]):
            if eligible[b, c] and not math.isnan(utility[b, c]):
                low, high = min(low, utility[b, c]), max(high, utility[b, c])
        if low <= high:
            lows[b], spans[b] = low, high - low if high > low else 1.0


@compiled()
def _relate(eligible, utility, lows, spans, relevances):
    for b in range(len(utility)):
        for c in range(utility.shape[1]):
            if math.isnan(utility[b, c]):
                relevances[b, c] = -UNKNOWN_PENALTY
            elif eligible[b, c]:
                relevances[b, c] = (utility[b, c] - lows[b]) / spans[b]
