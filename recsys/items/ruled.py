"""What rules read of items: the columns of a bundle's catalogue and the vectors, with the changes that came since.

Shapes: N items, D dim of the vectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from recsys.features.encode import column_array
from recsys.features.spec import IDENTITY
from recsys.items.content import ItemContent
from recsys.items.ledger import Ledger, Revised
from recsys.items.store import Change


@dataclass(frozen=True, kw_only=True)
class RuledItems:
    """Columns and vectors; what changes do not touch is shared with the state before."""

    ledger: Ledger
    content: ItemContent
    columns: Mapping[str, np.ndarray]
    """[N] each, "item" holds the ids"""
    vectors: np.ndarray
    """[N, D]"""

    def after(self, changes: Sequence[Change]) -> "RuledItems":
        ledger, revised = self.ledger.after(changes)
        return replace(self, ledger=ledger, columns=self._columns(revised), vectors=self._vectors(revised))

    def _columns(self, revised: Revised) -> Mapping[str, np.ndarray]:
        named = frozenset[str]().union(*revised.named)
        types = self.ledger.schema.rule_types
        columns = {
            name: _revised(self.columns[name], revised, column_array(kind, [one.get(name) for one in revised.records]))
            for name, kind in types.items()
            if name in named or revised.new_ids
        }
        ids = np.array([*self.columns[IDENTITY], *revised.new_ids], dtype=object) if revised.new_ids else None
        return {**self.columns, **columns, **({} if ids is None else {IDENTITY: ids})}

    def _vectors(self, revised: Revised) -> np.ndarray:
        touched = np.flatnonzero(self.content.touched(revised))
        if not len(touched):
            return self.vectors
        ids = [revised.ids[place] for place in touched]
        encoded = self.content.encode(ids, [revised.records[place] for place in touched])
        vectors = np.concatenate(
            [self.vectors, np.zeros_like(self.vectors, shape=(len(revised.new_ids), self.vectors.shape[1]))]
        )
        vectors[revised.rows[touched]] = self.content.vectors(encoded)
        return vectors


def rule_columns(catalogue: pl.DataFrame, types: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The catalogue as rules read it: {column: [N]} with the item ids under "item"; a column that it lacks is missing."""
    absent = [None] * catalogue.height
    columns = {
        name: column_array(kind, catalogue[name].to_list() if name in catalogue.columns else absent)
        for name, kind in types.items()
    }
    return {**columns, IDENTITY: np.array(catalogue[IDENTITY].to_list(), dtype=object)}


def _revised(column: np.ndarray, revised: Revised, values: np.ndarray) -> np.ndarray:
    """[N] and values [M] -> [N + new ones]"""
    grown = np.concatenate([column, np.empty_like(column, shape=len(revised.new_ids))])
    grown[revised.rows] = values
    return grown
