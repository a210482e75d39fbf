"""`floor`: at least so many items that satisfy a condition in the first `top`."""

from dataclasses import dataclass
from typing import ClassVar

from recsys.errors import ConfigError
from recsys.policy.rules.effects import AtLeast, RuleCatalogue
from recsys.policy.rules.rule import Rule, needs, text, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor(Rule):
    """{name: two-new-ones, floor: 2, where: "missing(popularity)", top: 10}"""

    kind: ClassVar[str] = "floor"
    relaxable: ClassVar[bool] = True
    floor: int = needs(whole(1))
    top: int = needs(whole(1))
    where: str = needs(text)

    def check(self, label: str) -> None:
        if self.floor > self.top:
            raise ConfigError(f"{label}.floor is {self.floor}, but there are only {self.top} positions; lower it")

    def effect(self, catalogue: RuleCatalogue) -> AtLeast:
        return AtLeast(self.floor, self.top)
