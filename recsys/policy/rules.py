"""Business rules as data: one YAML document per rule set, for people who do not write code.

    rules:
      - {name: licensed-here, must: "contains(regions, context.region)"}
      - {name: for-children, when: "user.age < 16", must: "min_age <= user.age"}
      - {name: push-recent, boost: 1.2, where: "year >= 1997"}
      - {name: enough-of-war, bury: 2, where: "contains(genres, 'War')", start: 2026-11-01, end: 2026-12-01}
      - {name: house-film, pin: 0, item: "50", when: "surface == 'home'"}
      - {name: a-comedy-third, pin: 2, where: "contains(genres, 'Comedy')"}
      - {name: three-of-a-genre, cap: 3, of: genres, top: 10}
      - {name: one-old-film, cap: 1, where: "year < 1960", top: 10}
      - {name: two-new-ones, floor: 2, where: "missing(popularity)", top: 10}
      - {name: not-a-fourth-time, frequency: 3}
      - {name: fair-to-studios, exposure: studio, least: 0.02, most: 0.2}

| rule      | what it does                                                                                            |
|-----------|---------------------------------------------------------------------------------------------------------|
| must      | only items for which the condition holds are shown, pinned ones included; unknown values do not satisfy it |
| boost     | multiplies the utility of the items (divides it where it is negative, so that it never lowers an item)  |
| bury      | the reverse                                                                                             |
| pin       | puts one item, or the best candidate for which a condition holds, at a position (0 is the first)        |
| cap       | at most so many items that share a value of a column, or that satisfy a condition, in the first `top`   |
| floor     | at least so many items that satisfy a condition in the first `top`                                      |
| frequency | no item that this user was shown so often (Query.impressions[item])                                     |
| exposure  | utility x least / share below `least`, x most / share above `most`, within BOUNDS, and that to the power |
|           | `strength` (1 if not given: a pull; 30: a limit). Share is Query.exposure["column=value"], what the     |
|           | caller counted of the value in all that was shown. The column `item` limits every item by itself        |

Conditions are expressions (recsys/expressions.py) over item columns by their name, `user.column`, `context.column`,
`surface`, `hour` and `weekday` (UTC, Monday is 0), `num_events` and `exposure.name`; `when` may not read the item. A rule
holds from `start` until before `end` (UTC).

Beside `rules` a document may have `limits`, beyond which a dry run fails (recsys/policy/dry_run.py):

    limits: {value_lost: 0.05, value_lost_by_a_rule: 0.05, slates_changed: 0.9, exposure_shift: 0.2}

Precedence: must, then pins, then cap, floor and frequency, then boosts and exposure. Of two pins of one position the
earlier in the document has it, the other takes the next free one. Caps, floors and frequencies that cannot all be kept are
relaxed from the last of the document to the first, one position at a time, and `Slate.degraded` names them.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, ClassVar

import yaml

from recsys import strict_yaml
from recsys.contracts import MAX_K
from recsys.errors import ConfigError
from recsys.expressions import suggestion

BOUNDS = (1.0, 10.0)
"""range of the factor by which a rule raises or lowers a utility"""
FIRST_YEAR = 1970
MAX_QUOTAS = 60
"""caps, floors and frequencies of one rule set"""
DATE = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Fields that all rules share."""

    name: str
    when: str | None = None
    """condition on the request; None is always"""
    start: str | None = None
    end: str | None = None

    optional: ClassVar[tuple[str, ...]] = ("when", "start", "end")


@dataclass(frozen=True, slots=True, kw_only=True)
class Must(Rule):
    must: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Boost(Rule):
    boost: float
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bury(Rule):
    bury: float
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin(Rule):
    pin: int
    item: str | None = None
    where: str | None = None

    optional: ClassVar[tuple[str, ...]] = (*Rule.optional, "item", "where")
    either: ClassVar[tuple[str, str]] = ("item", "where")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap(Rule):
    cap: int
    top: int
    of: str | None = None
    where: str | None = None

    optional: ClassVar[tuple[str, ...]] = (*Rule.optional, "of", "where")
    either: ClassVar[tuple[str, str]] = ("of", "where")


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor(Rule):
    floor: int
    top: int
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Frequency(Rule):
    frequency: int
    where: str | None = None

    optional: ClassVar[tuple[str, ...]] = (*Rule.optional, "where")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure(Rule):
    exposure: str
    least: float
    most: float
    strength: float | None = None
    """power of the factor; None is 1"""

    optional: ClassVar[tuple[str, ...]] = (*Rule.optional, "strength")


KINDS: dict[str, type[Rule]] = {
    kind.__name__.lower(): kind for kind in (Must, Boost, Bury, Pin, Cap, Floor, Frequency, Exposure)
}
QUOTAS = (Cap, Floor, Frequency)
"""kinds that are relaxed when they cannot all be kept"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRunLimits:
    """Limits on the cost of a rule change, as shares from 0 to 1; a dry run fails beyond them."""

    value_lost: float = 0.05
    """share of the slates' value, against the rules before"""
    value_lost_by_a_rule: float = 0.05
    """share that one rule alone costs, against the same rules without it"""
    slates_changed: float = 1.0
    exposure_shift: float = 1.0
    """share of the exposure that moves between values of a category"""


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in the order of their document."""

    rules: tuple[Rule, ...]
    limits: DryRunLimits = DryRunLimits()

    @staticmethod
    def parse(document: Mapping[str, Any] | str) -> "RuleSet":
        """Parse YAML text or its decoded document; ConfigError names the rule and the key."""
        decoded = decode(document, "the rule set") if isinstance(document, str) else document
        rules = tuple(parse_rule(f"rules[{index}]", entry) for index, entry in enumerate(entries(decoded)))
        limits = _limits(decoded.get("limits", {}))
        names = [rule.name for rule in rules]
        if twice := [name for index, name in enumerate(names) if name in names[:index]]:
            raise ConfigError(f"two rules are called {twice[0]!r}; give each its own name")
        if (num := sum(isinstance(rule, QUOTAS) for rule in rules)) > MAX_QUOTAS:
            raise ConfigError(f"{num} rules are caps, floors or frequencies; keep at most {MAX_QUOTAS}")
        return RuleSet(rules, limits)

    @staticmethod
    def read(path: str | Path) -> "RuleSet":
        """Read a YAML file."""
        return RuleSet.parse(decode(read_text(path), f"the rule file {path}"))

    def to_document(self) -> dict[str, Any]:
        """Return the document that `parse` reads, normalised: dates, numbers and defaults are explicit."""
        document: dict[str, Any] = {
            "rules": [{key: value for key, value in asdict(rule).items() if value is not None} for rule in self.rules]
        }
        return document if self.limits == DryRunLimits() else {**document, "limits": asdict(self.limits)}

    def without(self, name: str) -> "RuleSet":
        """Return the rule set without one rule."""
        return replace(self, rules=tuple(rule for rule in self.rules if rule.name != name))

    @property
    def hash(self) -> str:
        """Content address: the first 12 hexadecimal digits of the sha256 of the canonical JSON."""
        text = json.dumps(self.to_document(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_text(path: str | Path) -> str:
    """Return the text of a rule file; ConfigError when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the rule file {path} cannot be read: {error}") from None


def decode(text: str, source: str) -> Any:
    """Decode YAML; ConfigError names line and column."""
    try:
        return strict_yaml.load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        location = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{source} is not YAML: {location}{reason}; mend it there") from None


def entries(decoded: Any) -> list[Any]:
    """Return the unchecked rules of a decoded document."""
    keys = set(decoded) if isinstance(decoded, Mapping) else set()
    if "rules" not in keys or keys - {"rules", "limits"} or not isinstance(decoded["rules"], list):
        raise ConfigError(
            "a rule set is one document with the key rules, a list, and maybe limits; write rules: [] for none"
        )
    return decoded["rules"]


def _limits(document: Any) -> DryRunLimits:
    known = [one.name for one in fields(DryRunLimits)]
    if not isinstance(document, Mapping):
        raise ConfigError(f"limits is a {type(document).__name__}; write a mapping of {', '.join(known)}")
    if unknown := [str(key) for key in document if key not in known]:
        raise ConfigError(f"limits has the unknown key {unknown[0]!r}; {suggestion(unknown[0], known)}")
    return DryRunLimits(**{key: _number(0.0, 1.0, f"limits.{key}", value) for key, value in document.items()})


def parse_rule(where: str, entry: Any) -> Rule:
    """Parse one rule; ConfigError begins with `where` and the key."""
    if not isinstance(entry, Mapping):
        raise ConfigError(
            f"{where} is a {type(entry).__name__}; write a mapping with a name and one of {', '.join(KINDS)}"
        )
    kinds = [kind for kind in KINDS if kind in entry]
    if not kinds:
        unknown = [str(key) for key in entry if key not in _CHECKS]
        hint = f"; {suggestion(unknown[0], KINDS)}" if unknown else ""
        raise ConfigError(f"{where} has no kind; give exactly one of {', '.join(KINDS)}{hint}")
    if len(kinds) > 1:
        raise ConfigError(f"{where} has {' and '.join(kinds)}; give exactly one of {', '.join(KINDS)}")
    kind = KINDS[kinds[0]]
    _check_keys(where, entry, kind)
    rule = kind(**{key: _CHECKS[key](f"{where}.{key}", value) for key, value in entry.items()})
    _check_order(where, rule)
    return rule


def _check_keys(where: str, entry: Mapping[Any, Any], kind: type[Rule]) -> None:
    known = [one.name for one in fields(kind)]
    if unknown := [str(key) for key in entry if key not in known]:
        raise ConfigError(f"{where} has the unknown key {unknown[0]!r}; {suggestion(unknown[0], known)}")
    if absent := [key for key in known if key not in entry and key not in kind.optional]:
        raise ConfigError(f"{where} lacks the key {absent[0]!r}; give {', '.join(known)}")
    either: tuple[str, ...] = getattr(kind, "either", ())
    if either and sum(key in entry for key in either) != 1:
        raise ConfigError(f"{where} needs exactly one of the keys {' and '.join(map(repr, either))}; give one of them")


def _check_order(where: str, rule: Rule) -> None:
    if rule.start and rule.end and rule.start >= rule.end:
        raise ConfigError(f"{where} starts at {rule.start}, not before it ends at {rule.end}; swap or mend them")
    if isinstance(rule, Exposure) and rule.least > rule.most:
        raise ConfigError(f"{where}.least is {rule.least}, more than most, {rule.most}; swap or mend them")
    if isinstance(rule, Floor) and rule.floor > rule.top:
        raise ConfigError(f"{where}.floor is {rule.floor}, but there are only {rule.top} positions; lower it")


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where} is {_shown(value)}; write text, in quotes")
    return value


def _number(low: float, high: float, where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{where} is {_shown(value)}; write a number from {low:g} to {high:g}")
    return float(value)


def _whole(low: int, where: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MAX_K:
        raise ConfigError(f"{where} is {_shown(value)}; write a whole number from {low} to {MAX_K}")
    return value


def _moment(where: str, value: Any) -> str:
    """Return ISO 8601 in UTC, so that texts compare as times do."""
    try:
        moment = datetime.fromisoformat(value.isoformat() if isinstance(value, date) else value)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{where} is {_shown(value)}; write a date such as 2026-11-01 or 2026-11-01T18:00") from None
    if moment.year < FIRST_YEAR:
        raise ConfigError(f"{where} is {_shown(value)}; write a year from {FIRST_YEAR}")
    return moment.strftime(DATE)


def _shown(value: Any) -> str:
    return repr(value)[:40] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(["name", "must", "where", "when", "item", "of", "exposure"], _text),
    **dict.fromkeys(["boost", "bury"], functools.partial(_number, *BOUNDS)),
    **dict.fromkeys(["least", "most"], functools.partial(_number, 0.0, 1.0)),
    "strength": functools.partial(_number, 1.0, 50.0),
    **dict.fromkeys(["start", "end"], _moment),
    "pin": functools.partial(_whole, 0),
    **dict.fromkeys(["cap", "floor", "top", "frequency"], functools.partial(_whole, 1)),
}
