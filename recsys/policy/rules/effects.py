"""Effects of rules: what a rule of any kind does to the items for which its condition holds.

The effects are few and closed: the selection is compiled for them. Kinds of rules are open, each makes one effect.

Shapes: N items of the catalogue, B queries, C columns of candidates, M values of an item.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recsys.contracts import Query
from recsys.expressions import Columns
from recsys.policy.category_values import category_values

FACTOR_BOUNDS = (1.0, 10.0)
"""range of the factor by which a rule raises or lowers a utility"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCatalogue:
    """The catalogue that a rule is made for."""

    columns: Columns
    """name -> [N]; "item" holds the ids"""
    item_types: Mapping[str, str]
    """of the columns that rules may read; "item" is a category"""
    row_of: Mapping[str, int]

    @staticmethod
    def of(columns: Columns, item_types: Mapping[str, str]) -> "RuleCatalogue":
        return RuleCatalogue(
            columns=columns,
            item_types={"item": "category", **item_types},
            row_of={item: row for row, item in enumerate(columns["item"].tolist())},
        )

    def values(self, rule: str, column: str) -> list[tuple[str, ...]]:
        """Return the values [N] of a category column; ConfigError, which names the rule, for another column."""
        return category_values(rule, column, self.columns, self.item_types)


@dataclass(frozen=True, slots=True)
class Ban:
    """Items for which the condition does not hold are never shown."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The utility is multiplied by a factor; a negative one is divided, so that a factor above 1 never lowers an item."""

    factor: float

    @property
    def text(self) -> str:
        return f"utility x{self.factor:.3g}"


class QueryScale(ABC):
    """The utility is multiplied by a factor of its own for each query and item."""

    text: ClassVar[str] = "balanced"

    @abstractmethod
    def factors(self, queries: Sequence[Query], rows: np.ndarray) -> np.ndarray:
        """Return factors [B, C] of catalogue rows [B, C]; those of a query do not depend on the others."""

    def exposure_keys(self, rows: np.ndarray) -> list[str]:
        """Return the keys of Query.exposure that catalogue rows [C] read."""
        return []


@dataclass(frozen=True, slots=True)
class Hold:
    """An item has a position."""

    position: int
    row: int | None
    """catalogue row; None is the best candidate for which the condition holds"""

    @property
    def text(self) -> str:
        return f"place {self.position + 1}"


@dataclass(frozen=True, slots=True)
class AtMost:
    """At most `number` items of a group in the first `top` positions."""

    number: int
    top: int
    groups: np.ndarray | None = None
    """[N, M] int64 groups of each item, NO_GROUP behind the last; None is one group, where the condition holds"""
    text: ClassVar[str] = "held back"


@dataclass(frozen=True, slots=True)
class AtLeast:
    """At least `number` items for which the condition holds in the first `top` positions."""

    number: int
    top: int
    text: ClassVar[str] = "held back"


@dataclass(frozen=True, slots=True)
class QueryBan:
    """Items that a query is not shown unless too few others are left, where the condition holds."""

    rows: Callable[[Query], list[int]]
    """catalogue rows of a query"""
    text: ClassVar[str] = "held back"


Quota = AtMost | AtLeast | QueryBan
"""effects that are relaxed when they cannot all be kept"""
Effect = Ban | Scale | QueryScale | Hold | Quota
