"""`cap`: at most so many items that share a value of a column, or that satisfy a condition, in the first `top`."""

from dataclasses import dataclass
from typing import ClassVar

from recsys.policy.category_values import number_values
from recsys.policy.rules.effects import AtMost, RuleCatalogue
from recsys.policy.rules.rule import Rule, may_have, needs, text, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap(Rule):
    """{name: three-of-a-genre, cap: 3, of: genres, top: 10} or {name: one-old, cap: 1, where: "year < 1960", top: 10}"""

    kind: ClassVar[str] = "cap"
    relaxable: ClassVar[bool] = True
    one_of: ClassVar[tuple[str, ...]] = ("of", "where")
    cap: int = needs(whole(1))
    top: int = needs(whole(1))
    of: str | None = may_have(text)
    where: str | None = may_have(text)

    def effect(self, catalogue: RuleCatalogue) -> AtMost:
        groups = None if self.of is None else number_values(catalogue.values(self.name, self.of))[0]
        return AtMost(self.cap, self.top, groups)
