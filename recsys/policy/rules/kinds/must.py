"""`must`: only items for which the condition holds are shown, pinned ones included.

A value that an item lacks makes every comparison with it fail, under `not` too: an item without the label is not shown.
`or missing(label)` lets it pass.
"""

from dataclasses import dataclass
from typing import ClassVar

from recsys.policy.rules.effects import Ban, RuleCatalogue
from recsys.policy.rules.rule import Rule, needs, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Must(Rule):
    """{name: licensed-here, must: "contains(regions, context.region)"}"""

    kind: ClassVar[str] = "must"
    needs_labels: ClassVar[bool] = True
    condition_key: ClassVar[str] = "must"
    must: str = needs(text)

    def effect(self, catalogue: RuleCatalogue) -> Ban:
        return Ban()
