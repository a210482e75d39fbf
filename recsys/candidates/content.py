"""Item-to-item neighbours by content: all similar items, or cold ones only, so that cold items become candidates.

Shapes: N items, C items that may be neighbours, I id slots, V length of all vectors.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from recsys.candidates.candidate_source import TrainingInteractions
from recsys.candidates.item_item import check_history_source
from recsys.candidates.neighbours import ItemNeighbours
from recsys.candidates.topk import top_k
from recsys.contracts import PAD
from recsys.features.spec import IDENTITY, RESERVED

SIMILARITY_CELLS = 2**22
"""similarities in memory at a time"""


class ContentNeighbours:
    """Configuration of item-to-item neighbours from the catalogue.

    The similarity is the mean of two cosines, of idf-weighted one-hot categories (Salton & Buckley 1988) and of the
    vectors; one of them where the catalogue has only that.
    """

    def __init__(self, *, num: int, weight: float, decays: Sequence[float], neighbours: int, only_cold: bool) -> None:
        """
        num: candidates of a query
        weight: of its scores in the merge, until validation chose another one
        decays: grid of the weight of an event relative to the next newer one, above 0 to 1
        neighbours: kept an item
        only_cold: keep only items without interactions as neighbours; else the ranker reads the similarity of all items
        """
        self.num, self.weight, self.decays, self.neighbours = num, weight, tuple(decays), neighbours
        self.only_cold = only_cold
        check_history_source("content", num, self.weight, self.decays, neighbours)

    def fit(self, interactions: TrainingInteractions) -> ItemNeighbours | None:
        """Fit the neighbours; None when the catalogue has neither categories nor vectors."""
        parts = list(_unit_parts(interactions))
        if not parts:
            return None
        offered = np.arange(interactions.num_items)
        if self.only_cold:
            offered = np.setdiff1d(offered, interactions.items)
        return ItemNeighbours.of(_nearest_by_cosine(parts, offered, self.neighbours), self.decays[0])


def _unit_parts(interactions: TrainingInteractions) -> Iterator[Any]:
    """The categories and the vectors of the catalogue, each [N, ...], sparse or dense, with rows of norm 1 or 0."""
    categories = _idf_weighted(one_hot(interactions))
    if categories.nnz:
        yield _to_unit_length(categories)
    if "vectors" in interactions.table.encoded:
        vectors = interactions.table.encoded["vectors"][:-1]
        yield vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def one_hot(interactions: TrainingInteractions) -> sparse.csr_array:
    """[N, values of all categories] of ones where the item has the value; the item's own id is left out."""
    blocks, start = [sparse.csr_array((interactions.num_items, 0), dtype=np.float32)], 0
    for column in interactions.spec.items.of_part("ids"):
        ids = interactions.table.encoded["ids"][:-1, start : start + column.slots]
        start += column.slots
        if column.name != IDENTITY:
            blocks.append(_indicators(ids, column.num_ids))
    return sparse.csr_array(sparse.hstack(blocks))


def _idf_weighted(indicators: sparse.csr_array) -> sparse.csr_array:
    """Replace every one by log(N / items with the value), in place."""
    idf = np.log(indicators.shape[0] / np.bincount(indicators.indices, minlength=indicators.shape[1]).clip(1))
    indicators.data = idf[indicators.indices].astype(np.float32)
    indicators.eliminate_zeros()
    return indicators


def _indicators(ids: np.ndarray, num_ids: int) -> sparse.csr_array:
    """[N, I] ids -> [N, num_ids] of ones; missing and unknown values count as no value."""
    rows, slots = np.nonzero(ids >= RESERVED)
    ones = np.ones(len(rows), dtype=np.float32)
    indicators = sparse.csr_array((ones, (rows, ids[rows, slots])), shape=(len(ids), num_ids))
    indicators.data[:] = 1  # a value that stands twice in one item was summed
    return indicators


def _to_unit_length(matrix: sparse.csr_array) -> sparse.csr_array:
    lengths = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    matrix.data = matrix.data / np.repeat(lengths, np.diff(matrix.indptr)).astype(np.float32)
    return matrix


def _nearest_by_cosine(parts: Sequence[Any], offered: np.ndarray, neighbours: int) -> sparse.csr_array:
    """[N, N]: for every item its nearest among the rows `offered`, itself left out."""
    num_items = parts[0].shape[0]
    blocks = [sparse.csr_array((0, num_items), dtype=np.float32)]
    targets = [part[offered].T for part in parts]
    step = max(1, SIMILARITY_CELLS // max(len(offered), 1))
    for start in range(0, num_items if len(offered) else 0, step):
        products = [_dense(part[start : start + step] @ target) for part, target in zip(parts, targets, strict=True)]
        similar = np.mean(products, axis=0, dtype=np.float32)
        similar[offered[None, :] == np.arange(start, start + len(similar))[:, None]] = 0
        blocks.append(_strongest(similar, offered, neighbours, num_items))
    stacked = sparse.csr_array(sparse.vstack(blocks))
    stacked.resize((num_items, num_items))
    return stacked


def _dense(product: Any) -> np.ndarray:
    return product.toarray() if sparse.issparse(product) else product


def _strongest(similar: np.ndarray, offered: np.ndarray, neighbours: int, num_items: int) -> sparse.csr_array:
    columns = top_k(np.where(similar > 0, similar, -np.inf), np.arange(len(offered)), neighbours)
    rows, ranks = np.nonzero(columns != PAD)
    columns = columns[rows, ranks]
    return sparse.csr_array((similar[rows, columns], (rows, offered[columns])), shape=(len(similar), num_items))
