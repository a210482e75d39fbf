"""Schema of item changes: the columns that may change, and their kinds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recsys.bundle import Bundle
from recsys.content.text_encoder import TEXT_COLUMN
from recsys.errors import DataError
from recsys.expressions import suggestion
from recsys.features.spec import FeatureSpec
from recsys.items.text_encoders import has_text_encoder

STOCK = "stock"
"""number of pieces that rules may read of every item, missing until a change gives it, whatever the catalogue has"""
VALUE_KINDS = {
    "category": "a string",
    "categories": "a list of strings",
    "number": "a finite number",
    "vector": "a list of {length} finite numbers",
}


@dataclass(frozen=True, kw_only=True)
class ItemSchema:
    """Columns of one bundle's catalogue."""

    kinds: Mapping[str, str]
    """column -> category, categories, number or vector"""
    lengths: Mapping[str, int]
    """of the vector columns"""

    @staticmethod
    def of(bundle: Bundle, spec: FeatureSpec) -> "ItemSchema":
        """Build the schema of the columns that rules read and the vectors that the models read."""
        made = {TEXT_COLUMN} if has_text_encoder(bundle) else set()
        lengths = {one.name: one.slots for one in spec.items.of_kind("vector") if one.name not in made}
        kinds = {STOCK: "number", **bundle.document("catalogue.json"), **dict.fromkeys(lengths, "vector")}
        return ItemSchema(kinds=kinds, lengths=lengths)

    @property
    def rule_types(self) -> dict[str, str]:
        """Types of the columns that rules may read."""
        return {name: kind for name, kind in self.kinds.items() if kind != "vector"}

    def check(self, item: str, columns: Mapping[str, Any]) -> None:
        """DataError for the first column that is unknown or has a value of another kind; None is a missing value."""
        for name, value in columns.items():
            if (fault := self._fault(name, value)) is not None:
                raise DataError(f"item {item!r}: {fault}")

    def usable(self, columns: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Return the valid columns, and one sentence for each of the others."""
        faults = {name: self._fault(name, value) for name, value in columns.items()}
        fitting = {name: value for name, value in columns.items() if faults[name] is None}
        return fitting, [fault for fault in faults.values() if fault is not None]

    def _fault(self, name: str, value: Any) -> str | None:
        if name not in self.kinds:
            return f"unknown column {name!r}; {suggestion(name, self.kinds)}"
        if value is None or _fits(self.kinds[name], value, self.lengths.get(name, 0)):
            return None
        expected = VALUE_KINDS[self.kinds[name]].format(length=self.lengths.get(name))
        return f"{name} is {_short(value)}; give {expected}, or null where it is not known"


def _fits(kind: str, value: Any, length: int) -> bool:
    if kind == "number":
        return _is_number(value)
    if kind == "category":
        return isinstance(value, str)
    if not isinstance(value, list | tuple):
        return False
    if kind == "categories":
        return all(isinstance(one, str) for one in value)
    return len(value) == length and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
