"""Columns of what is served, as counts of bins: counts of hours add up, whatever the distance of two distributions is.

A column of numbers has bins of about equal counts in the reference, one of categories a bin a frequent value and one for all
others. The first bin is that of missing values.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

Kind = Literal["number", "category"]
NUM_BINS, MAX_VALUES = 20, 50
"""bins of a column of numbers, and values of a category with a bin of their own, at most"""
MISSING, OTHER = "missing", "other"


@dataclass(frozen=True, kw_only=True)
class BinnedColumn:
    """One column and its bins, fixed by the reference."""

    name: str
    """context.device, profile.age, history_length, utility, probability.click, source"""
    kind: Kind
    edges: tuple[float, ...] = ()
    """of numbers: ends of the bins but the last one; a value on an end belongs to the bin below"""
    centres: tuple[float, ...] = ()
    """of numbers: mean of the reference in each bin"""
    scale: float = 1.0
    """of numbers: standard deviation of the reference"""
    values: tuple[str, ...] = ()
    """of categories: those with a bin, the most frequent first"""

    @staticmethod
    def fit(name: str, kind: Kind, cells: Sequence[Any]) -> "BinnedColumn | None":
        """Return the bins that suit the cells; None for a column without any value."""
        if kind == "category":
            counts = Counter(value for _, value in _words(cells) if value is not None)
            ranked = sorted(counts, key=lambda value: (-counts[value], value))[:MAX_VALUES]
            return BinnedColumn(name=name, kind=kind, values=tuple(ranked)) if ranked else None
        numbers = _numbers(cells)
        known = numbers[~np.isnan(numbers)]
        if not len(known):
            return None
        edges = np.unique(np.quantile(known, np.arange(1, NUM_BINS) / NUM_BINS, method="lower"))
        edges = edges[edges < known.max()]
        bins = np.searchsorted(edges, known)
        sums = np.bincount(bins, known, minlength=len(edges) + 1)
        centres = sums / np.bincount(bins, minlength=len(edges) + 1)
        scale = float(known.std()) or 1.0
        return BinnedColumn(
            name=name, kind=kind, edges=tuple(edges.tolist()), centres=tuple(centres.tolist()), scale=scale
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the bins."""
        if self.kind == "category":
            return (MISSING, OTHER, *self.values)
        ends = [f"{edge:g}" for edge in self.edges]
        return (MISSING, *(f"to {end}" for end in ends), f"above {ends[-1]}" if ends else "any")

    @property
    def num_bins(self) -> int:
        return len(self.labels)

    def bins_of(self, cells: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return of the cells [R]: index of the cell [M] and its bin [M], several of a cell that is a list."""
        if self.kind == "category":
            pairs = list(_words(cells))
            at = np.array([row for row, _ in pairs], dtype=np.int64)
            return at, np.array([self._index.get(value, 1) for _, value in pairs] if pairs else [], dtype=np.int64)
        numbers = _numbers(cells)
        bins = np.where(np.isnan(numbers), 0, 1 + np.searchsorted(np.array(self.edges), numbers))
        return np.arange(len(numbers)), bins

    @cached_property
    def _index(self) -> dict[str | None, int]:
        """Value -> its bin."""
        return {None: 0} | {value: number for number, value in enumerate(self.values, start=2)}

    def to_document(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> "BinnedColumn":
        lists = {name: tuple(document[name]) for name in ("edges", "centres", "values")}
        return BinnedColumn(**{**document, **lists})


def _words(cells: Sequence[Any]) -> Iterable[tuple[int, str | None]]:
    """Row and value of each value of the cells; None for an empty cell."""
    for row, cell in enumerate(cells):
        if cell is None or cell == []:
            yield row, None
        elif isinstance(cell, list | tuple):
            yield from ((row, str(one)) for one in cell)
        else:
            yield row, str(cell)


def _numbers(cells: Sequence[Any]) -> np.ndarray:
    """[R] float64, NaN for what is no finite number."""
    found = np.array([cell if isinstance(cell, int | float) else np.nan for cell in cells], dtype=np.float64)
    return np.where(np.isfinite(found), found, np.nan)
