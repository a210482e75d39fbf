"""The catalogue of a bundle with the changes that came since: who is in it, in which row, and what is said of each.

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
class Revised:
    """What some changes did, one item each."""

    rows: np.ndarray
    """[M] rising; those of new items follow the rows that there were"""
    ids: tuple[str, ...]
    """[M]"""
    records: tuple[Record, ...]
    """[M] all columns as they are now"""
    named: tuple[frozenset[str], ...]
    """[M] columns that were named"""
    num_before: int
    """rows that there were"""

    @property
    def new(self) -> np.ndarray:
        """[M] bool"""
        return self.rows >= self.num_before

    @property
    def new_ids(self) -> tuple[str, ...]:
        return self.ids[len(self.ids) - int(self.new.sum()) :]


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The items of a bundle and of the store, as far as it was read."""

    schema: ItemSchema
    catalogue: pl.DataFrame
    """the bundle's: `item`, then its columns"""
    row_of: Mapping[str, int]
    said: Mapping[int, Record] = field(default_factory=dict)
    """row -> columns that changes gave it"""
    withdrawn: frozenset[int] = frozenset()
    """rows"""

    @staticmethod
    def of(schema: ItemSchema, catalogue: pl.DataFrame) -> "Ledger":
        rows = {item: row for row, item in enumerate(catalogue["item"])}
        return Ledger(schema=schema, catalogue=catalogue, row_of=rows)

    def __len__(self) -> int:
        return len(self.row_of)

    @property
    def hidden(self) -> np.ndarray | None:
        """[N] bool, what was withdrawn; None where nothing is."""
        if not self.withdrawn:
            return None
        hidden = np.zeros(len(self), dtype=bool)
        hidden[list(self.withdrawn)] = True
        return hidden

    def record(self, row: int) -> Record:
        """All columns of an item as they are now; what nothing is known of is None or absent."""
        known = self.catalogue.row(row, named=True) if row < self.catalogue.height else {}
        return {**known, **self.said.get(row, {})}

    def column(self, name: str) -> list[Any]:
        """[N] values as they are now, None where nothing is known; "item" holds the ids."""
        if name == IDENTITY:
            return list(self.row_of)
        trained = self.catalogue.get_column(name).to_list() if name in self.catalogue.columns else []
        values = trained + [None] * (len(self) - len(trained))
        for row, said in self.said.items():
            values[row] = said.get(name, values[row])
        return values

    def after(self, changes: Sequence[Change]) -> tuple["Ledger", Revised]:
        """The ledger with changes that it has not seen or has seen before, and what they did."""
        together: dict[str, Change] = {}
        for change in changes:
            together[change.item] = change.after(together.get(change.item))
        new = [item for item in together if item not in self.row_of]
        row_of = {**self.row_of, **{item: len(self) + place for place, item in enumerate(new)}} if new else self.row_of
        fitting = {row_of[change.item]: self._fitting(change) for change in together.values()}
        ledger = replace(
            self,
            row_of=row_of,
            said={**self.said, **{row: {**self.said.get(row, {}), **said} for row, said in fitting.items()}},
            withdrawn=self._still_withdrawn({row_of[item]: change.withdrawn for item, change in together.items()}),
        )
        return ledger, ledger._revised({row_of[item]: item for item in together}, fitting, len(self))

    def _fitting(self, change: Change) -> Record:
        fitting, faults = self.schema.usable(change.columns)
        for fault in faults:
            logger.warning("items: change %d of %r: %s; that column is left out", change.number, change.item, fault)
        return fitting

    def _still_withdrawn(self, told: Mapping[int, bool | None]) -> frozenset[int]:
        back = {row for row, withdrawn in told.items() if withdrawn is False}
        return (self.withdrawn - back) | {row for row, withdrawn in told.items() if withdrawn}

    def _revised(self, ids: Mapping[int, str], fitting: Mapping[int, Record], num_before: int) -> Revised:
        rows = sorted(ids)
        return Revised(
            rows=np.array(rows, dtype=np.int64),
            ids=tuple(ids[row] for row in rows),
            records=tuple(self.record(row) for row in rows),
            named=tuple(frozenset(fitting[row]) for row in rows),
            num_before=num_before,
        )
