"""Columns of requests and of the first item of their slates, read alike from a training log and from what was served.

The first item alone stands for a slate, since the rest of it depends on how many items the caller shows.

Shapes: R requests.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.contracts import Query, Slate
from recsys.features.spec import FeatureSpec
from recsys.measurement.drift.bins import BinnedColumn, Kind

HISTORY = "history_length"
UTILITY, SOURCE, PROBABILITY = "utility", "source", "probability."
GROUPS = 32
"""random groups of users: how they differ says how much chance is in a figure"""
STRATA = 28
"""days of the week times quarters of the day: what is expected follows the hours of a window"""
DAY_S, QUARTER_S = 86_400, 21_600


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Cells of some columns by request, with the user and the time of each request."""

    users: Sequence[str]
    """[R]"""
    times: np.ndarray
    """[R] float64, unix seconds"""
    columns: Mapping[str, Sequence[Any]]
    """column -> [R] cells: a number, a word, a list of words, or None"""

    @property
    def groups(self) -> np.ndarray:
        """Return [R] int64 in 0 to GROUPS - 1, the same for all requests of a user."""
        return groups_of(self.users)


def kinds_of_requests(spec: FeatureSpec) -> dict[str, Kind]:
    """Return column -> kind: what the models read of a request, but vectors."""
    found: dict[str, Kind] = {}
    for owner, table in (("context", spec.context), ("profile", spec.profile)):
        for column in table.columns:
            if column.kind != "vector":
                found[f"{owner}.{column.name}"] = "number" if column.kind == "number" else "category"
    return {**found, HISTORY: "number"}


def kinds_of_slates(objectives: Sequence[str]) -> dict[str, Kind]:
    """Return column -> kind: what a slate says of its first item."""
    return {UTILITY: "number", SOURCE: "category", **{PROBABILITY + name: "number" for name in objectives}}


def cells_of_requests(queries: Sequence[Mapping[str, Any]], names: Sequence[str], history_length: int) -> Cells:
    """Return the columns of these names of queries in the form of `Query.to_json`.

    history_length: newest events that the models read
    """
    columns: dict[str, list[Any]] = {}
    for name in names:
        owner, _, key = name.partition(".")
        if name == HISTORY:
            columns[name] = [min(len(query.get("history", ())), history_length) for query in queries]
        else:
            columns[name] = [query.get(owner, {}).get(key) for query in queries]
    times = np.array([query["now"] for query in queries], dtype=np.float64)
    return Cells(users=[query["user"] for query in queries], times=times, columns=columns)


def document_of(query: Query) -> dict[str, Any]:
    """Return the fields of a query that `cells_of_requests` reads."""
    return {name: getattr(query, name) for name in ("user", "now", "context", "profile", "history")}


def cells_of_first_items(
    utilities: Sequence[float | None],
    sources: Sequence[Sequence[str] | None],
    probabilities: Sequence[Mapping[str, float]],
    objectives: Sequence[str],
) -> dict[str, Sequence[Any]]:
    """Return the columns of the first items [R]; of their sources the strongest, nothing of an empty slate."""
    columns: dict[str, Sequence[Any]] = {UTILITY: utilities, SOURCE: [one[0] if one else None for one in sources]}
    return columns | {PROBABILITY + name: [one.get(name) for one in probabilities] for name in objectives}


def cells_of_slates(queries: Sequence[Query], slates: Sequence[Slate], objectives: Sequence[str]) -> Cells:
    """Return the columns of the first items of slates."""
    first = [slate.items[0] if slate.items else None for slate in slates]
    columns = cells_of_first_items(
        [one.utility if one else None for one in first],
        [one.sources if one else None for one in first],
        [one.probabilities if one else {} for one in first],
        objectives,
    )
    times = np.array([query.now for query in queries], dtype=np.float64)
    return Cells(users=[query.user for query in queries], times=times, columns=columns)


def counts_of(column: BinnedColumn, cells: Sequence[Any], keys: np.ndarray, num_keys: int) -> np.ndarray:
    """Return how many cells [R] are in each bin by key [R] in 0 to num_keys - 1, [num_keys, bins] int64."""
    at, bins = column.bins_of(cells)
    counted = np.bincount(keys[at] * column.num_bins + bins, minlength=num_keys * column.num_bins)
    return counted.reshape(num_keys, column.num_bins)


def groups_of(users: Sequence[str]) -> np.ndarray:
    """Return the group of each user [R], int64 in 0 to GROUPS - 1."""
    numbers = {user: zlib.crc32(user.encode()) % GROUPS for user in set(users)}
    return np.array([numbers[user] for user in users], dtype=np.int64)


def strata_of(times: np.ndarray) -> np.ndarray:
    """Return [R] int64 in 0 to STRATA - 1, the day of the week and the quarter of the day (UTC)."""
    seconds = np.nan_to_num(times).astype(np.int64)
    return seconds // DAY_S % 7 * 4 + seconds % DAY_S // QUARTER_S
