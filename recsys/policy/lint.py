"""Linter of rule files: each finding with its line and a remedy.

An error cannot be served or cannot be intended; a warning has no effect or another one than it seems.

Shapes: N items of the catalogue.
"""

import ast
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import yaml

from recsys.errors import ConfigError
from recsys.expressions import Columns, Expression, suggestion
from recsys.policy.compiled_rules import CompiledRules
from recsys.policy.quotas import category_values
from recsys.policy.rules import DATE, Boost, Bury, Cap, Floor, Must, Pin, Rule, RuleSet, decode, entries, parse_rule

CALENDAR = frozenset({"hour", "weekday"})
"""names whose values can all be enumerated"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One error or warning."""

    level: str
    """error or warning"""
    rule: str
    """name, or rules[index] without one"""
    line: int
    column: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCatalogue:
    """Catalogue columns and types that rules are checked against."""

    columns: Columns
    item_types: Mapping[str, str]
    request_types: Mapping[str, str]

    def compile(self, *rules: Rule) -> CompiledRules:
        return CompiledRules.compile(RuleSet(rules), self.columns, self.item_types, self.request_types)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedRule:
    """Parsed rule with the text locations of its keys and the items that satisfy its condition."""

    rule: Rule
    marks: Mapping[str, tuple[int, int]]
    matched: np.ndarray
    """[N] bool, the part of the condition that reads the item alone"""
    whole: bool
    """the condition reads the item alone"""
    when: Expression | None

    def finding(self, level: str, key: str, message: str) -> Finding:
        line, column = self.marks.get(key) or next(iter(self.marks.values()))
        return Finding(level=level, rule=self.rule.name, line=line, column=column, message=message)

    @property
    def condition(self) -> str:
        return "must" if isinstance(self.rule, Must) else "where"

    @property
    def always(self) -> bool:
        return self.rule.when is None and self.rule.start is None and self.rule.end is None


def check(text: str, catalogue: RuleCatalogue, *, now: float) -> list[Finding]:
    """Return all findings in the order of the file; ConfigError where the text is no YAML document of rules."""
    documents = entries(decode(text, "the rule file"))
    marks = _marks(text)
    found: list[Finding] = []
    located: list[LocatedRule] = []
    for index, (entry, own) in enumerate(zip(documents, marks, strict=True)):
        try:
            located.append(_locate(f"rules[{index}]", entry, own, catalogue))
        except ConfigError as error:
            found.append(_refused(index, entry, own, str(error)))
    for rule in located:
        found += list(_values(rule, catalogue)) or list(_reach(rule))
        found += [*_windows(rule, now), *_calendar(rule)]
    found += [one for first, second in itertools.combinations(located, 2) for one in _pairs(first, second, catalogue)]
    if not any(one.level == "error" for one in found):
        try:
            RuleSet.parse(text)
        except ConfigError as error:
            found.append(Finding(level="error", rule="rules", line=1, column=1, message=str(error)))
    return sorted(found, key=lambda one: (one.line, one.column))


def _locate(where: str, entry: Any, marks: Mapping[str, tuple[int, int]], catalogue: RuleCatalogue) -> LocatedRule:
    rule = parse_rule(where, entry)
    compiled = catalogue.compile(rule)
    conditions = compiled.conditions
    return LocatedRule(
        rule=rule,
        marks=marks,
        matched=conditions.items[:, 0],
        whole=not conditions.request and not conditions.mixed,
        when=next((when for group in compiled.when_conditions.groups.values() for _, when in group), None),
    )


def _marks(text: str) -> list[dict[str, tuple[int, int]]]:
    """Return, per rule, key -> (line, column) from 1; the rule itself is first, under ''."""
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    nodes = next(value.value for key, value in root.value if key.value == "rules")
    return [{"": _at(node), **_keys(node)} for node in nodes]


def _keys(node: Any) -> dict[str, tuple[int, int]]:
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {str(key.value): _at(value) for key, value in node.value}


def _at(node: Any) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _refused(index: int, entry: Any, marks: Mapping[str, tuple[int, int]], message: str) -> Finding:
    """At the key that the message names."""
    named = [
        key for key in marks if key and (f"].{key} " in message or f", {key}: " in message or f"key {key!r}" in message)
    ]
    line, column = marks[named[0] if named else ""]
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return Finding(level="error", rule=str(name or f"rules[{index}]"), line=line, column=column, message=message)


def _values(located: LocatedRule, catalogue: RuleCatalogue) -> Iterator[Finding]:
    """Find compared values that no item has: most often mistyped."""
    for key in ("must", "where"):
        text = getattr(located.rule, key, None)
        for column, value in _compared(text) if text else ():
            if catalogue.item_types.get(column) in ("category", "categories"):
                rows = category_values(located.rule.name, column, catalogue.columns, catalogue.item_types)
                known = {one for row in rows for one in row}
                if value not in known:
                    yield located.finding(
                        "error", key, f"no item has the {column} {value!r}; {suggestion(value, known)}"
                    )


def _compared(text: str) -> Iterator[tuple[str, str]]:
    """Yield (column, value) of every text that an expression compares with a column."""
    for node in ast.walk(ast.parse(text.strip(), mode="eval")):
        sides: Sequence[ast.expr] = ()
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Call):
            sides = node.args
        names = [side.id for side in sides if isinstance(side, ast.Name)]
        values = [one for side in sides for one in (side.elts if isinstance(side, ast.Tuple | ast.List) else [side])]
        texts = [one.value for one in values if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        yield from itertools.product(names, texts)


def _reach(located: LocatedRule) -> Iterator[Finding]:
    """Find conditions that no item or every item satisfies, and quotas without effect."""
    rule, key = located.rule, located.condition
    num, total = int(located.matched.sum()), len(located.matched)
    if getattr(rule, key, None) is not None:
        if num == 0:
            grave = isinstance(rule, Must | Floor)
            what = "so nothing could be shown" if isinstance(rule, Must) else "so the rule does nothing"
            yield located.finding("error" if grave else "warning", key, f"no item of the catalogue meets it, {what}")
        elif num == total and located.whole and not isinstance(rule, Pin):
            yield located.finding("warning", key, f"all {total:,} items meet it, so it tells none from the others")
        elif isinstance(rule, Floor) and located.whole and num < rule.floor:
            yield located.finding("error", "floor", f"only {num} items meet the condition, fewer than {rule.floor}")
    if isinstance(rule, Cap) and rule.cap >= rule.top:
        yield located.finding("warning", "cap", f"{rule.cap} of the first {rule.top} positions caps nothing; lower it")


def _windows(located: LocatedRule, now: float) -> Iterator[Finding]:
    moment = datetime.fromtimestamp(now, UTC).strftime(DATE)
    if located.rule.end is not None and located.rule.end <= moment:
        yield located.finding("warning", "end", f"it ended at {located.rule.end} and holds no more; remove the rule")


def _calendar(located: LocatedRule) -> Iterator[Finding]:
    """Evaluate a `when` that reads only hour and weekday at every hour of the week."""
    when = located.when
    if when is not None and when.names and when.names <= CALENDAR:
        week = {"hour": np.tile(np.arange(24.0), 7), "weekday": np.repeat(np.arange(7.0), 24)}
        holds = when({name: week[name] for name in when.names})
        if not holds.any():
            yield located.finding("error", "when", "it holds at no hour of the week, so the rule never does")
        elif holds.all():
            yield located.finding("warning", "when", "it holds at every hour of the week; remove it")


def _pairs(first: LocatedRule, second: LocatedRule, catalogue: RuleCatalogue) -> Iterator[Finding]:
    """Find rules that contradict or hide each other; the later rule is named where both are at fault."""
    yield from _same_name(first, second)
    if not _overlap(first.rule, second.rule):
        return
    yield from _same_condition(first, second)
    yield from _pins(first, second)
    yield from _nothing_left(first, second)
    for must, other in ((first, second), (second, first)):
        yield from _removed(must, other, catalogue)
    for cap, floor in ((first, second), (second, first)):
        yield from _cap_below_floor(cap, floor, catalogue)


def _same_name(first: LocatedRule, second: LocatedRule) -> Iterator[Finding]:
    if first.rule.name == second.rule.name:
        yield second.finding("error", "name", f"two rules are called {second.rule.name!r}; give each its own name")


def _overlap(one: Rule, other: Rule) -> bool:
    """Return whether both rules can be active at one time."""
    starts_before = one.start is None or other.end is None or one.start < other.end
    ends_after = one.end is None or other.start is None or one.end > other.start
    return starts_before and ends_after


def _same_condition(first: LocatedRule, second: LocatedRule) -> Iterator[Finding]:
    one, other = first.rule, second.rule
    if not isinstance(one, Boost | Bury) or not isinstance(other, Boost | Bury) or one.when != other.when:
        return
    if not (first.whole and second.whole and (first.matched == second.matched).all()):
        return
    if type(one) is not type(other):
        yield second.finding("error", "where", f"it contradicts {one.name!r}, which moves the same items the other way")
    else:
        yield second.finding("warning", "where", f"it moves the same items as {one.name!r} once more; join them")


def _pins(first: LocatedRule, second: LocatedRule) -> Iterator[Finding]:
    one, other = first.rule, second.rule
    if not isinstance(one, Pin) or not isinstance(other, Pin) or not _implied_by(first, other):
        return
    if one.pin == other.pin:
        yield second.finding(
            "error", "pin", f"{one.name!r} has position {one.pin} already, so this one moves behind it"
        )
    if one.item is not None and one.item == other.item:
        yield second.finding("error", "item", f"{one.name!r} pins {one.item!r} already; remove one")


def _implied_by(located: LocatedRule, other: Rule) -> bool:
    """Return whether this rule holds whenever the other one does."""
    return located.always or located.rule.when == other.when


def _nothing_left(first: LocatedRule, second: LocatedRule) -> Iterator[Finding]:
    one, other = first.rule, second.rule
    if not isinstance(one, Must) or not isinstance(other, Must) or not _implied_by(first, other):
        return
    if first.matched.any() and second.matched.any() and not (first.matched & second.matched).any():
        yield second.finding("error", "must", f"together with {one.name!r} it leaves no item to show")


def _removed(must: LocatedRule, other: LocatedRule, catalogue: RuleCatalogue) -> Iterator[Finding]:
    """Find a rule whose items a must removes whenever the rule holds."""
    if not isinstance(must.rule, Must) or not _implied_by(must, other.rule):
        return
    if isinstance(other.rule, Pin) and other.rule.item is not None:
        (row,) = np.flatnonzero(catalogue.columns["item"] == other.rule.item)
        if not must.matched[row]:
            yield other.finding(
                "error", "item", f"{must.rule.name!r} removes {other.rule.item!r}, which is pinned here"
            )
    elif getattr(other.rule, "where", None) and other.matched.any() and not (must.matched & other.matched).any():
        grave = isinstance(other.rule, Floor | Pin)
        yield other.finding(
            "error" if grave else "warning", "where", f"{must.rule.name!r} removes every item that meets it"
        )


def _cap_below_floor(cap: LocatedRule, floor: LocatedRule, catalogue: RuleCatalogue) -> Iterator[Finding]:
    """Find a floor of items that one cap counts together and limits to fewer."""
    one, other = cap.rule, floor.rule
    if not isinstance(one, Cap) or not isinstance(other, Floor) or other.top > one.top or other.floor <= one.cap:
        return
    if not (floor.whole and floor.matched.any() and _implied_by(cap, other)):
        return
    if one.where is not None:
        together = cap.whole and bool(cap.matched[floor.matched].all())
    else:
        rows = category_values(one.name, str(one.of), catalogue.columns, catalogue.item_types)
        own = [set(rows[row]) for row in np.flatnonzero(floor.matched)]
        together = bool(set.intersection(*own))
    if together:
        message = f"{one.name!r} allows {one.cap} of these items in the first {one.top}, fewer than {other.floor}"
        yield floor.finding("error", "floor", message)
