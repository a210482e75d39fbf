"""Category columns of a catalogue: group shares and content similarity of items.

Shapes: N items of the catalogue, V values of a column.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from recsys.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class CategoryColumn:
    """One category or categories column of the items."""

    values: tuple[str, ...]
    """[V]"""
    parts: sparse.csr_array
    """[N, V] float64, each item's values in equal parts that sum to 1; empty for an item without any"""

    @staticmethod
    def of(rows: Sequence[Sequence[str]]) -> "CategoryColumn":
        """Build from the values of every item."""
        values = tuple(sorted({value for row in rows for value in row}))
        index_of = {value: index for index, value in enumerate(values)}
        indptr = np.cumsum([0, *map(len, rows)])
        indices = [index_of[value] for row in rows for value in row]
        weights = np.repeat([1 / max(len(row), 1) for row in rows], np.diff(indptr))
        return CategoryColumn(
            values=values, parts=sparse.csr_array((weights, indices, indptr), shape=(len(rows), len(values)))
        )

    @cached_property
    def held(self) -> sparse.csr_array:
        """Return [N, V] float64, 1 where an item has the value."""
        return (self.parts > 0).astype(np.float64)

    def shares(self, weights: np.ndarray) -> np.ndarray:
        """Return [V] shares of item weights [N], an item of several values in parts; all 0 without any weight."""
        held = self.parts.T @ weights
        return held / max(held.sum(), 1e-300)


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """Category columns that group items; columns with a value per two items or more identify items and are left out."""

    columns: Mapping[str, CategoryColumn]
    units: sparse.csr_array
    """[N, sum of V] float64 rows of length 1, or empty for an item without values"""

    @staticmethod
    def of(dataset: Dataset) -> "Attributes":
        kinds = {name: kind for name, kind in dataset.description.items.items() if kind in ("category", "categories")}
        read = {name: CategoryColumn.of(_values(kind, dataset.items[name].to_list())) for name, kind in kinds.items()}
        columns = {name: column for name, column in read.items() if len(column.values) < dataset.num_items / 2}
        joined = sparse.hstack(
            [sparse.csr_array((dataset.num_items, 0)), *(one.held for one in columns.values())], format="csr"
        )
        lengths = np.sqrt(np.maximum(np.diff(joined.indptr), 1))
        return Attributes(columns=columns, units=sparse.csr_array(sparse.diags_array(1 / lengths) @ joined))


def _values(kind: str, column: Sequence[Any]) -> list[tuple[str, ...]]:
    if kind == "category":
        return [() if value is None else (str(value),) for value in column]
    return [tuple(dict.fromkeys(values or ())) for values in column]
