"""The base class of rule kinds, and checks of the values that people write."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, date, datetime
from functools import partial
from typing import Any, ClassVar

from recsys.contracts import MAX_K
from recsys.errors import ConfigError
from recsys.expressions import suggestion
from recsys.policy.rules.effects import Effect, RuleCatalogue

FIRST_YEAR = 1970
DATE = "%Y-%m-%dT%H:%M:%SZ"

Check = Callable[[str, Any], Any]
"""(key with its rule, value) -> value; ConfigError begins with the key"""


def text(key: str, value: Any) -> str:
    """Check text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{key} is {_shown(value)}; write text, in quotes")
    return value


def number(low: float, high: float) -> Check:
    """Return the check of a number in a range."""
    return partial(_number, low, high)


def whole(low: int) -> Check:
    """Return the check of a whole number from `low` to the longest slate."""
    return partial(_whole, low)


def moment(key: str, value: Any) -> str:
    """Return ISO 8601 in UTC, so that texts compare as times do."""
    try:
        found = datetime.fromisoformat(value.isoformat() if isinstance(value, date) else value)
        found = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{key} is {_shown(value)}; write a date such as 2026-11-01 or 2026-11-01T18:00") from None
    if found.year < FIRST_YEAR:
        raise ConfigError(f"{key} is {_shown(value)}; write a year from {FIRST_YEAR}")
    return found.strftime(DATE)


def _number(low: float, high: float, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{key} is {_shown(value)}; write a number from {low:g} to {high:g}")
    return float(value)


def _whole(low: int, key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MAX_K:
        raise ConfigError(f"{key} is {_shown(value)}; write a whole number from {low} to {MAX_K}")
    return value


def _shown(value: Any) -> str:
    return repr(value)[:40] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def needs(check: Check) -> Any:
    """Return a field of a rule that its document must have."""
    return field(metadata={"check": check})


def may_have(check: Check) -> Any:
    """Return a field of a rule that is None where its document lacks it."""
    return field(default=None, metadata={"check": check})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(ABC):
    """One rule of a rule set; a kind is a subclass, its fields are the keys of the document.

    Seven members, of which `effect` needs a definition: `kind`, `one_of`, `relaxable`, `needs_labels`, `condition_key`,
    `check`, `effect`.
    """

    name: str = needs(text)
    when: str | None = may_have(text)
    """condition on the request; None is always"""
    start: str | None = may_have(moment)
    end: str | None = may_have(moment)

    kind: ClassVar[str]
    """field whose presence in a document says that a rule is of this kind"""
    one_of: ClassVar[tuple[str, ...]] = ()
    """fields of which a document has exactly one"""
    relaxable: ClassVar[bool] = False
    """whether the effect is one that is relaxed when not all can be kept"""
    needs_labels: ClassVar[bool] = False
    """whether the condition fails for an item without a value that it compares, under `not` as well"""
    condition_key: ClassVar[str] = "where"
    """field with the condition on the item; a kind without one holds for all items"""

    @abstractmethod
    def effect(self, catalogue: RuleCatalogue) -> Effect:
        """Return the effect on the items of one catalogue; ConfigError where the rule does not fit it."""

    def check(self, label: str) -> None:  # noqa: B027, most kinds have nothing to check
        """ConfigError, which begins with `label`, where values do not fit each other."""

    @property
    def condition(self) -> str | None:
        return getattr(self, self.condition_key, None)

    @classmethod
    def parse(cls, label: str, entry: Mapping[Any, Any]) -> "Rule":
        """Parse a document of this kind; ConfigError begins with `label` and names the key."""
        checks = {one.name: one.metadata["check"] for one in fields(cls)}
        required = [one.name for one in fields(cls) if one.default is MISSING]
        if unknown := [str(key) for key in entry if key not in checks]:
            raise ConfigError(f"{label} has the unknown key {unknown[0]!r}; {suggestion(unknown[0], checks)}")
        if absent := [key for key in required if key not in entry]:
            raise ConfigError(f"{label} lacks the key {absent[0]!r}; give {', '.join(checks)}")
        if cls.one_of and sum(key in entry for key in cls.one_of) != 1:
            names = " and ".join(map(repr, cls.one_of))
            raise ConfigError(f"{label} needs exactly one of the keys {names}; give one of them")
        rule = cls(**{key: checks[key](f"{label}.{key}", value) for key, value in entry.items()})
        if rule.start and rule.end and rule.start >= rule.end:
            raise ConfigError(f"{label} starts at {rule.start}, not before it ends at {rule.end}; swap or mend them")
        rule.check(label)
        return rule
