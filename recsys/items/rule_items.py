"""Item columns and vectors that rules read, with the changes since the training.

Shapes: N items, D dim of the vectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from recsys.features.encode import column_array
from recsys.features.spec import IDENTITY
from recsys.items.catalogue_overlay import CatalogueDelta, CatalogueOverlay
from recsys.items.content import ItemContent
from recsys.items.store import Change


@dataclass(frozen=True, kw_only=True)
class RuleItems:
    """Columns and vectors; untouched arrays are shared between states."""

    overlay: CatalogueOverlay
    content: ItemContent
    columns: Mapping[str, np.ndarray]
    """[N] each, "item" holds the ids"""
    vectors: np.ndarray
    """[N, D]"""

    def after(self, changes: Sequence[Change]) -> "RuleItems":
        overlay, delta = self.overlay.after(changes)
        return replace(self, overlay=overlay, columns=self._columns(delta), vectors=self._vectors(delta))

    def _columns(self, delta: CatalogueDelta) -> Mapping[str, np.ndarray]:
        named = frozenset[str]().union(*delta.named)
        types = self.overlay.schema.rule_types
        columns = {
            name: _revised(self.columns[name], delta, column_array(kind, [one.get(name) for one in delta.records]))
            for name, kind in types.items()
            if name in named or delta.new_ids
        }
        ids = np.array([*self.columns[IDENTITY], *delta.new_ids], dtype=object) if delta.new_ids else None
        return {**self.columns, **columns, **({} if ids is None else {IDENTITY: ids})}

    def _vectors(self, delta: CatalogueDelta) -> np.ndarray:
        touched = np.flatnonzero(self.content.touched(delta))
        if not len(touched):
            return self.vectors
        ids = [delta.ids[place] for place in touched]
        encoded = self.content.encode(ids, [delta.records[place] for place in touched])
        vectors = np.concatenate(
            [self.vectors, np.zeros_like(self.vectors, shape=(len(delta.new_ids), self.vectors.shape[1]))]
        )
        vectors[delta.rows[touched]] = self.content.vectors(encoded)
        return vectors


def rule_columns(catalogue: pl.DataFrame, types: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return the catalogue as {column: [N]} with the item ids under "item"; an absent column has missing values."""
    absent = [None] * catalogue.height
    columns = {
        name: column_array(kind, catalogue[name].to_list() if name in catalogue.columns else absent)
        for name, kind in types.items()
    }
    return {**columns, IDENTITY: np.array(catalogue[IDENTITY].to_list(), dtype=object)}


def _revised(column: np.ndarray, delta: CatalogueDelta, values: np.ndarray) -> np.ndarray:
    """[N] and values [M] -> [N + new ones]"""
    grown = np.concatenate([column, np.empty_like(column, shape=len(delta.new_ids))])
    grown[delta.rows] = values
    return grown
