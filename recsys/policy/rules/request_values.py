"""Request attributes that a condition may read, as columns.

Shapes: B queries of a batch.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from recsys.contracts import Query

TYPES: Mapping[str, str] = {
    "surface": "category",
    "hour": "number",
    "weekday": "number",
    "num_events": "number",
    "exposure.*": "number",
}
"""name -> type for every request; `user.column` and `context.column` come from the data"""


Value = float | str | tuple[str, ...] | None


def request_values(query: Query, types: Mapping[str, str]) -> tuple[Value, ...]:
    """Return one hashable value per name, None where absent or of another type."""
    return tuple(_CONVERT[kind](_value(query, name)) for name, kind in types.items())


def request_columns(values: Sequence[tuple[Value, ...]], types: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return name -> column [B, 1] from the tuples of `request_values`."""
    columns = {}
    for index, (name, kind) in enumerate(types.items()):
        column = np.empty((len(values), 1), dtype=np.float64 if kind == "number" else object)
        for row, values_of_query in enumerate(values):
            column[row, 0] = _MISSING[kind] if values_of_query[index] is None else values_of_query[index]
        columns[name] = column
    return columns


def _value(query: Query, name: str) -> Any:
    owner, _, column = name.partition(".")
    return _OWN[owner](query) if owner in _OWN else _OWNERS[owner](query).get(column)


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable and abs(value) <= sys.float_info.max else None


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _texts(value: Any) -> tuple[str, ...] | None:
    return tuple(one.strip() for one in value if isinstance(one, str)) if isinstance(value, list | tuple) else None


def _moment(query: Query) -> datetime:
    return datetime.fromtimestamp(min(max(query.now, 0.0), 2e11), UTC)


_OWN: dict[str, Callable[[Query], Any]] = {
    "surface": lambda query: query.surface,
    "hour": lambda query: _moment(query).hour,
    "weekday": lambda query: _moment(query).weekday(),
    "num_events": lambda query: len(query.history),
}
_OWNERS: dict[str, Callable[[Query], Mapping[str, Any]]] = {
    "user": lambda query: query.profile,
    "context": lambda query: query.context,
    "exposure": lambda query: query.exposure,
}
_CONVERT: dict[str, Callable[[Any], Value]] = {"number": _number, "category": _text, "categories": _texts}
_MISSING: dict[str, Any] = {"number": math.nan, "category": None, "categories": ()}
