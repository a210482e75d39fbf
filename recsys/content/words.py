"""Encoder of texts by fitted word weights, in training and for items that come later.

Shapes: N texts, V words, D dim.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy import sparse

from recsys.content.text_encoder import Document, TextColumns, join_columns
from recsys.tensors import Arrays

TOKEN = re.compile(r"\b\w\w+\b")


@dataclass(frozen=True, kw_only=True)
class WordVectors:
    """TF-IDF with sublinear counts, then a projection; made by `TextVectors.fit`."""

    columns: tuple[str, ...]
    """text columns of the items, joined by spaces in this order"""
    words: tuple[str, ...]
    rarity: np.ndarray
    """[V] float64, inverse document frequencies"""
    components: np.ndarray
    """[D, V] float64"""

    def __call__(self, columns: TextColumns) -> np.ndarray:
        """N values a column, None where missing -> [N, D] float32 unit rows; an empty text gives zeros."""
        texts = join_columns([columns[name] for name in self.columns])
        reduced = np.asarray(self._weights(texts) @ self.components.T)
        norms = np.linalg.norm(reduced, axis=1, keepdims=True)
        return np.divide(reduced, norms, out=np.zeros_like(reduced), where=norms > 1e-9).astype(np.float32)

    def _weights(self, texts: Sequence[str]) -> sparse.csr_array:
        """[N, V] float64 with rows of length 1 or 0."""
        rows = [sorted(Counter(map(self._column_of.get, tokenize(text))).items(), key=_column_key) for text in texts]
        known = [[(column, count) for column, count in row if column is not None] for row in rows]
        indptr = np.cumsum([0, *map(len, known)])
        columns = np.array([column for row in known for column, _ in row], dtype=np.int64)
        counts = np.array([count for row in known for _, count in row], dtype=np.float64)
        values = (1 + np.log(counts)) * self.rarity[columns]
        row_of = np.repeat(np.arange(len(known)), np.diff(indptr))
        squares = np.bincount(row_of, values**2, minlength=len(known))
        values /= np.sqrt(squares)[row_of]
        return sparse.csr_array((values, columns, indptr), shape=(len(texts), len(self.words)))

    @cached_property
    def _column_of(self) -> dict[str, int]:
        return {word: column for column, word in enumerate(self.words)}

    @property
    def files(self) -> Mapping[str, Path]:
        return {}

    def to_documents(self) -> tuple[Document, Arrays]:
        """Return the document and the arrays that a bundle stores."""
        document = {"columns": list(self.columns), "words": list(self.words)}
        return document, {"rarity": self.rarity, "components": self.components}

    @classmethod
    def from_documents(cls, document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        return cls(
            columns=tuple(document["columns"]),
            words=tuple(document["words"]),
            rarity=arrays["rarity"],
            components=arrays["components"],
        )


def tokenize(text: str) -> list[str]:
    """Split into words of two or more letters or digits, in lower case and without accents."""
    decomposed = unicodedata.normalize("NFKD", text.lower())
    return TOKEN.findall("".join(one for one in decomposed if not unicodedata.combining(one)))


def _column_key(counted: tuple[int | None, int]) -> int:
    return -1 if counted[0] is None else counted[0]
