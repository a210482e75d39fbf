"""Values of the items in the category columns of a catalogue. Shapes: N items, M values of an item."""

from collections.abc import Mapping, Sequence

import numpy as np

from recsys.errors import ConfigError
from recsys.expressions import Columns, suggestion

NO_GROUP = -1


def category_values(name: str, column: str, catalogue: Columns, item_types: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Return the distinct values of each item in a category column, none where missing; ConfigError for another column."""
    if column not in item_types:
        raise ConfigError(f"rule {name!r} names the unknown column {column!r}; {suggestion(column, item_types)}")
    kind = item_types[column]
    if kind == "category":
        return [() if value is None else (value,) for value in catalogue[column]]
    if kind == "categories":
        return [tuple(dict.fromkeys(values or ())) for values in catalogue[column]]
    raise ConfigError(f"rule {name!r} names {column!r}, a {kind}; name a category or categories column")


def number_values(rows: Sequence[tuple[str, ...]]) -> tuple[np.ndarray, int]:
    """Return [N, M] int64 value numbers, NO_GROUP behind the last, and the number of distinct values."""
    numbers = value_numbers(rows)
    groups = np.full((len(rows), max(map(len, rows), default=0)), NO_GROUP, dtype=np.int64)
    for item, row in enumerate(rows):
        groups[item, : len(row)] = [numbers[value] for value in row]
    return groups, len(numbers)


def value_numbers(rows: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """Return value -> number, in the order of their first item."""
    return {value: number for number, value in enumerate(dict.fromkeys(value for row in rows for value in row))}
