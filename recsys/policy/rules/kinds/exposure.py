"""`exposure`: utility x least / share below `least`, x most / share above `most`, within FACTOR_BOUNDS, and that to the power
`strength` (1 if not given: a pull; 30: a limit).

Share is Query.exposure["column=value"], what the caller counted of the value in all that was shown. The column `item` limits
every item by itself.

Shapes: N items of the catalogue, B queries, C columns of candidates, M values of an item, V values of a column.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recsys.contracts import Query
from recsys.errors import ConfigError
from recsys.policy.category_values import NO_GROUP, number_values, value_numbers
from recsys.policy.exposure.exposure_lookup import look_up_exposure
from recsys.policy.rules.effects import FACTOR_BOUNDS, QueryScale, RuleCatalogue
from recsys.policy.rules.rule import Rule, may_have, needs, number, text

MAX_FACTOR = FACTOR_BOUNDS[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure(Rule):
    """{name: fair-to-studios, exposure: studio, least: 0.02, most: 0.2}"""

    kind: ClassVar[str] = "exposure"
    exposure: str = needs(text)
    least: float = needs(number(0.0, 1.0))
    most: float = needs(number(0.0, 1.0))
    strength: float | None = may_have(number(1.0, 50.0))
    """power of the factor; None is 1"""

    def check(self, label: str) -> None:
        if self.least > self.most:
            raise ConfigError(f"{label}.least is {self.least}, more than most, {self.most}; swap or mend them")

    def effect(self, catalogue: RuleCatalogue) -> "ExposureBalance":
        rows = catalogue.values(self.name, self.exposure)
        keys = tuple(f"{self.exposure}={value}" for value in value_numbers(rows))
        return ExposureBalance(rule=self, keys=keys, groups=number_values(rows)[0])


@dataclass(frozen=True, kw_only=True)
class ExposureBalance(QueryScale):
    """Raises values shown too little so far, lowers values shown too much."""

    rule: Exposure
    keys: tuple[str, ...]
    """[V] keys of Query.exposure"""
    groups: np.ndarray
    """[N, M] int64 numbers of each item's values, NO_GROUP behind the last"""

    def exposure_keys(self, rows: np.ndarray) -> list[str]:
        present = np.unique(self.groups[rows])
        return [self.keys[value] for value in present.tolist() if value != NO_GROUP]

    def factors(self, queries: Sequence[Query], rows: np.ndarray) -> np.ndarray:
        """Return utility factors [B, C] of catalogue rows [B, C].

        A quotient of bound and share lies within FACTOR_BOUNDS or its inverse and is raised to the rule's strength; an item
        of several values has the product of their quotients.
        """
        shares = look_up_exposure(queries, self.keys, self.groups[rows])
        low, high = self.rule.least, self.rule.most
        raised = low / np.maximum(shares, low / MAX_FACTOR or 1.0)
        lowered = high / np.maximum(shares, max(high, 1e-300))
        quotients = np.where(shares < low, raised, np.where(shares > high, lowered, 1.0)).clip(
            1 / MAX_FACTOR, MAX_FACTOR
        )
        strength = 1.0 if self.rule.strength is None else self.rule.strength
        return quotients.prod(axis=-1).clip(1 / MAX_FACTOR, MAX_FACTOR) ** strength
