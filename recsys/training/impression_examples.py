"""Rows of a click log as examples of the ranker: requests without a history, each with one candidate, the impression itself.

Shapes: R rows, B examples, T labels.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from recsys.click_model import encode_impressions
from recsys.data.click_log import ClickLog, ImpressionKeys, Progress, feature_columns
from recsys.errors import ConfigError, DataError
from recsys.features.batches import RequestBatch
from recsys.features.encode import ItemTable
from recsys.features.numbers import NumberEncoding
from recsys.features.spec import IDENTITY, TIME_NUMBERS, Column, Features, FeatureSpec, TableSpec, fit_number
from recsys.tensors import PARTS, Arrays, DType
from recsys.training.ranking_examples import RankingExamples

MAX_FITTED_ROWS = 200_000
"""training rows, at most, that scales and bins are fitted on; vocabularies count all"""
STORED: Mapping[DType, type] = {"int64": np.int32, "float32": np.float32}
"""type of a part of the items -> type in which all rows are kept"""


def number_encodings(log: ClickLog) -> dict[str, NumberEncoding]:
    """Return the encoding of each number; DataError names the column of one that does not exist."""
    found = {}
    for name, written in log.columns.numbers.items():
        try:
            found[name] = NumberEncoding(**written)
        except ConfigError as error:
            raise DataError(f"impressions.numbers.{name}: {error}") from None
    return found


@dataclass
class _Statistics:
    """Values of the training rows that a spec is fitted on."""

    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    numbers: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))

    def add(self, log: ClickLog, columns: Arrays, train: np.ndarray, drawn: np.ndarray) -> None:
        """Add a chunk; train and drawn are [R] bool, rows of the training and those that scales are fitted on."""
        for name, values in columns.items():
            if name in log.columns.numbers:
                self.numbers[name].append(values[drawn])
            elif not log.columns.categories[name]:
                counted = pl.Series(name, values[train], dtype=pl.String).drop_nulls().value_counts()
                self.counts[name].update(dict(counted.iter_rows()))


def fit_spec(
    log: ClickLog, train: np.ndarray, features: Features, encodings: dict[str, NumberEncoding], progress: Progress
) -> FeatureSpec:
    """Fit vocabularies, scales and bins on the training rows [R] bool; no other row is looked at."""
    names = [name for name in log.columns.features if name not in features.leave_out]
    if not names:
        raise ConfigError("features.leave_out leaves no feature of the click log; name fewer columns")
    drawn, statistics = _drawn(train), _Statistics()
    for chunk in progress(log.table.chunks(names), "fitting the features", len(train)):
        values = feature_columns(log.columns, chunk, str(log.table.path), names)
        statistics.add(log, values, train[chunk.rows], drawn[chunk.rows])
    columns = tuple(_column(name, log, features, encodings, statistics) for name in names)
    if not any(column.part == "ids" for column in columns):  # which every ranker looks at
        columns = (Column(name=IDENTITY, kind="category"), *columns)
    return FeatureSpec(
        items=TableSpec(
            name="items", columns=columns, extra_numbers=() if log.columns.timestamp is None else TIME_NUMBERS
        ),
        profile=TableSpec(name="profile", columns=()),
        context=TableSpec(name="context", columns=()),
        history_length=0,
        actions=dict.fromkeys(log.columns.labels, "number"),
        objectives={name: name for name in log.columns.labels},
        target=log.columns.target,
        clock=log.columns.timestamp is not None,
    )


def _drawn(train: np.ndarray) -> np.ndarray:
    """[R] bool, at most MAX_FITTED_ROWS of the training rows, always the same ones."""
    rows = np.flatnonzero(train)
    drawn = np.zeros(len(train), dtype=bool)
    drawn[np.random.default_rng(0).permutation(rows)[:MAX_FITTED_ROWS]] = True
    return drawn


def _column(
    name: str, log: ClickLog, features: Features, encodings: dict[str, NumberEncoding], statistics: _Statistics
) -> Column:
    if name in encodings:
        return fit_number(name, np.concatenate(statistics.numbers[name]), encodings[name])
    if size := log.columns.categories[name]:
        return Column(name=name, kind="category", hash_size=size)
    counts = statistics.counts[name]
    names, numbers = np.array(list(counts), dtype=str), np.array(list(counts.values()), dtype=np.int64)
    return Column(name=name, kind="category", vocabulary=features.vocabulary(names, numbers))


def encoded_impressions(
    log: ClickLog, spec: FeatureSpec, keys: ImpressionKeys, kept: np.ndarray, progress: Progress
) -> ItemTable:
    """Encode the rows `kept`, [R] bool, as the catalogue of their candidates: row n is the n-th of them."""
    names = [name for name in log.columns.features if any(name == column.name for column in spec.items.columns)]
    filled, shape = 0, (int(kept.sum()) + 1,)
    arrays: Arrays = {part: np.zeros((*shape, width), STORED[PARTS[part]]) for part, width in spec.items.widths.items()}
    for chunk in progress(log.table.chunks(names), "encoding", len(keys)):
        values = feature_columns(log.columns, chunk, str(log.table.path), names)
        times = None if log.columns.timestamp is None or keys.times is None else keys.times[chunk.rows]
        rows = slice(filled, filled := filled + int(kept[chunk.rows].sum()))
        for part, array in encode_impressions(spec, values, times).items():
            arrays[part][rows] = array[kept[chunk.rows]]
    return ItemTable(ids=(), encoded=arrays)


def impression_examples(spec: FeatureSpec, rows: np.ndarray, labels: np.ndarray) -> RankingExamples:
    """Return the impressions at rows [B] of their table, with labels [B, T]."""
    empty = {one.name: (one.shape, one.dtype) for one in RequestBatch.specs(spec.sizes)}
    return RankingExamples(
        request={name: np.zeros((len(rows), *shape), dtype) for name, (shape, dtype) in empty.items()},
        candidate_rows=rows[:, None],
        candidate_scores=np.zeros((len(rows), 1, 0), np.float32),
        labels=labels[:, None],
    )


def bytes_a_row(spec: FeatureSpec) -> int:
    """Return the memory of an encoded row and its example."""
    return sum(4 * width for width in spec.items.widths.values()) + 8 + 4 * spec.num_objectives
