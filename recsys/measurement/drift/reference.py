"""Reference statistics of a bundle: what requests and slates were like on the data that it was trained and measured with.

reference.json          columns with their bins, and the length of the histories that the models read
reference.safetensors   requests by column and bin: <column>.groups [GROUPS, bins], <column>.strata [STRATA, bins],
                        <column>@<segment> [bins]

Shapes: R requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.bundle import Bundle
from recsys.errors import BundleError
from recsys.measurement.drift.bins import BinnedColumn, Kind
from recsys.measurement.drift.served import GROUPS, HISTORY, STRATA, Cells, counts_of, strata_of

DOCUMENT, ARRAYS = "reference.json", "reference.safetensors"
SEGMENT_COLUMNS, SEGMENT_VALUES = 2, 8
"""categories of requests, at most, by whose values each column is compared once more, and values of such a category"""
PRIOR = 50.0
"""requests of all hours that are added to those of a quarter of a day, which alone are few"""


@dataclass(frozen=True, kw_only=True)
class ColumnReference:
    """One column with its counts."""

    column: BinnedColumn
    groups: np.ndarray
    """[GROUPS, bins] requests by group of users"""
    strata: np.ndarray
    """[STRATA, bins] requests by hour of the week"""
    segments: Mapping[str, np.ndarray]
    """context.device=d1 -> [bins]"""

    def expected(self, hours: np.ndarray) -> np.ndarray:
        """Return the shares of the bins that requests at these hours would have, without each group in turn.

        hours: [STRATA] requests. The result is [GROUPS, bins], each row sums to 1.
        """
        total = self.groups.sum(axis=0)
        overall = _shares(total)
        prior = self.strata + PRIOR * overall
        by_hour = prior / prior.sum(axis=1, keepdims=True)
        weights = hours / max(hours.sum(), 1)
        seasonal = weights @ by_hour / np.where(overall > 0, overall, 1)
        without = _shares(total - self.groups) * seasonal
        return without / without.sum(axis=1, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """All columns of a bundle."""

    columns: Mapping[str, ColumnReference]
    segments: Sequence[str]
    """columns whose values are the segments"""
    history_length: int
    objectives: Sequence[str]
    until: float
    """time of the newest request, unix seconds"""
    degraded: float = 0.0
    """share of slates with a flag"""

    @property
    def request_columns(self) -> tuple[str, ...]:
        """Names of the columns of requests; the others are of slates."""
        return tuple(name for name in self.columns if name == HISTORY or name.startswith(("context.", "profile.")))

    @staticmethod
    def fit(
        parts: Sequence[tuple[Cells, Mapping[str, Kind]]], history_length: int, objectives: Sequence[str]
    ) -> "Reference":
        """Count cells, whose kinds are given by column; a column without any value is left out.

        Segments are those of the first part, which holds the requests.
        """
        requests, kinds = parts[0]
        fitted = {
            name: column
            for cells, of_columns in parts
            for name, kind in of_columns.items()
            if (column := BinnedColumn.fit(name, kind, cells.columns[name])) is not None
        }
        few = [name for name in kinds if name in fitted and 1 < len(fitted[name].values) <= SEGMENT_VALUES]
        segments = tuple(few[:SEGMENT_COLUMNS])
        counted = {}
        for cells, of_columns in parts:
            own = segments if cells is requests else ()
            for name in of_columns:
                if name in fitted:
                    counted[name] = _counted(fitted[name], cells, {one: fitted[one] for one in own})
        return Reference(
            columns=counted,
            segments=segments,
            history_length=history_length,
            objectives=tuple(objectives),
            until=float(requests.times.max(initial=0.0)),
        )

    def write(self, bundle: Bundle) -> None:
        """Write the files into a draft bundle."""
        document = {
            "columns": [one.column.to_document() for one in self.columns.values()],
            "segments": list(self.segments),
            "history_length": self.history_length,
            "objectives": list(self.objectives),
            "until": self.until,
            "degraded": self.degraded,
        }
        arrays: dict[str, np.ndarray] = {}
        for name, one in self.columns.items():
            arrays |= {f"{name}.groups": one.groups.astype(np.int32), f"{name}.strata": one.strata.astype(np.int32)}
            arrays |= {f"{name}@{segment}": counts.astype(np.int32) for segment, counts in one.segments.items()}
        bundle.write_document(DOCUMENT, document)
        bundle.write_arrays(ARRAYS, arrays)

    @staticmethod
    def read(bundle: Bundle) -> "Reference":
        """Read the files of a bundle; BundleError where it has none."""
        if not bundle.has(DOCUMENT):
            raise BundleError(f"{bundle.source} has no reference statistics; train it again, older versions wrote none")
        document, arrays = bundle.document(DOCUMENT), bundle.arrays(ARRAYS)
        return Reference.of_documents(document, arrays)

    @staticmethod
    def of_documents(document: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "Reference":
        columns = {}
        for entry in document["columns"]:
            column = BinnedColumn.from_document(entry)
            prefix = f"{column.name}@"
            segments = {key.removeprefix(prefix): counts for key, counts in arrays.items() if key.startswith(prefix)}
            groups, strata = (arrays[f"{column.name}.{axis}"] for axis in ("groups", "strata"))
            columns[column.name] = ColumnReference(column=column, groups=groups, strata=strata, segments=segments)
        lists = {name: tuple(document[name]) for name in ("segments", "objectives")}
        return Reference(
            columns=columns,
            history_length=document["history_length"],
            until=document["until"],
            degraded=document["degraded"],
            **lists,
        )


def segment_keys(column: BinnedColumn, cells: Sequence[Any]) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Return the segments of a column, and of its cells [R] the index of the cell [M] and its segment [M].

    A value without a bin of its own is in no segment.
    """
    at, bins = column.bins_of(cells)
    kept = bins >= 2
    return tuple(f"{column.name}={value}" for value in column.values), at[kept], bins[kept] - 2


def _counted(column: BinnedColumn, cells: Cells, segments: Mapping[str, BinnedColumn]) -> ColumnReference:
    own = cells.columns[column.name]
    by_segment: dict[str, np.ndarray] = {}
    for name, other in segments.items():
        if name == column.name:
            continue
        labels, at, keys = segment_keys(other, cells.columns[name])
        counts = counts_of(column, [own[row] for row in at], keys, len(labels))
        by_segment |= dict(zip(labels, counts, strict=True))
    return ColumnReference(
        column=column,
        groups=counts_of(column, own, cells.groups, GROUPS),
        strata=counts_of(column, own, strata_of(cells.times), STRATA),
        segments=by_segment,
    )


def _shares(counts: np.ndarray) -> np.ndarray:
    """Return [..., bins] counts as shares; nothing counted gives equal ones."""
    counts = counts.astype(np.float64)
    total = counts.sum(axis=-1, keepdims=True)
    return np.where(total > 0, counts / np.where(total > 0, total, 1), 1 / counts.shape[-1])
