"""Unit vectors of the items, whose cosines are the similarities of a slate, and the diversities that read them.

Shapes: N items of the catalogue, C columns of the pool, D dim of the vectors.
"""

import zlib
from collections.abc import Mapping

import numpy as np

from recsys.errors import check_ranges
from recsys.expressions import Columns
from recsys.jit import compiled
from recsys.policy.category_values import category_values
from recsys.policy.diversity.diversity import Diversity, ItemSimilarity

CONTENT_DIM = 64
"""dimension of the content vectors; more distinct values than that are hashed"""


class CosineDiversity(Diversity):
    """Diversity by the cosine of item vectors, mixed with that of the items' categories."""

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


@compiled(fastmath=True)
def cosines_with(units, chosen, remaining):
    """Return cosines [C] float32 of the remaining units [C, D] with the chosen one, 0 elsewhere.

    fastmath lets the compiler reorder and vectorise the sum; it is safe here only because units are finite.
    """
    cosines, own = np.zeros(len(units), dtype=np.float32), units[chosen]
    for c in range(len(units)):
        if remaining[c]:
            total = np.float32(0)
            for d in range(units.shape[1]):
                total += units[c, d] * own[d]
            cosines[c] = total
    return cosines
