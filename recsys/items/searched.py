"""What retrieval searches: the items of a bundle, and those that came or changed since.

Shapes: N items, M patched rows, D dim of the vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from recsys.features.encode import ItemTable
from recsys.index import FaissIndex, Index, PatchedIndex
from recsys.items.content import ItemContent
from recsys.items.ledger import Ledger
from recsys.items.store import Change


@dataclass(frozen=True, kw_only=True)
class SearchedItems:
    """Features and vectors; what changes do not touch is shared with the state before."""

    ledger: Ledger
    content: ItemContent
    table: ItemTable
    below: FaissIndex
    """of the bundle"""
    rows: np.ndarray
    """[M] rising, whose vectors are not those of the bundle"""
    vectors: np.ndarray
    """[M, D] of these"""

    def after(self, changes: Sequence[Change]) -> "SearchedItems":
        """Items are embedded when they are new or a column that the models see was named."""
        ledger, revised = self.ledger.after(changes)
        touched = np.flatnonzero(self.content.touched(revised))
        if not len(touched):
            return replace(self, ledger=ledger)
        ids = tuple(revised.ids[place] for place in touched)
        encoded = self.content.encode(ids, [revised.records[place] for place in touched])
        rows = np.union1d(self.rows, revised.rows[touched])
        vectors = np.empty((len(rows), self.vectors.shape[1]), dtype=np.float32)
        vectors[np.searchsorted(rows, self.rows)] = self.vectors
        vectors[np.searchsorted(rows, revised.rows[touched])] = self.content.vectors(encoded)
        table = self.table.revised(revised.rows[touched], encoded, revised.new_ids)
        return replace(self, ledger=ledger, table=table, rows=rows, vectors=vectors)

    @cached_property
    def index(self) -> Index:
        if not len(self.rows) and not self.ledger.withdrawn:
            return self.below
        return PatchedIndex(
            self.below, self.rows, self.vectors, np.array(sorted(self.ledger.withdrawn), dtype=np.int64)
        )

    @property
    def newest(self) -> np.ndarray:
        """Rows of what came after the training, the newest first."""
        return np.arange(len(self.table) - 1, len(self.below) - 1, -1)
