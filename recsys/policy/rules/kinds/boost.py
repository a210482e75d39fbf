"""`boost`: multiplies the utility of the items (divides it where it is negative, so that it never lowers an item)."""

from dataclasses import dataclass
from typing import ClassVar

from recsys.policy.rules.effects import FACTOR_BOUNDS, RuleCatalogue, Scale
from recsys.policy.rules.rule import Rule, needs, number, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Boost(Rule):
    """{name: push-recent, boost: 1.2, where: "year >= 1997"}"""

    kind: ClassVar[str] = "boost"
    boost: float = needs(number(*FACTOR_BOUNDS))
    where: str = needs(text)

    def effect(self, catalogue: RuleCatalogue) -> Scale:
        return Scale(self.boost)
