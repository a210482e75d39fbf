"""Overrides of a policy by the arm of an experiment: parts that need no other bundle.

weights: {buy: 5.0}                     weights of the value formula, those that it has
sources: {item_item: 0.5}               factors of the weights of candidate sources in the merge, 1 where none is given
discount: 0.3                           of the popularity dial, where the bundle has it on
diversity: {trade_off: 0.7}             keys of the bundle's kind of diversity but those that similarities depend on
exploration: {kind: epsilon, rate: 0.1} a kind with all its keys, or some keys of the bundle's own kind
rules: {add: [{name: push-recent, boost: 1.2, where: "year >= 1997"}], without: [three-of-a-genre]}
                                        rules behind those that serve, and names of those that the arm does without
interleave: {control: {}, wide: {diversity: {trade_off: 0.6}}}
                                        slates of two policies, interleaved: the overrides of each, which change no rules
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from recsys.errors import ConfigError, check_ranges
from recsys.expressions import suggestion
from recsys.policy.diversity import DIVERSITIES, Diversity
from recsys.policy.exploration import EXPLORATIONS, Exploration
from recsys.policy.interleaving import InterleavedPolicy
from recsys.policy.kind_documents import from_document, to_document
from recsys.policy.rules.compiled_rules import CompiledRules
from recsys.policy.rules.effects import Ban, QueryScale, Scale
from recsys.policy.rules.rule import Rule
from recsys.policy.rules.rule_set import RuleSet, parse_rule

if TYPE_CHECKING:
    from recsys.policy.compose import CompiledPolicy

KEYS = ("weights", "sources", "discount", "diversity", "exploration", "rules")
INTERLEAVE = "interleave"
MAX_RULES = 20
"""rules that an arm adds, at most: each impression carries them"""
SOURCES, MAX_FACTOR = "sources", 100.0
OF_RANKING = ("trade_off", "window", "span")
"""keys of a diversity that its similarities do not depend on"""


def check_overrides(where: str, document: Any) -> dict[str, Any]:
    """Return the overrides as a plain document; ConfigError begins with `where` and names a key that no policy has."""
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where} is {document!r}; write a mapping with any of {', '.join(KEYS)}")
    if INTERLEAVE in document:
        others = {key: value for key, value in document.items() if key != INTERLEAVE}
        return {**check_overrides(where, others), INTERLEAVE: _teams(f"{where}.{INTERLEAVE}", document[INTERLEAVE])}
    if unknown := [str(key) for key in document if key not in KEYS]:
        raise ConfigError(f"{where} has the unknown key {unknown[0]!r}; {suggestion(unknown[0], KEYS)}")
    for key in ("weights", SOURCES, "diversity", "exploration", "rules"):
        if key in document and not isinstance(document[key], Mapping):
            raise ConfigError(f"{where}.{key} is {document[key]!r}; write a mapping")
    for name, weight in document.get("weights", {}).items():
        _number(f"{where}.weights.{name}", weight)
    for name, factor in document.get(SOURCES, {}).items():
        _number(f"{where}.{SOURCES}.{name}", factor)
        check_ranges(f"{where}.{SOURCES}", **{str(name): (factor, 0.0, MAX_FACTOR)})
    if "discount" in document:
        _number(f"{where}.discount", document["discount"])
    if "rules" in document:
        added, names = _rule_changes(f"{where}.rules", document["rules"])
        plain_rules = {"add": RuleSet(tuple(added)).to_document()["rules"], "without": names}  # dates become text
        document = {**document, "rules": plain_rules}
    try:
        plain: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))
    except (TypeError, ValueError):
        raise ConfigError(f"{where} has a value that is no plain number, text or mapping") from None
    return plain


def overridden(policy: "CompiledPolicy", document: Mapping[str, Any], where: str = "policy") -> "CompiledPolicy":
    """Return the policy with these overrides, none of which interleaves; ConfigError where they do not fit it."""
    if INTERLEAVE in check_overrides(where, document):
        raise ConfigError(
            f"{where} has {INTERLEAVE}, which is no part of one policy; write interleave: true beside the arms"
        )
    changed = policy
    for key, value in document.items():
        try:
            changed = _APPLY[key](changed, value, f"{where}.{key}")
        except ConfigError as error:  # constructors name their own key alone
            text = str(error)
            raise ConfigError(text if text.startswith(where) else f"{where}: {text}") from None
    return changed


def added_rules(document: Mapping[str, Any]) -> list[Rule]:
    """Return the rules that overrides add; ConfigError for what is no rule."""
    return _rule_changes("policy.rules", document.get("rules", {}))[0]


def source_factors(document: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    """Return the factor of the weights of each source; 1 for all where the overrides do not fit these sources."""
    try:
        factors = _checked_factors(document.get(SOURCES, {}), names, "policy")
    except ConfigError:  # the policy flags it
        factors = {}
    return [float(factors.get(name, 1.0)) for name in names]


def variant_of(policy: "CompiledPolicy", document: Mapping[str, Any]) -> "CompiledPolicy | InterleavedPolicy":
    """Return the policy with these overrides, or the interleaving of two; ConfigError where they do not fit it."""
    base = overridden(policy, {key: value for key, value in document.items() if key != INTERLEAVE})
    if INTERLEAVE not in document:
        return base
    teams = _teams(f"policy.{INTERLEAVE}", document[INTERLEAVE])
    changed = {name: overridden(base, own, f"policy.{INTERLEAVE}.{name}") for name, own in teams.items()}
    return InterleavedPolicy(teams=changed, arranger=_arranger(base))


def _arranger(base: "CompiledPolicy") -> "CompiledPolicy":
    """Return a policy that keeps the order of its candidates but for pins, caps, floors and frequencies."""
    rules = zip(base.rules.rules, base.rules.effects, strict=True)
    kept = tuple(rule for rule, effect in rules if not isinstance(effect, Scale | QueryScale))
    plain = overridden(base, {"diversity": {"trade_off": 1.0}, "exploration": {"kind": "none"}, "discount": 0.0})
    return replace(plain, rules=_recompiled(base, RuleSet(kept)), cold=None)


def _teams(where: str, document: Any) -> dict[str, Any]:
    if not isinstance(document, Mapping) or len(document) != 2:
        raise ConfigError(f"{where} is {document!r}; write two names and the overrides of each, {{}} for none")
    for name, own in document.items():
        if isinstance(own, Mapping) and (fixed := {"rules", SOURCES, INTERLEAVE} & own.keys()):
            raise ConfigError(f"{where}.{name} changes {min(fixed)}, which two interleaved slates cannot differ in")
    return {str(name): check_overrides(f"{where}.{name}", own) for name, own in document.items()}


def _with_weights(policy: "CompiledPolicy", weights: Mapping[str, Any], where: str) -> "CompiledPolicy":
    own = policy.value.weights
    for name in weights:
        if name not in own:
            known = suggestion(name, own) if own else "the value formula of the bundle has no weights"
            raise ConfigError(f"{where} names {name!r}, which the value formula does not have; {known}")
    return replace(policy, value=policy.value.with_weights(weights))


def _with_sources(policy: "CompiledPolicy", factors: Mapping[str, Any], where: str) -> "CompiledPolicy":
    """Return the policy as it is: the retrieve stage reads the factors."""
    _checked_factors(factors, policy.sources, where.rpartition(".")[0])
    return policy


def _checked_factors(factors: Any, names: Sequence[str], where: str) -> Mapping[str, Any]:
    """Return factors that fit these sources; else ConfigError."""
    factors = check_overrides(where, {SOURCES: factors})[SOURCES]
    for name in factors:
        if name not in names:
            raise ConfigError(
                f"{where}.{SOURCES} names {name!r}, which the bundle does not have; {suggestion(name, names)}"
            )
    if not any(factors.get(name, 1.0) for name in names):
        raise ConfigError(f"{where}.{SOURCES} leaves no source; give one of them more than 0")
    return factors


def _with_discount(policy: "CompiledPolicy", discount: Any, where: str) -> "CompiledPolicy":
    check_ranges(where.rpartition(".")[0], discount=(discount, 0.0, 10.0))
    dial = policy.popularity
    if discount and dial.events is None and not dial.keys:
        raise ConfigError(f"{where} needs shares of the items, which a bundle with popularity.discount 0 does not read")
    return replace(policy, popularity=replace(dial, discount=float(discount)))


def _with_diversity(policy: "CompiledPolicy", document: Mapping[str, Any], where: str) -> "CompiledPolicy":
    if fixed := [str(key) for key in document if key not in OF_RANKING]:
        raise ConfigError(
            f"{where} changes {fixed[0]!r}, which another bundle is needed for; change any of {', '.join(OF_RANKING)}"
        )
    own = {**to_document(policy.diversity, DIVERSITIES), **document}
    return replace(policy, diversity=from_document(where, own, DIVERSITIES, Diversity))


def _with_exploration(policy: "CompiledPolicy", document: Mapping[str, Any], where: str) -> "CompiledPolicy":
    own = to_document(policy.exploration, EXPLORATIONS)
    same = document.get("kind", own["kind"]) == own["kind"]
    merged = {**own, **document} if same else document
    return replace(policy, exploration=from_document(where, merged, EXPLORATIONS, Exploration))


def _with_rules(policy: "CompiledPolicy", document: Mapping[str, Any], where: str) -> "CompiledPolicy":
    added, left_out = _rule_changes(where, document)
    own = {rule.name: effect for rule, effect in zip(policy.rules.rules, policy.rules.effects, strict=True)}
    for name in left_out:
        if name not in own:
            raise ConfigError(f"{where}.without names {name!r}, which does not serve; {suggestion(name, own)}")
        if isinstance(own[name], Ban):
            raise ConfigError(f"{where}.without names {name!r}, which must hold for everybody; name another rule")
    kept = [rule for rule in policy.rules.rules if rule.name not in left_out]
    return replace(policy, rules=_recompiled(policy, RuleSet.parse(RuleSet((*kept, *added)).to_document())))


def _recompiled(policy: "CompiledPolicy", rules: RuleSet) -> CompiledRules:
    """Return other rules by the name of those that serve, which stores and impressions know; the arm says what differs."""
    return replace(policy.rules.recompile(rules), hash=policy.rules.hash)


def _rule_changes(where: str, document: Mapping[str, Any]) -> tuple[list[Rule], list[str]]:
    """Return the added rules, and the names of those that are left out."""
    if unknown := [str(key) for key in document if key not in ("add", "without")]:
        raise ConfigError(f"{where} has the unknown key {unknown[0]!r}; write add, without or both")
    added, names = document.get("add", []), document.get("without", [])
    if not isinstance(added, list) or len(added) > MAX_RULES:
        raise ConfigError(f"{where}.add is no list of {MAX_RULES} rules at most; write them as in a rule file")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{where}.without is {names!r}; write a list of names of rules")
    return [parse_rule(f"{where}.add[{index}]", entry) for index, entry in enumerate(added)], names


_APPLY = {
    "weights": _with_weights,
    SOURCES: _with_sources,
    "discount": _with_discount,
    "diversity": _with_diversity,
    "exploration": _with_exploration,
    "rules": _with_rules,
}


def _number(key: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{key} is {value!r}; write a finite number")
