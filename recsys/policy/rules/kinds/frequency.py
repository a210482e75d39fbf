"""`frequency`: no item that this user was shown so often (Query.impressions[item])."""

from dataclasses import dataclass
from typing import ClassVar

from recsys.contracts import Query
from recsys.policy.rules.effects import QueryBan, RuleCatalogue
from recsys.policy.rules.rule import Rule, may_have, needs, text, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequency(Rule):
    """{name: not-a-fourth-time, frequency: 3}"""

    kind: ClassVar[str] = "frequency"
    relaxable: ClassVar[bool] = True
    frequency: int = needs(whole(1))
    where: str | None = may_have(text)

    def effect(self, catalogue: RuleCatalogue) -> QueryBan:
        def rows(query: Query) -> list[int]:
            shown_often = (item for item, times in query.impressions.items() if times >= self.frequency)
            return [catalogue.row_of[item] for item in shown_often if item in catalogue.row_of]

        return QueryBan(rows)
