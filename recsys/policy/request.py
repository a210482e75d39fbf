"""What a condition may read of a request, as columns.

Shapes: B queries of a batch.
"""

import math
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
"""of the names that every request has; `user.column` and `context.column` come from the data"""


def request_columns(queries: Sequence[Query], types: Mapping[str, str]) -> dict[str, np.ndarray]:
    """name -> [B, 1]; a value that is absent or of another kind is missing."""
    return {name: _column(kind, [_value(query, name) for query in queries]) for name, kind in types.items()}


def _value(query: Query, name: str) -> Any:
    owner, _, column = name.partition(".")
    return _OWN[owner](query) if owner in _OWN else _OWNERS[owner](query).get(column)


def _column(kind: str, values: list[Any]) -> np.ndarray:
    if kind == "number":
        return np.array([[_number(value)] for value in values], dtype=np.float64)
    column = np.empty((len(values), 1), dtype=object)
    convert = _texts if kind == "categories" else _text
    for row, value in enumerate(values):
        column[row, 0] = convert(value)
    return column


def _number(value: Any) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable and math.isfinite(value) else math.nan


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list | tuple) else ()


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
