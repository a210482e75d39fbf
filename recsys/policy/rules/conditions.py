"""Rule conditions, vectorised over items and requests.

A condition is split at its top-level `and`s: parts that read items only are evaluated once for the whole catalogue, parts
that read the request only once per request, and only the rest for every candidate.

Shapes: N items of the catalogue, B queries, C columns of candidates, R conditions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.expressions import Columns, Expression, compile_expression, conjuncts


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One condition, split into parts that must all hold."""

    items: np.ndarray
    """[N] bool, the parts that read the item alone"""
    request: tuple[Expression, ...]
    mixed: tuple[Expression, ...]

    @staticmethod
    def compile(
        text: str | None,
        catalogue: Columns,
        item_types: Mapping[str, str],
        types: Mapping[str, str],
        where: str,
        *,
        needs_labels: bool = False,
    ) -> "Condition":
        """Split and compile a condition, None always holds. types: of all names. ConfigError begins with `where`.

        needs_labels: it holds only for items of which it is true whatever the columns are that they lack.
        """
        required = item_types if needs_labels else ()
        items, request, mixed = np.ones(len(catalogue["item"]), dtype=bool), [], []
        if text is not None:
            compile_expression(text, types, where=where, result_type="boolean", required=required)
        for part in [] if text is None else conjuncts(text):
            one = compile_expression(part, types, where=where, result_type="boolean", required=required)
            reads = {name in item_types for name in one.names}
            if reads == {True, False}:
                mixed.append(one)
            elif reads == {False}:
                request.append(one)
            else:
                items &= one({name: catalogue[name] for name in ("item", *one.names)})
        return Condition(items=items, request=tuple(request), mixed=tuple(mixed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Conditions of all rules, evaluated together."""

    catalogue: Columns
    item_types: Mapping[str, str]
    items: np.ndarray
    """[N, R] bool"""
    request: tuple[tuple[int, Expression], ...]
    mixed: tuple[tuple[Expression, tuple[int, ...]], ...]
    """(part, indices of the conditions that contain it)"""

    @staticmethod
    def of(conditions: Sequence[Condition], catalogue: Columns, item_types: Mapping[str, str]) -> "Conditions":
        masks = [condition.items for condition in conditions]
        return Conditions(
            catalogue=catalogue,
            item_types=item_types,
            items=np.ascontiguousarray(np.reshape(masks, (len(masks), len(catalogue["item"]))).T.astype(bool)),
            request=tuple((index, part) for index, one in enumerate(conditions) for part in one.request),
            mixed=_grouped([(part, index) for index, one in enumerate(conditions) for part in one.mixed]),
        )

    def __call__(self, rows: np.ndarray, request: Columns) -> np.ndarray:
        """Evaluate item and mixed parts: rows [B, C], request columns [B, 1] -> [B, C, R] bool, without `request` parts."""
        holds = self.items[rows]
        for part, indices in self.mixed:
            columns = {
                name: self.catalogue[name][rows] if name in self.item_types else request[name] for name in part.names
            }
            holds[..., list(indices)] &= part(columns)[..., None]
        return holds


def _grouped(parts: Sequence[tuple[Expression, int]]) -> tuple[tuple[Expression, tuple[int, ...]], ...]:
    """Group equal parts by text, so that each is evaluated once."""
    by_text: dict[str, tuple[Expression, list[int]]] = {}
    for part, index in parts:
        by_text.setdefault(part.text, (part, []))[1].append(index)
    return tuple((part, tuple(indices)) for part, indices in by_text.values())
