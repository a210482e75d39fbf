"""Difference of two versions of a rule set."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recsys.policy.rules import RuleSet

Parts = Callable[[str], tuple[dict[str, Any], Mapping[str, Any]]]
"""text -> what it lists, by name, and its other keys"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleDiff:
    """Changed rules by name, and the line diff of the texts, which also covers comments and layout."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    """rules of the same name and another content"""
    reordered: bool
    """the common rules are in another order"""
    settings: tuple[str, ...]
    """keys beside `rules` that differ"""
    lines: str
    """unified diff of the texts, empty where they are the same"""

    @staticmethod
    def between(before: str, after: str, names: tuple[str, str], parts: "Parts | None" = None) -> "RuleDiff":
        """Compare two texts; ConfigError for a text that is no rule set.

        names: of the two in the line diff; parts: None for those of a rule set
        """
        (old, old_settings), (new, new_settings) = map(parts or parts_of_rules, (before, after))
        keys = sorted({*old_settings, *new_settings})
        return RuleDiff(
            added=tuple(name for name in new if name not in old),
            removed=tuple(name for name in old if name not in new),
            changed=tuple(name for name in new if name in old and new[name] != old[name]),
            reordered=[name for name in new if name in old] != [name for name in old if name in new],
            settings=tuple(key for key in keys if old_settings.get(key) != new_settings.get(key)),
            lines=_lines(before, after, names),
        )


def parts_of_rules(text: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Return the rules by name, and the other keys."""
    document = RuleSet.parse(text).to_document()
    rules = {rule["name"]: rule for rule in document["rules"]}
    return rules, {key: value for key, value in document.items() if key != "rules"}


def _lines(before: str, after: str, names: tuple[str, str]) -> str:
    found = difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="")
    return "\n".join(found)
