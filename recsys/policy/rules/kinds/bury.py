"""`bury`: the reverse of a boost."""

from dataclasses import dataclass
from typing import ClassVar

from recsys.policy.rules.effects import FACTOR_BOUNDS, RuleCatalogue, Scale
from recsys.policy.rules.rule import Rule, needs, number, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Bury(Rule):
    """{name: enough-of-war, bury: 2, where: "contains(genres, 'War')", start: 2026-11-01, end: 2026-12-01}"""

    kind: ClassVar[str] = "bury"
    bury: float = needs(number(*FACTOR_BOUNDS))
    where: str = needs(text)

    def effect(self, catalogue: RuleCatalogue) -> Scale:
        return Scale(1 / self.bury)
