"""Rule sets compiled for one catalogue: all rules are evaluated over a batch of candidates at once.

Shapes: N items of the catalogue, B queries, C columns of candidates, R rules, Q quotas, F floors.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from recsys.contracts import Query
from recsys.errors import ConfigError
from recsys.expressions import Columns, Expression, compile_expression
from recsys.jit import compiled
from recsys.policy.rules.conditions import Condition, Conditions
from recsys.policy.rules.effects import AtLeast, AtMost, Ban, Effect, Hold, QueryBan, QueryScale, RuleCatalogue, Scale
from recsys.policy.rules.quotas import Quotas
from recsys.policy.rules.request_values import TYPES, Value, request_columns, request_values
from recsys.policy.rules.rule import DATE, Rule
from recsys.policy.rules.rule_set import RuleSet

MAX_CACHED_REQUESTS = 10_000
"""distinct request values kept in the cache of each group of names; beyond it the cache starts anew"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleEffects:
    """Effects of all rules on the candidates of a batch."""

    active: np.ndarray
    """[B, R] bool, rules within their dates whose `when` holds for the request"""
    holds: np.ndarray
    """[B, C, R] bool, where the condition on the item holds; everywhere for a rule without one"""
    banned: np.ndarray
    """[B, C] bool, removed by a must"""
    factors: np.ndarray
    """[B, C] float64, multiplied with the utility"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestConditions:
    """Expressions over the request alone, evaluated once per distinct request value and cached."""

    groups: Mapping[tuple[str, ...], tuple[tuple[int, Expression], ...]]
    """names read -> (rule, expression that reads exactly these names)"""
    num_rules: int
    cache: Mapping[tuple[str, ...], dict[tuple[Value, ...], np.ndarray]]
    """names -> their values -> [R] bool. Requests share few distinct values: an hour, a surface, a country."""

    @staticmethod
    def of(parts: Sequence[tuple[int, Expression]], num_rules: int) -> "RequestConditions":
        groups: dict[tuple[str, ...], list[tuple[int, Expression]]] = {}
        for rule, part in parts:
            groups.setdefault(tuple(sorted(part.names)), []).append((rule, part))
        frozen = {names: tuple(parts_of_names) for names, parts_of_names in groups.items()}
        return RequestConditions(groups=frozen, num_rules=num_rules, cache={names: {} for names in groups})

    def __call__(self, values: Sequence[tuple[Value, ...]], names: Mapping[str, str]) -> np.ndarray:
        """Return [B, R] bool, where all expressions of a rule hold; values: [B] tuples in the order of `names`."""
        opened = np.ones((len(values), self.num_rules), dtype=bool)
        column_of = {name: column for column, name in enumerate(names)}
        for group in self.groups:
            columns = [column_of[name] for name in group]
            for row, values_of_query in enumerate(values):
                opened[row] &= self._evaluate(group, tuple(values_of_query[column] for column in columns), names)
        return opened

    def _evaluate(self, group: tuple[str, ...], key: tuple[Value, ...], names: Mapping[str, str]) -> np.ndarray:
        cache = self.cache[group]
        if key not in cache:
            if len(cache) >= MAX_CACHED_REQUESTS:
                cache.clear()
            holds = np.ones(self.num_rules, dtype=bool)
            columns = request_columns([key], {name: names[name] for name in group})
            for rule, part in self.groups[group]:
                holds[rule] &= bool(np.all(part(columns)))
            cache[key] = holds
        return cache[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRules:
    """Rules compiled for one catalogue; a rule is numbered by its index in the document."""

    rules: tuple[Rule, ...]
    effects: tuple[Effect, ...]
    """of each rule"""
    hash: str
    names: Mapping[str, str]
    """request names read by any rule -> type"""
    when_conditions: RequestConditions
    """the `when` expressions"""
    where_conditions: RequestConditions
    """parts of item conditions that read the request alone"""
    starts: np.ndarray
    """[R] float64, unix seconds"""
    ends: np.ndarray
    conditions: Conditions
    bans: np.ndarray
    """[number of bans] int64, indices of rules"""
    scales: np.ndarray
    """[number of scales] int64"""
    scale_factors: np.ndarray
    """[number of scales] float64"""
    holds: tuple[tuple[int, Hold], ...]
    """(rule, its effect)"""
    pinned_rows: np.ndarray
    """int64, catalogue rows of the pinned items"""
    quotas: Quotas
    query_scales: tuple[tuple[int, QueryScale], ...]
    row_of: Mapping[str, int]
    recompile: "Callable[[RuleSet], CompiledRules]" = field(repr=False, compare=False)
    """compile other rules for the same catalogue"""

    @staticmethod
    def compile(
        rules: RuleSet, columns: Columns, item_types: Mapping[str, str], request_types: Mapping[str, str]
    ) -> "CompiledRules":
        """Check every rule against the catalogue and make arrays of it.

        columns: of the catalogue [N], among them "item" with the ids. item_types: of the columns that rules may read;
        request_types: of `user.column` and `context.column`. ConfigError names the rule and the key that do not fit.
        """
        catalogue = RuleCatalogue.of(columns, item_types)
        of_items, of_requests = catalogue.item_types, {**TYPES, **request_types}
        when_conditions = tuple(
            (index, _when(rule, of_requests)) for index, rule in enumerate(rules.rules) if rule.when
        )
        conditions = [
            Condition.compile(
                rule.condition,
                columns,
                of_items,
                {**of_requests, **of_items},
                _label(rule),
                needs_labels=rule.needs_labels,
            )
            for rule in rules.rules
        ]
        conditions_of_rules = Conditions.of(conditions, columns, of_items)
        expressions = [
            *(part for _, part in (*when_conditions, *conditions_of_rules.request)),
            *(part for part, _ in conditions_of_rules.mixed),
        ]
        read = {name for part in expressions for name in part.names} - set(of_items)
        effects = tuple(_effect(rule, catalogue) for rule in rules.rules)
        scales, holds, quotas = _of(effects, Scale), _of(effects, Hold), _of(effects, AtMost, AtLeast, QueryBan)
        return CompiledRules(
            rules=rules.rules,
            effects=effects,
            hash=rules.hash,
            names={name: _type(name, of_requests) for name in sorted(read)},
            when_conditions=RequestConditions.of(when_conditions, len(rules.rules)),
            where_conditions=RequestConditions.of(conditions_of_rules.request, len(rules.rules)),
            starts=np.array([_seconds(rule.start, -math.inf) for rule in rules.rules]),
            ends=np.array([_seconds(rule.end, math.inf) for rule in rules.rules]),
            conditions=conditions_of_rules,
            bans=np.array([index for index, _ in _of(effects, Ban)], dtype=np.int64),
            scales=np.array([index for index, _ in scales], dtype=np.int64),
            scale_factors=np.array([scale.factor for _, scale in scales], dtype=np.float64),
            holds=tuple(holds),
            pinned_rows=np.array([hold.row for _, hold in holds if hold.row is not None], dtype=np.int64),
            quotas=Quotas.of_effects(
                [rules.rules[index].name for index, _ in quotas],
                [index for index, _ in quotas],
                [quota for _, quota in quotas],
                len(columns["item"]),
            ),
            query_scales=tuple(_of(effects, QueryScale)),
            row_of=catalogue.row_of,
            recompile=partial(
                CompiledRules.compile, columns=columns, item_types=item_types, request_types=request_types
            ),
        )

    def __call__(self, queries: Sequence[Query], rows: np.ndarray) -> RuleEffects:
        """Evaluate all rules for catalogue rows [B, C]."""
        values = [request_values(query, self.names) for query in queries]
        now = np.array([[query.now] for query in queries])
        active = self.when_conditions(values, self.names) & (self.starts <= now) & (now < self.ends)
        holds = self.conditions(rows, request_columns(values, self.names) if self.conditions.mixed else {})
        if self.where_conditions.groups:
            holds &= self.where_conditions(values, self.names)[:, None, :]
        banned, factors = np.zeros(rows.shape, dtype=bool), np.ones(rows.shape)
        _apply(active, holds, self.bans, self.scales, self.scale_factors, banned, factors)
        for rule, scale in self.query_scales:
            applies = active[:, rule, None] & holds[..., rule]
            factors *= np.where(applies, scale.factors(queries, rows), 1.0)
        return RuleEffects(active=active, holds=holds, banned=banned, factors=factors)


@compiled()
def _apply(active, holds, bans, scales, scale_factors, banned, factors):
    """Write banned [B, C] by bans and multiply factors [B, C] by boosts and buries.

    One pass without temporaries: [B, C, R] masks in numpy cost more than the rules themselves.
    """
    for b in range(holds.shape[0]):
        for c in range(holds.shape[1]):
            for ban in bans:
                if active[b, ban] and not holds[b, c, ban]:
                    banned[b, c] = True
                    break
            for scale in range(len(scales)):
                if active[b, scales[scale]] and holds[b, c, scales[scale]]:
                    factors[b, c] *= scale_factors[scale]


def _of(effects: Sequence[Effect], *kinds: Any) -> list[tuple[int, Any]]:
    """Return (rule, effect) of the effects of these kinds."""
    return [(index, effect) for index, effect in enumerate(effects) if isinstance(effect, kinds)]


def _effect(rule: Rule, catalogue: RuleCatalogue) -> Effect:
    effect = rule.effect(catalogue)
    if isinstance(effect, AtMost | AtLeast | QueryBan) != rule.relaxable:
        raise ConfigError(
            f"the kind {rule.kind!r} makes {type(effect).__name__}, and relaxable is {rule.relaxable}; correct its class"
        )
    return effect


def _label(rule: Rule) -> str:
    return f"rule {rule.name!r}, {rule.condition_key}"


def _when(rule: Rule, types: Mapping[str, str]) -> Expression:
    assert rule.when is not None
    return compile_expression(rule.when, types, where=f"rule {rule.name!r}, when", result_type="boolean")


def _type(name: str, types: Mapping[str, str]) -> str:
    return types.get(name) or types[f"{name.partition('.')[0]}.*"]


def _seconds(moment: str | None, otherwise: float) -> float:
    return otherwise if moment is None else datetime.strptime(moment, DATE).replace(tzinfo=UTC).timestamp()
