"""Feature specification: the columns, their fitted vocabularies and scales, and the tensors they become.

A table (items, profile, context) is encoded into at most three tensors a row: `ids` (slots of vocabulary indices),
`numbers` (standardised values, each with a missing flag) and `vectors`. Training, evaluation and serving all go through
the functions beside this file, so a feature cannot mean two things.
"""

import hashlib
import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from recsys.errors import ConfigError, check_ranges
from recsys.expressions import ACTION_TYPES, Expression, compile_expression, suggestion
from recsys.features.numbers import Encoding, NumberEncoding, signed_log
from recsys.tensors import PARTS, part_name

SCHEMA = 1
MISSING = 0
"""index of an absent category value, also of padding"""
UNKNOWN = 1
"""index of a value that training never saw"""
RESERVED = 2
TIME_NUMBERS = ("hour_sin", "hour_cos", "weekday_sin", "weekday_cos")
"""derived from Query.now (UTC) and appended to the context's numbers"""

CONSTANT_TOLERANCE = 1e-9
"""standard deviation relative to the largest value below which a column counts as constant"""
IDENTITY = "item"
"""the column of item ids"""
TABLES = ("items", "profile", "context")

Columns = Mapping[str, np.ndarray]
EncodedKind = Literal["category", "categories", "number", "vector"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column with its vocabulary or scale, fitted on the training period."""

    name: str
    kind: EncodedKind
    vocabulary: tuple[str, ...] = ()
    """known values of a category, most frequent first, then by crc32; a value has id RESERVED + its index here"""
    slots: int = 1
    """ids a row: 1 for a category, the longest kept list for categories, the length of a vector"""
    mean: float = 0.0
    scale: float = 1.0
    """a number x is encoded as (x - mean) / scale, a missing one as 0 with its flag set"""
    encoding: Encoding = "standard"
    """of a number (recsys/features/numbers.py)"""
    edges: tuple[float, ...] = ()
    """of its bins"""
    hash_size: int = 0
    """ids that the values of a category share by their crc32, so that none is UNKNOWN; 0 keeps a vocabulary"""

    @property
    def num_ids(self) -> int:
        buckets = len(self.edges) + 1 if self.kind == "number" else 0
        return RESERVED + (self.hash_size or buckets or len(self.vocabulary))

    @property
    def part(self) -> str:
        """Part of the table (recsys.tensors.PARTS) that holds the encoded column."""
        if self.kind == "vector":
            return "vectors"
        return "numbers" if self.kind == "number" and self.encoding != "buckets" else "ids"

    @property
    def width(self) -> int:
        """Columns of its tensor: a number has a missing flag behind its values."""
        if self.part != "numbers":
            return self.slots
        return max(1, len(self.edges) - 1) + 1 if self.encoding == "piecewise" else 2

    @cached_property
    def index(self) -> dict[str, int]:
        """value of the vocabulary -> its id"""
        return {value: RESERVED + number for number, value in enumerate(self.vocabulary)}


LATER_KEYS = {"encoding": "standard", "edges": (), "hash_size": 0}
"""keys of a column that its document leaves out at these values, so that earlier fingerprints stay"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSpec:
    """The columns of one table, in the order of its tensors."""

    name: str
    columns: tuple[Column, ...]
    extra_numbers: tuple[str, ...] = ()

    def of_kind(self, *kinds: EncodedKind) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.kind in kinds)

    def of_part(self, part: str) -> tuple[Column, ...]:
        """Columns of one tensor, in its order."""
        return tuple(column for column in self.columns if column.part == part)

    @property
    def widths(self) -> dict[str, int]:
        """Columns of each tensor; a tensor of width 0 does not exist."""
        widths = {part: sum(column.width for column in self.of_part(part)) for part in PARTS}
        widths["numbers"] += len(self.extra_numbers)
        return {part: width for part, width in widths.items() if width}

    @property
    def missing_numbers(self) -> tuple[float, ...]:
        """The numbers of a row with all values missing: every flag is set, numbers derived from the time are 0."""
        missing = [flag for column in self.of_part("numbers") for flag in (*(0.0,) * (column.width - 1), 1.0)]
        return (*missing, *(0.0,) * len(self.extra_numbers))


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Specification of the encoding of records into arrays; its fingerprint binds a model to it."""

    items: TableSpec
    profile: TableSpec
    context: TableSpec
    history_length: int
    """newest events of a user that the models read"""
    actions: Mapping[str, str]
    """name -> number or word; names alone are those of numbers"""
    objectives: Mapping[str, str]
    """name -> expression over the actions"""
    target: str
    """the objective that makes an event a retrieval positive"""
    clock: bool = True
    """timestamps are seconds; else they only order the events, and no feature reads more of them"""
    schema: int = field(default=SCHEMA)

    def __post_init__(self) -> None:
        if not isinstance(self.actions, Mapping):
            object.__setattr__(self, "actions", dict.fromkeys(self.actions, "number"))

    @property
    def num_objectives(self) -> int:
        return len(self.objectives)

    @cached_property
    def _expressions(self) -> tuple[Expression, ...]:
        return tuple(
            compile_expression(text, self.action_types, where=f"objectives.{name}", result_type="label")
            for name, text in self.objectives.items()
        )

    @property
    def action_types(self) -> dict[str, str]:
        """Name of an action -> its type in expressions."""
        return {name: ACTION_TYPES[kind] for name, kind in self.actions.items()}

    def labels(self, actions: Columns, num_rows: int) -> np.ndarray:
        """Objectives of events: [R, T] float32 in [0, inf), NaN where an action is missing."""
        nothing = {"number": np.full(num_rows, np.nan), "word": np.full(num_rows, None, dtype=object)}
        columns = {name: actions.get(name, nothing[kind]) for name, kind in self.actions.items()}
        values = [np.broadcast_to(expression.labels(columns), (num_rows,)) for expression in self._expressions]
        return np.stack(values, axis=1).astype(np.float32)

    @property
    def sizes(self) -> dict[str, int]:
        """Lengths of the axes and widths of the tables that batches declare (recsys.features.batches)."""
        tables = {
            name: table.widths for name, table in zip(TABLES, (self.items, self.profile, self.context), strict=True)
        }
        widths = {part_name(name, part): width for name, parts in tables.items() for part, width in parts.items()}
        return {"history": self.history_length, "objectives": self.num_objectives, **widths}

    def to_documents(self) -> tuple[dict[str, Any], dict[str, list[str]]]:
        """The spec without its vocabularies, and these as {"table.column": values}."""
        document, vocabularies = asdict(self), {}
        if set(self.actions.values()) <= {"number"}:
            document["actions"] = list(self.actions)  # as before there were words: the fingerprint stays
        for table in TABLES:
            for column in document[table]["columns"]:
                vocabularies[f"{table}.{column['name']}"] = list(column.pop("vocabulary"))
                for key, default in LATER_KEYS.items():
                    if column[key] == default:
                        del column[key]
        return document, vocabularies

    @staticmethod
    def from_documents(document: Mapping[str, Any], vocabularies: Mapping[str, list[str]]) -> "FeatureSpec":
        tables = {name: _table_from(name, document[name], vocabularies) for name in TABLES}
        return FeatureSpec(**{**document, **tables})

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hex digits of the sha256 of the canonical document."""
        text = json.dumps(self.to_documents(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _table_from(name: str, document: Mapping[str, Any], vocabularies: Mapping[str, list[str]]) -> TableSpec:
    columns = tuple(
        Column(**one | {"edges": tuple(one.get("edges", ()))}, vocabulary=tuple(vocabularies[f"{name}.{one['name']}"]))
        for one in document["columns"]
    )
    return TableSpec(name=name, columns=columns, extra_numbers=tuple(document["extra_numbers"]))


class Features:
    """Configuration of a spec, and its fit on the training period."""

    def __init__(self, *, history_length: int, max_values: int, min_count: int, leave_out: Sequence[str]) -> None:
        """
        history_length: newest events of a user that the models read, 1 to 1,000
        max_values: values kept of a `categories` list, 1 to 64
        min_count: a category value with fewer occurrences is UNKNOWN
        leave_out: columns of any table that are no features
        """
        check_ranges(
            "features",
            history_length=(history_length, 1, 1_000),
            max_values=(max_values, 1, 64),
            min_count=(min_count, 1, 1_000_000),
        )
        if isinstance(leave_out, str) or not all(isinstance(name, str) for name in leave_out):
            raise ConfigError(f"features.leave_out is {leave_out!r}; write a list of columns, e.g. [position]")
        self.history_length = history_length
        self.max_values = max_values
        self.min_count = min_count
        self.leave_out = frozenset(leave_out)

    def check(self, columns: Collection[str]) -> None:
        """Raise ConfigError for a name in `leave_out` that is no column or that cannot be left out."""
        for name in sorted(self.leave_out):
            if name == IDENTITY:
                raise ConfigError("features.leave_out names item, by which items are known; leave other columns out")
            if name not in columns:
                raise ConfigError(f"features.leave_out names the unknown column {name!r}; {suggestion(name, columns)}")

    def fit_table(
        self, name: str, kinds: Mapping[str, str], columns: Columns, extra_numbers: tuple[str, ...] = ()
    ) -> TableSpec:
        """Fit vocabularies and scales of one table on its training rows: {column: [R]}; vectors are [R, D]."""
        fitted = [
            self._fit_column(column, kind, columns[column])
            for column, kind in kinds.items()
            if column not in self.leave_out and kind != "text"
        ]
        return TableSpec(name=name, columns=tuple(fitted), extra_numbers=extra_numbers)

    def _fit_column(self, name: str, kind: str, values: np.ndarray) -> Column:
        if kind == "category":
            return Column(name=name, kind="category", vocabulary=self._vocabulary(values))
        if kind == "categories":
            lists = [tuple(one) for one in values if one is not None]
            longest = max((len(one) for one in lists), default=1)
            flat = np.array([value for one in lists for value in one], dtype=object)
            slots = max(1, min(self.max_values, longest))
            return Column(name=name, kind="categories", vocabulary=self._vocabulary(flat), slots=slots)
        if kind == "vector":
            return Column(name=name, kind="vector", slots=int(values.shape[1]))
        return fit_number(name, values)

    def _vocabulary(self, values: np.ndarray) -> tuple[str, ...]:
        present = [value for value in values.tolist() if value is not None]
        if not present:
            return ()
        return self.vocabulary(*np.unique(np.array(present, dtype=str), return_counts=True))

    def vocabulary(self, names: np.ndarray, counts: np.ndarray) -> tuple[str, ...]:
        """Return the values [V] that occur often enough, in the order of `Column.vocabulary`."""
        kept = counts >= self.min_count
        names, counts = names[kept], counts[kept]
        checksums = np.array([checksum(name) for name in names.tolist()], dtype=np.int64)
        return tuple(names[np.lexsort((names, checksums, -counts))].tolist())


def checksum(value: str) -> int:
    """crc32 of a category's value."""
    return zlib.crc32(value.encode())


def fit_number(name: str, values: np.ndarray, encoding: NumberEncoding | None = None) -> Column:
    """Fit the scale, or the bins, of a number to its training values [R]; NaN is missing."""
    encoding = encoding or NumberEncoding()
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if encoding.kind == "log":
        known = signed_log(known)
    if not len(known):
        return Column(name=name, kind="number", encoding=encoding.kind)
    std = float(known.std())
    constant = std <= CONSTANT_TOLERANCE * float(np.abs(known).max())
    return Column(
        name=name,
        kind="number",
        mean=float(known.mean()),
        scale=1.0 if constant else std,
        encoding=encoding.kind,
        edges=encoding.edges(known),
    )
