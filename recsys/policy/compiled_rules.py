"""Rule sets compiled for one catalogue: all rules are evaluated over a batch of candidates at once.

Shapes: N items of the catalogue, B queries, C columns of candidates, R rules, Q quotas, F floors.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from recsys.contracts import Query
from recsys.errors import ConfigError
from recsys.expressions import Columns, Expression, compile_expression
from recsys.jit import compiled
from recsys.policy.conditions import Condition, Conditions
from recsys.policy.quotas import ExposureBalance, Quotas
from recsys.policy.request_values import TYPES, Value, request_columns, request_values
from recsys.policy.row_sets import rows_in_sets
from recsys.policy.rules import DATE, QUOTAS, Boost, Bury, Exposure, Must, Pin, Rule, RuleSet

MAX_CACHED_REQUESTS = 10_000
"""distinct request values kept in the cache of each group of names; beyond it the cache starts anew"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPin:
    """Pin with the catalogue row of its item, None for a pin with a condition."""

    rule: int
    row: int | None
    position: int


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
    effects: tuple[str, ...]
    """human-readable effect of each rule on an item"""
    hash: str
    names: Mapping[str, str]
    """request names read by any rule -> type"""
    when_conditions: "RequestConditions"
    """the `when` expressions"""
    where_conditions: "RequestConditions"
    """parts of item conditions that read the request alone"""
    starts: np.ndarray
    """[R] float64, unix seconds"""
    ends: np.ndarray
    conditions: Conditions
    musts: np.ndarray
    """[number of musts] int64"""
    scales: np.ndarray
    """[number of scales] int64"""
    scale_factors: np.ndarray
    """[number of scales] float64"""
    pins: tuple[CompiledPin, ...]
    pinned_rows: np.ndarray
    """int64, catalogue rows of the pinned items"""
    quotas: Quotas
    quota_rules: np.ndarray
    """[Q] int64"""
    exposure_balances: tuple[tuple[int, ExposureBalance], ...]
    row_of: Mapping[str, int]

    @staticmethod
    def compile(
        rules: RuleSet, catalogue: Columns, item_types: Mapping[str, str], request_types: Mapping[str, str]
    ) -> "CompiledRules":
        """Check every rule against the catalogue and make arrays of it.

        catalogue: columns [N], among them "item" with the ids. item_types: of the columns that rules may read;
        request_types: of `user.column` and `context.column`. ConfigError names the rule and the key that do not fit.
        """
        of_items = {"item": "category", **item_types}
        of_requests = {**TYPES, **request_types}
        when_conditions = tuple(
            (index, _when(rule, of_requests)) for index, rule in enumerate(rules.rules) if rule.when
        )
        conditions = [
            Condition.compile(_condition(rule), catalogue, of_items, {**of_requests, **of_items}, _where(rule))
            for rule in rules.rules
        ]
        conditions_of_rules = Conditions.of(conditions, catalogue, of_items)
        expressions = [
            *(part for _, part in (*when_conditions, *conditions_of_rules.request)),
            *(part for part, _ in conditions_of_rules.mixed),
        ]
        read = {name for part in expressions for name in part.names} - set(of_items)
        row_of = {item: row for row, item in enumerate(catalogue["item"].tolist())}
        scales = _rule_indices(rules, Boost, Bury)
        quotas = _rule_indices(rules, *QUOTAS)
        pins = tuple(_pin(index, rule, row_of) for index, rule in enumerate(rules.rules) if isinstance(rule, Pin))
        return CompiledRules(
            rules=rules.rules,
            effects=tuple(map(_effect, rules.rules)),
            hash=rules.hash,
            names={name: _type(name, of_requests) for name in sorted(read)},
            when_conditions=RequestConditions.of(when_conditions, len(rules.rules)),
            where_conditions=RequestConditions.of(conditions_of_rules.request, len(rules.rules)),
            starts=np.array([_seconds(rule.start, -math.inf) for rule in rules.rules]),
            ends=np.array([_seconds(rule.end, math.inf) for rule in rules.rules]),
            conditions=conditions_of_rules,
            musts=_rule_indices(rules, Must),
            scales=scales,
            scale_factors=np.array([_factor(rules.rules[index]) for index in scales], dtype=np.float64),
            pins=pins,
            pinned_rows=np.array([pin.row for pin in pins if pin.row is not None], dtype=np.int64),
            quotas=Quotas.of_rules([rules.rules[index] for index in quotas], catalogue, of_items),
            quota_rules=quotas,
            exposure_balances=tuple(
                (index, ExposureBalance.of_rule(rule, catalogue, of_items))
                for index, rule in enumerate(rules.rules)
                if isinstance(rule, Exposure)
            ),
            row_of=row_of,
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
        _apply(active, holds, self.musts, self.scales, self.scale_factors, banned, factors)
        for rule, balance in self.exposure_balances:
            factors *= np.where(active[:, rule, None], balance.factors(queries, rows), 1.0)
        return RuleEffects(active=active, holds=holds, banned=banned, factors=factors)

    def item_violations(self, queries: Sequence[Query], rows: np.ndarray, quotas: np.ndarray) -> np.ndarray:
        """Return [B, C] int64 bits of the frequency rules that an item exceeds; quotas: [B, C, Q], where conditions hold."""
        item_violations = np.zeros(rows.shape, dtype=np.int64)
        for quota in self.quotas.frequencies:
            limit = self.quotas.limits[quota]
            often = [
                [self.row_of[key] for key, num in query.impressions.items() if num >= limit and key in self.row_of]
                for query in queries
            ]
            item_violations |= self.quotas.bits[quota] * (rows_in_sets(rows, often) & quotas[..., quota])
        return item_violations


@compiled()
def _apply(active, holds, musts, scales, scale_factors, banned, factors):
    """Write banned [B, C] by musts and multiply factors [B, C] by boosts and buries.

    One pass without temporaries: [B, C, R] masks in numpy cost more than the rules themselves.
    """
    for b in range(holds.shape[0]):
        for c in range(holds.shape[1]):
            for must in musts:
                if active[b, must] and not holds[b, c, must]:
                    banned[b, c] = True
                    break
            for scale in range(len(scales)):
                if active[b, scales[scale]] and holds[b, c, scales[scale]]:
                    factors[b, c] *= scale_factors[scale]


def _rule_indices(rules: RuleSet, *kinds: type[Rule]) -> np.ndarray:
    return np.array([index for index, rule in enumerate(rules.rules) if isinstance(rule, kinds)], dtype=np.int64)


def _condition(rule: Rule) -> str | None:
    return rule.must if isinstance(rule, Must) else getattr(rule, "where", None)


def _where(rule: Rule) -> str:
    return f"rule {rule.name!r}, {'must' if isinstance(rule, Must) else 'where'}"


def _when(rule: Rule, types: Mapping[str, str]) -> Expression:
    assert rule.when is not None
    return compile_expression(rule.when, types, where=f"rule {rule.name!r}, when", result_type="boolean")


def _type(name: str, types: Mapping[str, str]) -> str:
    return types.get(name) or types[f"{name.partition('.')[0]}.*"]


def _factor(rule: Rule) -> float:
    return rule.boost if isinstance(rule, Boost) else 1 / rule.bury if isinstance(rule, Bury) else 1.0


def _pin(index: int, rule: Pin, row_of: Mapping[str, int]) -> CompiledPin:
    if rule.item is not None and rule.item not in row_of:
        raise ConfigError(
            f"rule {rule.name!r} pins the item {rule.item!r}, which is not in the catalogue; correct the id"
        )
    return CompiledPin(rule=index, row=None if rule.item is None else row_of[rule.item], position=rule.pin)


def _seconds(moment: str | None, otherwise: float) -> float:
    return otherwise if moment is None else datetime.strptime(moment, DATE).replace(tzinfo=UTC).timestamp()


def _effect(rule: Rule) -> str:
    if isinstance(rule, Boost | Bury):
        return f"utility x{_factor(rule):.3g}"
    if isinstance(rule, Pin):
        return f"place {rule.pin + 1}"
    return "held back" if isinstance(rule, QUOTAS) else "balanced"
