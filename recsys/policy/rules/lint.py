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
from recsys.expressions import Columns, Expression, compared_names, compile_expression, suggestion
from recsys.policy.category_values import NO_GROUP
from recsys.policy.rules.compiled_rules import CompiledRules
from recsys.policy.rules.effects import AtLeast, AtMost, Ban, Effect, Hold, RuleCatalogue, Scale
from recsys.policy.rules.rule import DATE, Rule
from recsys.policy.rules.rule_set import RuleSet, decode, entries, parse_rule

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
class CheckedCatalogue:
    """Catalogue columns and types that rules are checked against."""

    columns: Columns
    item_types: Mapping[str, str]
    request_types: Mapping[str, str]

    def compile(self, *rules: Rule) -> CompiledRules:
        return CompiledRules.compile(RuleSet(rules), self.columns, self.item_types, self.request_types)

    @property
    def catalogue(self) -> RuleCatalogue:
        return RuleCatalogue.of(self.columns, self.item_types)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedRule:
    """Parsed rule with the text locations of its keys and the items that satisfy its condition."""

    rule: Rule
    effect: Effect
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
    def always(self) -> bool:
        return self.rule.when is None and self.rule.start is None and self.rule.end is None


def check(text: str, catalogue: CheckedCatalogue, *, now: float) -> list[Finding]:
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
        found += [*_windows(rule, now), *_calendar(rule), *_unlabelled(rule, catalogue)]
    found += [one for first, second in itertools.combinations(located, 2) for one in _pairs(first, second, catalogue)]
    if not any(one.level == "error" for one in found):
        try:
            RuleSet.parse(text)
        except ConfigError as error:
            found.append(Finding(level="error", rule="rules", line=1, column=1, message=str(error)))
    return sorted(found, key=lambda one: (one.line, one.column))


def _locate(where: str, entry: Any, marks: Mapping[str, tuple[int, int]], catalogue: CheckedCatalogue) -> LocatedRule:
    rule = parse_rule(where, entry)
    compiled = catalogue.compile(rule)
    conditions = compiled.conditions
    return LocatedRule(
        rule=rule,
        effect=compiled.effects[0],
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


def _values(located: LocatedRule, catalogue: CheckedCatalogue) -> Iterator[Finding]:
    """Find compared values that no item has: most often mistyped."""
    rule = located.rule
    for column, value in _compared(rule.condition) if rule.condition else ():
        if catalogue.item_types.get(column) in ("category", "categories"):
            known = {one for row in catalogue.catalogue.values(rule.name, column) for one in row}
            if value not in known:
                message = f"no item has the {column} {value!r}; {suggestion(value, known)}"
                yield located.finding("error", rule.condition_key, message)


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
    rule, effect = located.rule, located.effect
    num, total = int(located.matched.sum()), len(located.matched)
    if rule.condition is not None:
        key = rule.condition_key
        if num == 0:
            grave = isinstance(effect, Ban | AtLeast)
            what = "so nothing could be shown" if isinstance(effect, Ban) else "so the rule does nothing"
            yield located.finding("error" if grave else "warning", key, f"no item of the catalogue meets it, {what}")
        elif num == total and located.whole and not isinstance(effect, Hold):
            yield located.finding("warning", key, f"all {total:,} items meet it, so it tells none from the others")
        elif isinstance(effect, AtLeast) and located.whole and num < effect.number:
            yield located.finding(
                "error", rule.kind, f"only {num} items meet the condition, fewer than {effect.number}"
            )
    if isinstance(effect, AtMost) and effect.number >= effect.top:
        message = f"{effect.number} of the first {effect.top} positions caps nothing; lower it"
        yield located.finding("warning", rule.kind, message)


def _unlabelled(located: LocatedRule, catalogue: CheckedCatalogue) -> Iterator[Finding]:
    """Find columns that a must compares and many items lack: these items are never shown while it holds."""
    rule = located.rule
    if not rule.needs_labels or rule.condition is None or not located.matched.any():
        return
    for column in sorted(compared_names(rule.condition) & set(catalogue.item_types)):
        lacking = compile_expression(f"missing({column})", catalogue.item_types, where="lint", result_type="boolean")
        removed = lacking(catalogue.columns) & ~located.matched
        if num := int(removed.sum()):
            message = f"{num:,} items lack {column}, which forbids them; write `or missing({column})` to show them"
            yield located.finding("warning", rule.condition_key, message)


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


def _pairs(first: LocatedRule, second: LocatedRule, catalogue: CheckedCatalogue) -> Iterator[Finding]:
    """Find rules that contradict or hide each other; the later rule is named where both are at fault."""
    yield from _same_name(first, second)
    if not _overlap(first.rule, second.rule):
        return
    yield from _same_condition(first, second)
    yield from _pins(first, second, catalogue)
    yield from _nothing_left(first, second)
    for must, other in ((first, second), (second, first)):
        yield from _removed(must, other, catalogue)
    for cap, floor in ((first, second), (second, first)):
        yield from _cap_below_floor(cap, floor)


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
    if not isinstance(first.effect, Scale) or not isinstance(second.effect, Scale) or one.when != other.when:
        return
    if not (first.whole and second.whole and (first.matched == second.matched).all()):
        return
    key = other.condition_key
    if type(one) is not type(other):
        yield second.finding("error", key, f"it contradicts {one.name!r}, which moves the same items the other way")
    else:
        yield second.finding("warning", key, f"it moves the same items as {one.name!r} once more; join them")


def _pins(first: LocatedRule, second: LocatedRule, catalogue: CheckedCatalogue) -> Iterator[Finding]:
    name, hold, other = first.rule.name, first.effect, second.effect
    if not isinstance(hold, Hold) or not isinstance(other, Hold) or not _implied_by(first, second.rule):
        return
    if hold.position == other.position:
        message = f"{name!r} has position {hold.position} already, so this one moves behind it"
        yield second.finding("error", second.rule.kind, message)
    if hold.row is not None and hold.row == other.row:
        item = catalogue.columns["item"][hold.row]
        yield second.finding("error", "item", f"{name!r} pins {item!r} already; remove one")


def _implied_by(located: LocatedRule, other: Rule) -> bool:
    """Return whether this rule holds whenever the other one does."""
    return located.always or located.rule.when == other.when


def _nothing_left(first: LocatedRule, second: LocatedRule) -> Iterator[Finding]:
    one, other = first.rule, second.rule
    if not isinstance(first.effect, Ban) or not isinstance(second.effect, Ban) or not _implied_by(first, other):
        return
    if first.matched.any() and second.matched.any() and not (first.matched & second.matched).any():
        yield second.finding("error", other.condition_key, f"together with {one.name!r} it leaves no item to show")


def _removed(ban: LocatedRule, other: LocatedRule, catalogue: CheckedCatalogue) -> Iterator[Finding]:
    """Find a rule whose items a ban removes whenever the rule holds."""
    if not isinstance(ban.effect, Ban) or isinstance(other.effect, Ban) or not _implied_by(ban, other.rule):
        return
    if isinstance(other.effect, Hold) and other.effect.row is not None:
        if not ban.matched[other.effect.row]:
            item = catalogue.columns["item"][other.effect.row]
            yield other.finding("error", "item", f"{ban.rule.name!r} removes {item!r}, which is pinned here")
    elif other.rule.condition and other.matched.any() and not (ban.matched & other.matched).any():
        level = "error" if isinstance(other.effect, AtLeast | Hold) else "warning"
        message = f"{ban.rule.name!r} removes every item that meets it"
        yield other.finding(level, other.rule.condition_key, message)


def _cap_below_floor(cap: LocatedRule, floor: LocatedRule) -> Iterator[Finding]:
    """Find a floor of items that one cap counts together and limits to fewer."""
    one, other = cap.effect, floor.effect
    if (
        not isinstance(one, AtMost)
        or not isinstance(other, AtLeast)
        or other.top > one.top
        or other.number <= one.number
    ):
        return
    if not (floor.whole and floor.matched.any() and _implied_by(cap, floor.rule)):
        return
    if one.groups is None:
        together = cap.whole and bool(cap.matched[floor.matched].all())
    else:
        together = bool(set.intersection(*(set(row) - {NO_GROUP} for row in one.groups[floor.matched].tolist())))
    if together:
        message = (
            f"{cap.rule.name!r} allows {one.number} of these items in the first {one.top}, fewer than {other.number}"
        )
        yield floor.finding("error", floor.rule.kind, message)
