"""Items that a query may not be shown: seen ones, excluded ones, and those that its user hides by id or by a category.

Shapes: N items of the catalogue, B queries.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from recsys.contracts import Query
from recsys.policy.repeat import SeenFilter

ITEM = "item"
KINDS = ("category", "categories")
UNKNOWN = "hidden:"
"""flag prefix of a column that is no category of the catalogue, or has a hidden value that no item has"""

Rows = Mapping[str, Sequence[int]]
"""value -> catalogue rows"""


@dataclass(frozen=True, kw_only=True, eq=False)
class HiddenItems:
    """Catalogue rows of Query.hidden. A column is indexed when a query first hides by it."""

    types: Mapping[str, str]
    """column -> kind; "item" is implied"""
    column: Callable[[str], Iterable[Any]]
    """name -> [N] current values: text, list of texts, or None"""
    _indexed: dict[str, Rows] = field(default_factory=dict)

    def rows(self, queries: Sequence[Query]) -> list[set[int]]:
        """Return [B] sets of catalogue rows that each query hides."""
        return [{row for found in self._found(query) for row in found[1]} for query in queries]

    def unknown(self, query: Query) -> list[str]:
        """Return a flag for each column or value that the catalogue does not have and that hides nothing."""
        return list(dict.fromkeys(UNKNOWN + name for name, rows in self._found(query) if not rows))

    def _found(self, query: Query) -> list[tuple[str, Sequence[int]]]:
        """Return (column, rows that have the value) for each hidden value."""
        return [
            (name, self._rows_of(name).get(value.strip(), ()))
            for name, hidden in query.hidden.items()
            for value in hidden
        ]

    def _rows_of(self, name: str) -> Rows:
        if name not in self._indexed:
            kind = "category" if name == ITEM else self.types.get(name)
            if kind not in KINDS:
                return {}
            self._indexed[name] = _indexed(self.column(name))
        return self._indexed[name]


def _indexed(column: Iterable[Any]) -> Rows:
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(column):
        for one in [value] if isinstance(value, str) else value or ():
            rows.setdefault(one.strip(), []).append(row)
    return rows


def excluded_rows(
    queries: Sequence[Query], row_of: Mapping[str, int], seen: SeenFilter, hiding: HiddenItems
) -> list[list[int]]:
    """Return [B] ascending catalogue rows that each query may not be shown, whichever source offers them."""
    barred = seen.rows(queries, row_of)
    if not any(query.hidden for query in queries):
        return barred
    return [sorted({*own, *hidden}) for own, hidden in zip(barred, hiding.rows(queries), strict=True)]
