"""`pin`: puts one item, or the best candidate for which a condition holds, at a position (0 is the first)."""

from dataclasses import dataclass
from typing import ClassVar

from recsys.errors import ConfigError
from recsys.policy.rules.effects import Hold, RuleCatalogue
from recsys.policy.rules.rule import Rule, may_have, needs, text, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin(Rule):
    """{name: house-film, pin: 0, item: "50"} or {name: a-comedy-third, pin: 2, where: "contains(genres, 'Comedy')"}"""

    kind: ClassVar[str] = "pin"
    one_of: ClassVar[tuple[str, ...]] = ("item", "where")
    pin: int = needs(whole(0))
    item: str | None = may_have(text)
    where: str | None = may_have(text)

    def effect(self, catalogue: RuleCatalogue) -> Hold:
        if self.item is not None and self.item not in catalogue.row_of:
            raise ConfigError(
                f"rule {self.name!r} pins the item {self.item!r}, which is not in the catalogue; correct the id"
            )
        return Hold(self.pin, None if self.item is None else catalogue.row_of[self.item])
