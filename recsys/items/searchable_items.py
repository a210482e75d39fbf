"""Items that retrieval searches: those of a bundle, and those added or changed since.

Shapes: N items, M patched rows, D dim of the vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from recsys.features.encode import ItemTable
from recsys.index import FixedIndex, Index, PatchedIndex
from recsys.items.catalogue_overlay import CatalogueOverlay
from recsys.items.content import ItemContent
from recsys.items.store import Change


@dataclass(frozen=True, kw_only=True)
class SearchableItems:
    """Features and vectors; untouched arrays are shared between states."""

    overlay: CatalogueOverlay
    content: ItemContent
    table: ItemTable
    below: FixedIndex
    """of the bundle"""
    rows: np.ndarray
    """[M] rising, whose vectors are not those of the bundle"""
    vectors: np.ndarray
    """[M, D] of these"""

    def after(self, changes: Sequence[Change]) -> "SearchableItems":
        """Apply changes; an item is embedded again when it is new or a column that the models read was set."""
        overlay, delta = self.overlay.after(changes)
        touched = np.flatnonzero(self.content.touched(delta))
        if not len(touched):
            return replace(self, overlay=overlay)
        ids = tuple(delta.ids[place] for place in touched)
        encoded = self.content.encode(ids, [delta.records[place] for place in touched])
        rows = np.union1d(self.rows, delta.rows[touched])
        vectors = np.empty((len(rows), self.vectors.shape[1]), dtype=np.float32)
        vectors[np.searchsorted(rows, self.rows)] = self.vectors
        vectors[np.searchsorted(rows, delta.rows[touched])] = self.content.vectors(encoded)
        table = self.table.revised(delta.rows[touched], encoded, delta.new_ids)
        return replace(self, overlay=overlay, table=table, rows=rows, vectors=vectors)

    @cached_property
    def index(self) -> Index:
        if not len(self.rows) and not self.overlay.withdrawn:
            return self.below
        return PatchedIndex(
            self.below, self.rows, self.vectors, np.array(sorted(self.overlay.withdrawn), dtype=np.int64)
        )

    @property
    def newest(self) -> np.ndarray:
        """Rows of the items added since the training, newest first."""
        return np.arange(len(self.table) - 1, len(self.below) - 1, -1)
