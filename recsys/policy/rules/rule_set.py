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

A kind of rule is one file of recsys/policy/rules/kinds, which says what it does.

Conditions are expressions (recsys/expressions.py) over item columns by their name, `user.column`, `context.column`,
`surface`, `hour` and `weekday` (UTC, Monday is 0), `num_events` and `exposure.name`; `when` may not read the item. A rule
holds from `start` until before `end` (UTC).

Beside `rules` a document may have `limits`, beyond which a dry run fails (recsys/policy/rules/dry_run.py):

    limits: {value_lost: 0.05, value_lost_by_a_rule: 0.05, slates_changed: 0.9, exposure_shift: 0.2}

Precedence: must, then pins, then cap, floor and frequency, then all that scales a utility. Of two pins of one position the
earlier in the document has it, the other takes the next free one. Caps, floors and frequencies that cannot all be kept are
relaxed from the last of the document to the first, one position at a time, and `Slate.degraded` names them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from recsys import strict_yaml
from recsys.errors import ConfigError
from recsys.expressions import suggestion
from recsys.policy.rules.kinds import rule_kinds
from recsys.policy.rules.rule import Rule, number

MAX_QUOTAS = 60
"""rules of one rule set that are relaxed when not all can be kept: each has a bit of an int64"""


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
        if (num := sum(rule.relaxable for rule in rules)) > MAX_QUOTAS:
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


_share = number(0.0, 1.0)


def _limits(document: Any) -> DryRunLimits:
    known = [one.name for one in fields(DryRunLimits)]
    if not isinstance(document, Mapping):
        raise ConfigError(f"limits is a {type(document).__name__}; write a mapping of {', '.join(known)}")
    if unknown := [str(key) for key in document if key not in known]:
        raise ConfigError(f"limits has the unknown key {unknown[0]!r}; {suggestion(unknown[0], known)}")
    return DryRunLimits(**{key: _share(f"limits.{key}", value) for key, value in document.items()})


def parse_rule(label: str, entry: Any) -> Rule:
    """Parse one rule; ConfigError begins with `label` and the key."""
    kinds = rule_kinds()
    if not isinstance(entry, Mapping):
        raise ConfigError(
            f"{label} is a {type(entry).__name__}; write a mapping with a name and one of {', '.join(kinds)}"
        )
    named = [kind for kind in kinds if kind in entry]
    if not named:
        known = {one.name for kind in kinds.values() for one in fields(kind)}
        unknown = [str(key) for key in entry if key not in known]
        hint = f"; {suggestion(unknown[0], kinds)}" if unknown else ""
        raise ConfigError(f"{label} has no kind; give exactly one of {', '.join(kinds)}{hint}")
    if len(named) > 1:
        raise ConfigError(f"{label} has {' and '.join(named)}; give exactly one of {', '.join(kinds)}")
    return kinds[named[0]].parse(label, entry)
