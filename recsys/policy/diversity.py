"""Diversity of a slate: similarity of its items traded against relevance at the first positions.

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
from recsys.policy.diversity_scores import DPP, MAX_SUM, MMR, PLAIN, PROPORTIONS
from recsys.policy.quotas import NO_GROUP, category_values, number_values
from recsys.policy.selection import EligiblePool, Scoring

UNKNOWN_PENALTY = 10.0
"""relevance subtracted for an unknown utility: no diversity penalty is as large, proportions have 4.6 at most"""
CONTENT_DIM = 64
"""dimension of the content vectors; more distinct values than that are hashed"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSimilarity:
    """Similarity of the items of one catalogue."""

    units: np.ndarray
    """[N, D] float32 of length 1, or 0 for an item without a vector"""
    shares: np.ndarray
    """[N, V] float32, each item's shares of the values of the balanced category, summing to 1, or 0 without any"""


class Diversity:
    """Score of the first `window` positions; positions behind it follow falling utility.

    trade_off: 1 is relevance only, 0 diversity only. Relevance is the utility above the least of the eligible items,
    divided by `span`. None is the range within the request, which diversifies all slates equally. A number is the same for
    all requests: with calibrated utilities, confident rankings stay and flat ones are diversified more, which costs the
    fewest hits for a mean intra-list distance.
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

    def similarity(self, vectors: np.ndarray, catalogue: Columns, types: Mapping[str, str]) -> ItemSimilarity:
        """Compute similarities; vectors [N, D'] of any length. ConfigError for a column that is no category."""
        raise NotImplementedError

    def scoring(
        self, pool: EligiblePool, similarity: ItemSimilarity, histories: Sequence[Sequence[int]], *, ranked: bool
    ) -> Scoring:
        """Return the diversity inputs of a batch.

        histories: catalogue rows of each query's history. ranked: utilities come from probabilities; otherwise `span` has
        the wrong unit, and that of the request is used.
        """
        mode = self.mode if self.window and self.trade_off < 1 else PLAIN
        alike = mode in (MMR, DPP, MAX_SUM)
        shares = similarity.shares if mode == PROPORTIONS else similarity.shares[:, :0]
        target_shares = np.zeros((len(histories), shares.shape[1]), dtype=np.float32)
        for own, rows in zip(target_shares, histories, strict=True):
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
            units=similarity.units[pool.rows] if alike else np.empty((*pool.rows.shape, 0), dtype=np.float32),
            shares=shares[pool.rows],
            target_shares=target_shares,
        )


class CosineDiversity(Diversity):
    """Diversity by the cosine of item vectors, mixed with that of the items' categories."""

    keys = (*Diversity.keys, "content")

    def __init__(self, *, trade_off: float, window: int, span: float | None, content: float) -> None:
        """content: share of the categories in the cosine; the rest is that of the vectors"""
        super().__init__(trade_off=trade_off, window=window, span=span)
        check_ranges("diversity", content=(content, 0.0, 1.0))
        self.content = float(content)

    def similarity(self, vectors: np.ndarray, catalogue: Columns, types: Mapping[str, str]) -> ItemSimilarity:
        parts = [np.sqrt(np.float32(1 - self.content)) * normalize_rows(vectors)]
        if self.content:
            parts.append(np.sqrt(np.float32(self.content)) * content_vectors(catalogue, types))
        shares = np.empty((len(vectors), 0), dtype=np.float32)
        return ItemSimilarity(units=np.concatenate(parts, axis=1, dtype=np.float32), shares=shares)


class MaximalMarginalRelevance(CosineDiversity):
    """Position by position, argmax of trade_off * relevance - (1 - trade_off) * greatest cosine to the items above.

    Source: Carbonell and Goldstein, The Use of MMR, Diversity-Based Reranking, SIGIR 1998.
    """

    kind, mode = "mmr", MMR


class MaxSum(CosineDiversity):
    """Position by position, argmax of trade_off * relevance - (1 - trade_off) * mean cosine to the items above.

    It optimises the intra-list distance itself, the mean over pairs. Without exploration the chosen items are then sorted
    by falling utility, since the sum does not depend on the order; pins stay, and items that a quota counts stay in its
    `top`. Source: Borodin, Lee and Ye, Max-Sum Diversification, Monotone Submodular Functions and Dynamic Updates,
    PODS 2012; the greedy choice reaches half of the optimum.
    """

    kind, mode = "maxsum", MAX_SUM


class Determinantal(CosineDiversity):
    """Position by position, the greatest gain in log det(I + L), L = diag(q) S diag(q), S the cosines of the items.

    q^2 = exp(relevance * trade_off / (1 - trade_off)). Source: Chen, Zhang and Zhou, Fast Greedy MAP Inference for
    Determinantal Point Process, NeurIPS 2018; with the identity added the gain is never negative and falls.
    """

    kind, mode = "dpp", DPP


class Proportions(Diversity):
    """The categories of the slate in the proportions of the user's own history.

    Position by position, argmax of trade_off * relevance - (1 - trade_off) * KL(history || slate). Source: Steck, Calibrated
    Recommendations, RecSys 2018. A user without history gets the utility order.
    """

    kind, mode = "proportions", PROPORTIONS
    keys = (*Diversity.keys, "of")

    def __init__(self, *, trade_off: float, window: int, span: float | None, of: str) -> None:
        """of: a category or categories column of the items"""
        super().__init__(trade_off=trade_off, window=window, span=span)
        self.of = of

    def similarity(self, vectors: np.ndarray, catalogue: Columns, types: Mapping[str, str]) -> ItemSimilarity:
        groups, num = number_values(category_values("diversity.of", self.of, catalogue, types))
        shares = np.zeros((len(vectors), num + 1), dtype=np.float32)
        np.add.at(shares, (np.arange(len(groups))[:, None], np.where(groups == NO_GROUP, num, groups)), 1)
        shares = shares[:, :num] / np.maximum(shares[:, :num].sum(axis=1, keepdims=True), 1)
        return ItemSimilarity(units=np.empty((len(vectors), 0), dtype=np.float32), shares=np.ascontiguousarray(shares))


KINDS: dict[str, type[Diversity]] = {
    one.kind: one for one in (MaximalMarginalRelevance, MaxSum, Determinantal, Proportions)
}


def diversity_from_document(document: Any) -> Diversity:
    """Read a document; ConfigError names a key that is absent, unknown or out of range. `span` defaults to None."""
    if not isinstance(document, Mapping) or document.get("kind") not in KINDS:
        found = document.get("kind") if isinstance(document, Mapping) else document
        raise ConfigError(f"policy.diversity.kind is {found!r}; choose one of {', '.join(KINDS)}")
    kind, document = KINDS[document["kind"]], {"span": None, **document}
    if unknown := [str(key) for key in document if key not in (*kind.keys, "kind")]:
        raise ConfigError(f"policy.diversity has the unknown key {unknown[0]!r}; {suggestion(unknown[0], kind.keys)}")
    if absent := [key for key in kind.keys if key not in document]:
        raise ConfigError(f"policy.diversity lacks the key {absent[0]!r}; give {', '.join(kind.keys)}")
    return kind(**{key: document[key] for key in kind.keys})


def normalize_rows(vectors: np.ndarray) -> np.ndarray:
    """Return [N, D] float32 rows of length 1; rows of zeros stay."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float32))
    return vectors / np.where(lengths > 0, lengths, np.float32(1))[:, None]


def content_vectors(catalogue: Columns, types: Mapping[str, str]) -> np.ndarray:
    """Return [N, CONTENT_DIM or fewer] float32 of length 1 from the items' values in all category columns but the id.

    More values than dimensions are hashed to an index and a sign (Weinberger et al. 2009), which keeps cosines on average.
    """
    values = [[f"{name}={value}" for name in parts for value in parts[name]] for parts in _categories(catalogue, types)]
    known = sorted({value for row in values for value in row})
    exact = len(known) <= CONTENT_DIM
    width = len(known) if exact else CONTENT_DIM
    column_of = {value: index if exact else zlib.crc32(value.encode()) % width for index, value in enumerate(known)}
    sign_of = {value: 1.0 if exact or zlib.crc32(b"sign" + value.encode()) % 2 else -1.0 for value in known}
    vectors = np.zeros((len(values), width), dtype=np.float32)
    for row, values_of_item in enumerate(values):
        for value in values_of_item:
            vectors[row, column_of[value]] += sign_of[value]
    return normalize_rows(vectors)


def _categories(catalogue: Columns, types: Mapping[str, str]) -> list[dict[str, tuple[str, ...]]]:
    """Return, per item, column -> values. Columns with a value per two items or more, such as titles, are left out: they
    identify an item and group nothing.
    """
    num_items, grouped = len(catalogue["item"]), {}
    for name, kind in types.items():
        if kind in ("category", "categories") and name != "item":
            rows = category_values("diversity", name, catalogue, types)
            if len({value for row in rows for value in row}) <= num_items / 2:
                grouped[name] = rows
    return [{name: rows[row] for name, rows in grouped.items()} for row in range(num_items)]


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
