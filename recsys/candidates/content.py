"""Neighbours by content: for every item what is like it, or only what nobody has met, for users to be offered cold items.

Shapes: N items, C items that are offered, I id slots, V length of all vectors.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from recsys.candidates.best import best
from recsys.candidates.contract import Known
from recsys.candidates.linear import check_history_source
from recsys.candidates.neighbours import ItemNeighbours
from recsys.contracts import PAD
from recsys.features.spec import IDENTITY, RESERVED

CELLS = 2**22
"""similarities held at a time"""


class Content:
    """How to fit the neighbours of items from the catalogue.

    The similarity is the mean of two cosines, of idf-weighted one-hot categories (Salton & Buckley 1988) and of the
    vectors, or the one of them that the catalogue has.
    """

    def __init__(
        self, *, num: int, weights: Sequence[float], decays: Sequence[float], neighbours: int, only_cold: bool
    ) -> None:
        """
        num: candidates it offers a query
        weights: of its scores in the merge, to choose from
        decays: weight of an event relative to the next newer one, above 0 to 1, to choose from
        neighbours: kept an item
        only_cold: items that were met are nobody's neighbours; where they are, the ranker reads how alike they are
        """
        self.num, self.weights, self.decays, self.neighbours = num, tuple(weights), tuple(decays), neighbours
        self.only_cold = only_cold
        check_history_source("content", num, self.weights, self.decays, neighbours)

    def fit(self, known: Known) -> ItemNeighbours | None:
        """None when the catalogue has neither categories nor vectors."""
        parts = list(_unit_parts(known))
        if not parts:
            return None
        offered = np.arange(known.num_items)
        if self.only_cold:
            offered = np.setdiff1d(offered, known.items)
        return ItemNeighbours.of(_nearest(parts, offered, self.neighbours), self.decays[0])


def _unit_parts(known: Known) -> Iterator[Any]:
    """The contents of the catalogue, each [N, ...], sparse or dense, with rows of length 1 or 0."""
    categories = _by_rarity(one_hot(known))
    if categories.nnz:
        yield _to_unit_length(categories)
    if "vectors" in known.table.encoded:
        vectors = known.table.encoded["vectors"][:-1]
        yield vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def one_hot(known: Known) -> sparse.csr_array:
    """[N, values of all categories] of ones where the item has the value; who the item is does not count."""
    blocks, start = [sparse.csr_array((known.num_items, 0), dtype=np.float32)], 0
    for column in known.spec.items.of_kind("category", "categories"):
        ids = known.table.encoded["ids"][:-1, start : start + column.slots]
        start += column.slots
        if column.name != IDENTITY:
            blocks.append(_has(ids, column.num_ids))
    return sparse.csr_array(sparse.hstack(blocks))


def _by_rarity(has: sparse.csr_array) -> sparse.csr_array:
    """log(N / items with the value) in the place of every one."""
    rarity = np.log(has.shape[0] / np.bincount(has.indices, minlength=has.shape[1]).clip(1))
    has.data = rarity[has.indices].astype(np.float32)
    has.eliminate_zeros()
    return has


def _has(ids: np.ndarray, num_ids: int) -> sparse.csr_array:
    """[N, I] ids -> [N, num_ids] of ones; missing and unknown values are nothing that items could share."""
    rows, slots = np.nonzero(ids >= RESERVED)
    ones = np.ones(len(rows), dtype=np.float32)
    has = sparse.csr_array((ones, (rows, ids[rows, slots])), shape=(len(ids), num_ids))
    has.data[:] = 1
    return has


def _to_unit_length(matrix: sparse.csr_array) -> sparse.csr_array:
    lengths = np.sqrt(matrix.multiply(matrix).sum(axis=1))
    matrix.data = matrix.data / np.repeat(lengths, np.diff(matrix.indptr)).astype(np.float32)
    return matrix


def _nearest(parts: Sequence[Any], offered: np.ndarray, neighbours: int) -> sparse.csr_array:
    """[N, N]: for every item those of `offered` that are most like it, itself left out."""
    num_items = parts[0].shape[0]
    blocks = [sparse.csr_array((0, num_items), dtype=np.float32)]
    targets = [part[offered].T for part in parts]
    step = max(1, CELLS // max(len(offered), 1))
    for start in range(0, num_items if len(offered) else 0, step):
        products = [_dense(part[start : start + step] @ target) for part, target in zip(parts, targets, strict=True)]
        similar = np.mean(products, axis=0, dtype=np.float32)
        similar[offered[None, :] == np.arange(start, start + len(similar))[:, None]] = 0
        blocks.append(_kept(similar, offered, neighbours, num_items))
    stacked = sparse.csr_array(sparse.vstack(blocks))
    stacked.resize((num_items, num_items))
    return stacked


def _dense(product: Any) -> np.ndarray:
    return product.toarray() if sparse.issparse(product) else product


def _kept(similar: np.ndarray, offered: np.ndarray, neighbours: int, num_items: int) -> sparse.csr_array:
    columns = best(np.where(similar > 0, similar, -np.inf), np.arange(len(offered)), neighbours)
    rows, places = np.nonzero(columns != PAD)
    columns = columns[rows, places]
    return sparse.csr_array((similar[rows, columns], (rows, offered[columns])), shape=(len(similar), num_items))
