"""Candidates for items without any event, and the positions that the merge keeps for them.

Sources that read events give such items nothing, so a weighted sum ranks them behind all others, whatever its weights are. Here
they are ranked among themselves, and the merge keeps positions for the best of them.

Shapes: B queries, D dim, N items, M cold ones, C candidates, W width of the union, K best.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np

from recsys.candidates.candidate_source import (
    RECENT_EVENTS,
    CandidateSource,
    Document,
    SourceQuery,
    TrainingInteractions,
    check_source,
)
from recsys.candidates.candidate_union import CandidateUnion
from recsys.candidates.content import ContentNeighbours
from recsys.candidates.neighbours import ItemNeighbours
from recsys.candidates.topk import top_k
from recsys.contracts import PAD
from recsys.errors import check_ranges
from recsys.index import Index
from recsys.kept_positions import KeptPositions
from recsys.tensors import Arrays

FUSED_RANKS = 100
"""cold items of a query that towers and content each rank"""
RANK_OFFSET = 60
"""of reciprocal rank fusion, Cormack, Clarke and Buettcher 2009"""


@dataclass(frozen=True, kw_only=True)
class ColdScores:
    """Fused ranks of the cold items for B queries."""

    rows: np.ndarray
    """[M] ascending catalogue rows"""
    fused: np.ndarray
    """[B, M] float32, 0 where neither towers nor content rank the item"""

    def top_k(self, k: int) -> np.ndarray:
        columns = top_k(np.where(self.fused > 0, self.fused, -np.inf), np.arange(len(self.rows)), k)
        return np.where(columns == PAD, PAD, self.rows[np.maximum(columns, 0)] if len(self.rows) else PAD)

    def select(self, queries: np.ndarray) -> "ColdScores":
        return replace(self, fused=self.fused[queries])

    def score(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        is_cold, column = rows_among(row, self.rows)
        scores = np.zeros(len(row), dtype=np.float32)
        scores[is_cold] = self.fused[query[is_cold], column[is_cold]]
        return scores

    def event_scores(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Zeros: ranks are of the whole history."""
        return np.zeros((len(row), RECENT_EVENTS), dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class ColdItems(CandidateSource):
    """Items without any event, by reciprocal ranks of the towers' inner product and of content neighbours of the history."""

    index: Index
    rows: np.ndarray
    """[M] ascending catalogue rows"""
    content: ItemNeighbours | None
    """cold neighbours of every item; None where the catalogue has no content"""
    every: int
    """positions of the merged order of which one is kept for a cold item"""
    kind: ClassVar[str] = "cold"

    def scores_for(self, queries: SourceQuery) -> ColdScores:
        fused = np.zeros((len(queries), len(self.rows)), dtype=np.float32)
        if len(self.rows):
            hidden = None if queries.hidden is None else queries.hidden[self.rows]
            add_reciprocal_ranks(fused, top_k(self._products(queries, hidden), np.arange(len(self.rows)), FUSED_RANKS))
            if self.content is not None:
                fused[:, self.rows >= len(self.content)] *= (
                    2  # items added since have no neighbours: the towers' rank is theirs
                )
                by_content = self.content.scores_for(queries).top_k(FUSED_RANKS)
                is_cold, columns = rows_among(by_content, self.rows)
                add_reciprocal_ranks(fused, np.where(is_cold, columns, PAD))
        return ColdScores(rows=self.rows, fused=fused)

    def _products(self, queries: SourceQuery, hidden: np.ndarray | None) -> np.ndarray:
        """[B, M] largest inner product over the user's vectors, -inf where hidden; each query by itself, so that the bits of
        one do not depend on the others.
        """
        dim = self._vectors.shape[1]
        products = np.empty((len(queries), len(self.rows)), dtype=np.float32)
        for query, vectors in enumerate(queries.vectors.reshape(len(queries), -1, dim)):
            products[query] = np.max([self._vectors @ vector for vector in vectors], axis=0)
        if hidden is not None:
            products[:, hidden] = -np.inf
        return products

    @cached_property
    def _vectors(self) -> np.ndarray:
        """[M, D]"""
        return np.ascontiguousarray(self.index.vectors(self.rows), dtype=np.float32)

    def with_new_items(self, index: Index, newest: np.ndarray) -> "ColdItems":
        """Return a copy that ranks the items added since the training as well: by the towers, which see their content."""
        return replace(self, index=index, rows=np.union1d(self.rows, newest))

    def to_documents(self) -> tuple[Document, Arrays]:
        arrays: Arrays = {"rows": self.rows}
        if self.content is None:
            return {"every": self.every, "decay": None}, arrays
        document, content = self.content.to_documents()
        return {"every": self.every, **document}, {**arrays, **content}

    @classmethod
    def from_documents(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> Self:
        content = None if document["decay"] is None else ItemNeighbours.from_documents(document, arrays, index)
        return cls(index=index, rows=arrays["rows"], content=content, every=document["every"])


class ColdItemsConfig:
    """Configuration of the candidates without any event and of the positions kept for them."""

    def __init__(self, *, num: int, weight: float, every: int, neighbours: int, decay: float, kept: int) -> None:
        """
        num: candidates of a query, and positions kept in a list, at most
        weight: of their scores in the merge, until validation chose another one; their positions are kept whatever it is
        every: of so many positions of a list the last one is a cold item's, unless as many stand before it already
        neighbours: cold neighbours by content, kept an item
        decay: weight of an event of the history relative to the next newer one
        kept: cold items, at most, those at the end of the catalogue
        """
        self.num, self.weight, self.every, self.neighbours = num, weight, every, neighbours
        self.decay, self.kept = decay, kept
        self.decays: tuple[float, ...] = ()
        check_source("cold", num, weight, (decay,))
        check_ranges(
            "candidates.cold", every=(every, 1, 10**6), neighbours=(neighbours, 1, 10**6), kept=(kept, 1, 10**7)
        )

    def fit(self, interactions: TrainingInteractions) -> ColdItems:
        """Fit the content neighbours. Without a cold item the source stays, for those that come after the training."""
        content = ContentNeighbours(
            num=self.num, weight=self.weight, decays=[self.decay], neighbours=self.neighbours, only_cold=True
        )
        cold = np.setdiff1d(np.arange(interactions.num_items), interactions.items)
        return ColdItems(
            index=interactions.index, rows=cold[-self.kept :], content=content.fit(interactions), every=self.every
        )


@dataclass(frozen=True, kw_only=True)
class ColdPositions:
    """The positions of a merged list that are kept for cold items."""

    source: int
    """number of the source of cold items"""
    rows: np.ndarray
    """[M] ascending catalogue rows of the cold items"""
    positions: KeptPositions

    def keep(self, union: CandidateUnion, merged: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Columns [B, C] by merged scores [B, W], best first -> columns with cold ones in their positions, and their scores."""
        offered = np.where(union.offered[self.source], union.scores[self.source], -np.inf)
        waiting = top_k(offered, np.arange(offered.shape[1]), self.positions.num)
        is_cold, _ = rows_among(union.rows, self.rows)
        return self.positions.fill(chosen, merged, is_cold, waiting)


def rows_among(rows: np.ndarray, ascending: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows stand in an ascending array, and where."""
    at = np.searchsorted(ascending, rows)
    inside = at < len(ascending)
    inside[inside] = ascending[at[inside]] == rows[inside]
    return inside, at


def add_reciprocal_ranks(fused: np.ndarray, columns: np.ndarray) -> None:
    """Add to fused [B, M] half the reciprocal rank of columns [B, K], best first, PAD for none; the first of both is 1."""
    query, rank = np.nonzero(columns != PAD)
    fused[query, columns[query, rank]] += np.float32(0.5 * (RANK_OFFSET + 1)) / (RANK_OFFSET + 1 + rank)
