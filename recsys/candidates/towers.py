"""What the two towers say: the inner product of user and item, searched in the index.

Shapes: B queries, D dim, K offers, P pairs of a query and an item.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from recsys.candidates.contract import Arrays, Asked, Document, Known, check_source
from recsys.index import Index
from recsys.jit import compiled

PAIRS = 2**14
"""pairs scored at once"""


@dataclass(frozen=True, kw_only=True)
class TowerAnswer:
    """The inner products as they are: of unit vectors the cosine."""

    index: Index
    vectors: np.ndarray
    """[B, D]"""
    newest: np.ndarray
    """[B, E] as in Asked"""

    def offer(self, k: int) -> np.ndarray:
        return self.index.search(self.vectors, k)[1]

    def only(self, queries: np.ndarray) -> "TowerAnswer":
        return replace(self, vectors=self.vectors[queries], newest=self.newest[queries])

    def score(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """A pair is summed by itself, so that its score does not depend on the batch it came in."""
        return self._products(self.vectors[:, None], query, row)[:, 0]

    def recent(self, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Inner products of the items themselves."""
        return self._products(self.index.vectors(self.newest), query, row)

    def _products(self, asking: np.ndarray, query: np.ndarray, row: np.ndarray) -> np.ndarray:
        """[B, E, D] -> [P, E]"""
        products = np.empty((len(query), asking.shape[1]), dtype=np.float32)
        for start in range(0, len(query), PAIRS):
            part = slice(start, start + PAIRS)
            _multiply(asking, query[part], self.index.vectors(row[part]), products[part])
        return products


@compiled(fastmath=True)
def _multiply(asking, query, offered, products):
    """asking [B, E, D], query [P], offered [P, D], into products [P, E]."""
    for p in range(len(query)):
        for e in range(asking.shape[1]):
            own, total = asking[query[p], e], np.float32(0)
            for d in range(offered.shape[1]):
                total += own[d] * offered[p, d]
            products[p, e] = total


@dataclass(frozen=True, kw_only=True)
class TowerIndex:
    """The vectors of the item tower."""

    index: Index
    kind: ClassVar[str] = "towers"

    def answer(self, asked: Asked) -> TowerAnswer:
        vectors = np.ascontiguousarray(asked.vectors, dtype=np.float32)
        return TowerAnswer(index=self.index, vectors=vectors, newest=asked.newest)

    def to_documents(self) -> tuple[Document, Arrays]:
        return {}, {}

    @classmethod
    def from_documents(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: Index) -> Self:
        return cls(index=index)


class Towers:
    """The towers as a source; their weight is 1, that of the others is relative to it."""

    def __init__(self, *, num: int) -> None:
        """num: candidates they offer a query"""
        self.num = num
        self.weights = (1.0,)
        self.decays: tuple[float, ...] = ()
        check_source("towers", num, self.weights)

    def fit(self, known: Known) -> TowerIndex:
        return TowerIndex(index=known.index)
