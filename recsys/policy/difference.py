"""What lies between two versions of a rule set."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recsys.policy.rules import RuleSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Names of rules, and the lines of the texts. Comments and layout make lines differ, not rules."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    """the same name with another content"""
    reordered: bool
    """the rules that both have follow each other otherwise"""
    settings: tuple[str, ...]
    """keys beside `rules` that differ"""
    lines: str
    """unified diff of the texts, empty where they are the same"""

    @staticmethod
    def between(before: str, after: str, names: tuple[str, str]) -> "Difference":
        """From one text to another, called by the names. ConfigError for a text that is no rule set."""
        (old, old_settings), (new, new_settings) = _parts(before), _parts(after)
        keys = sorted({*old_settings, *new_settings})
        return Difference(
            added=tuple(name for name in new if name not in old),
            removed=tuple(name for name in old if name not in new),
            changed=tuple(name for name in new if name in old and new[name] != old[name]),
            reordered=[name for name in new if name in old] != [name for name in old if name in new],
            settings=tuple(key for key in keys if old_settings.get(key) != new_settings.get(key)),
            lines=_lines(before, after, names),
        )


def _parts(text: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Rules by name, and all beside them."""
    document = RuleSet.parse(text).to_document()
    rules = {rule["name"]: rule for rule in document["rules"]}
    return rules, {key: value for key, value in document.items() if key != "rules"}


def _lines(before: str, after: str, names: tuple[str, str]) -> str:
    found = difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="")
    return "\n".join(found)
