"""`fade`: halves the utility of an item with every so many days of its age, down to a tenth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from recsys.contracts import Query
from recsys.errors import ConfigError
from recsys.policy.rules.effects import FACTOR_BOUNDS, QueryScale, RuleCatalogue
from recsys.policy.rules.rule import Rule, may_have, needs, number, text

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fade(Rule):
    """{name: news-of-yesterday, fade: 1.5, by: published, where: "section == 'news'"}"""

    kind: ClassVar[str] = "fade"
    fade: float = needs(number(0.01, 36_500.0))
    """days in which the utility halves"""
    by: str = needs(text)
    """number column with the time of the item, unix seconds; an item without one does not fade"""
    where: str | None = may_have(text)

    def effect(self, catalogue: RuleCatalogue) -> "Fading":
        if catalogue.item_types.get(self.by) != "number":
            known = ", ".join(name for name, kind in catalogue.item_types.items() if kind == "number") or "none"
            raise ConfigError(f"rule {self.name!r} fades by {self.by!r}; name a number column: {known}")
        return Fading(half_life_s=self.fade * DAY_S, times=np.asarray(catalogue.columns[self.by], dtype=np.float64))


@dataclass(frozen=True, kw_only=True)
class Fading(QueryScale):
    """Utility x 0.5^(age / half-life) at the time of a query; an item of the future has age 0."""

    text: ClassVar[str] = "faded"
    half_life_s: float
    times: np.ndarray
    """[N] float64, unix seconds, NaN where unknown"""

    def factors(self, queries: Sequence[Query], rows: np.ndarray) -> np.ndarray:
        """Return [B, C] factors of catalogue rows [B, C]."""
        ages = np.array([[query.now] for query in queries]) - self.times[rows]
        factors = np.maximum(0.5 ** (np.maximum(ages, 0.0) / self.half_life_s), 1 / FACTOR_BOUNDS[1])
        return np.where(np.isnan(ages), 1.0, factors)
