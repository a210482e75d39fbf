"""Catalogue of a bundle with the changes since its training: the items, their rows and their columns.

Rows are those of the bundle, then new items in the order in which the store first names them, for life; whoever read the
same beginning of the store has the same rows.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from recsys.features.spec import IDENTITY
from recsys.items.schema import ItemSchema
from recsys.items.store import Change

Record = dict[str, Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueDelta:
    """Effect of some changes, one row an item."""

    rows: np.ndarray
    """[M] rising; those of new items follow the rows that there were"""
    ids: tuple[str, ...]
    """[M]"""
    records: tuple[Record, ...]
    """[M] all columns as they are now"""
    named: tuple[frozenset[str], ...]
    """[M] columns that were named"""
    num_before: int
    """rows before the changes"""

    @property
    def new(self) -> np.ndarray:
        """[M] bool"""
        return self.rows >= self.num_before

    @property
    def new_ids(self) -> tuple[str, ...]:
        return self.ids[len(self.ids) - int(self.new.sum()) :]


@dataclass(frozen=True, kw_only=True)
class CatalogueOverlay:
    """Items of a bundle and of the item store, up to a position of the store."""

    schema: ItemSchema
    catalogue: pl.DataFrame
    """the bundle's: `item`, then its columns"""
    row_of: Mapping[str, int]
    changed: Mapping[int, Record] = field(default_factory=dict)
    """row -> columns that changes set"""
    withdrawn: frozenset[int] = frozenset()
    """rows"""

    @staticmethod
    def of(schema: ItemSchema, catalogue: pl.DataFrame) -> "CatalogueOverlay":
        rows = {item: row for row, item in enumerate(catalogue["item"])}
        return CatalogueOverlay(schema=schema, catalogue=catalogue, row_of=rows)

    def __len__(self) -> int:
        return len(self.row_of)

    @property
    def hidden(self) -> np.ndarray | None:
        """[N] bool, withdrawn items; None without any."""
        if not self.withdrawn:
            return None
        hidden = np.zeros(len(self), dtype=bool)
        hidden[list(self.withdrawn)] = True
        return hidden

    def record(self, row: int) -> Record:
        """Return the current columns of an item; an unknown value is None or absent."""
        known = self.catalogue.row(row, named=True) if row < self.catalogue.height else {}
        return {**known, **self.changed.get(row, {})}

    def column(self, name: str) -> list[Any]:
        """Return the current values [N], None where unknown; "item" holds the ids."""
        if name == IDENTITY:
            return list(self.row_of)
        trained = self.catalogue.get_column(name).to_list() if name in self.catalogue.columns else []
        values = trained + [None] * (len(self) - len(trained))
        for row, columns in self.changed.items():
            values[row] = columns.get(name, values[row])
        return values

    def after(self, changes: Sequence[Change]) -> tuple["CatalogueOverlay", CatalogueDelta]:
        """Return the overlay after more changes, new or repeated, and their effect."""
        together: dict[str, Change] = {}
        for change in changes:
            together[change.item] = change.after(together.get(change.item))
        new = [item for item in together if item not in self.row_of]
        row_of = {**self.row_of, **{item: len(self) + place for place, item in enumerate(new)}} if new else self.row_of
        fitting = {row_of[change.item]: self._fitting(change) for change in together.values()}
        overlay = replace(
            self,
            row_of=row_of,
            changed={**self.changed, **{row: {**self.changed.get(row, {}), **new} for row, new in fitting.items()}},
            withdrawn=self._still_withdrawn({row_of[item]: change.withdrawn for item, change in together.items()}),
        )
        return overlay, overlay._revised({row_of[item]: item for item in together}, fitting, len(self))

    def _fitting(self, change: Change) -> Record:
        fitting, faults = self.schema.usable(change.columns)
        for fault in faults:
            logger.warning("items: change %d of %r: %s; that column is left out", change.number, change.item, fault)
        return fitting

    def _still_withdrawn(self, changes: Mapping[int, bool | None]) -> frozenset[int]:
        back = {row for row, withdrawn in changes.items() if withdrawn is False}
        return (self.withdrawn - back) | {row for row, withdrawn in changes.items() if withdrawn}

    def _revised(self, ids: Mapping[int, str], fitting: Mapping[int, Record], num_before: int) -> CatalogueDelta:
        rows = sorted(ids)
        return CatalogueDelta(
            rows=np.array(rows, dtype=np.int64),
            ids=tuple(ids[row] for row in rows),
            records=tuple(self.record(row) for row in rows),
            named=tuple(frozenset(fitting[row]) for row in rows),
            num_before=num_before,
        )
