"""A rule set made ready for one catalogue: every rule over a whole batch of candidates at once.

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
from recsys.policy.membership import among
from recsys.policy.quotas import Balance, Quotas
from recsys.policy.request import TYPES, Value, request_columns, request_values
from recsys.policy.rules import DATE, QUOTAS, Boost, Bury, Exposure, Must, Pin, Rule, RuleSet

MAX_KNOWN = 10_000
"""values of requests whose answers are remembered"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPin:
    """A pin whose item, if it names one, was found in the catalogue."""

    rule: int
    row: int | None
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What the rules say of the candidates of a batch."""

    active: np.ndarray
    """[B, R] bool, rules that hold now and for this request"""
    holds: np.ndarray
    """[B, C, R] bool, where the condition on the item holds; a rule without one holds everywhere"""
    banned: np.ndarray
    """[B, C] bool"""
    factors: np.ndarray
    """[B, C] float64, of the utility"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Expressions over the request alone; what they said of the same values before is remembered."""

    groups: Mapping[tuple[str, ...], tuple[tuple[int, Expression], ...]]
    """names that are read -> rules with the expressions that read them"""
    num_rules: int
    known: Mapping[tuple[str, ...], dict[tuple[Value, ...], np.ndarray]]
    """names -> their values -> [R] bool"""

    @staticmethod
    def of(parts: Sequence[tuple[int, Expression]], num_rules: int) -> "Gates":
        groups: dict[tuple[str, ...], list[tuple[int, Expression]]] = {}
        for place, part in parts:
            groups.setdefault(tuple(sorted(part.names)), []).append((place, part))
        frozen = {names: tuple(mine) for names, mine in groups.items()}
        return Gates(groups=frozen, num_rules=num_rules, known={names: {} for names in groups})

    def __call__(self, values: Sequence[tuple[Value, ...]], names: Mapping[str, str]) -> np.ndarray:
        """[B, R] bool, where all expressions of a rule hold; values: of `names` [B]."""
        opened = np.ones((len(values), self.num_rules), dtype=bool)
        place_of = {name: place for place, name in enumerate(names)}
        for group in self.groups:
            places = [place_of[name] for name in group]
            for row, mine in enumerate(values):
                opened[row] &= self._asked(group, tuple(mine[place] for place in places), names)
        return opened

    def _asked(self, group: tuple[str, ...], mine: tuple[Value, ...], names: Mapping[str, str]) -> np.ndarray:
        known = self.known[group]
        if mine not in known:
            if len(known) >= MAX_KNOWN:
                known.clear()
            holds = np.ones(self.num_rules, dtype=bool)
            columns = request_columns([mine], {name: names[name] for name in group})
            for place, part in self.groups[group]:
                holds[place] &= bool(np.all(part(columns)))
            known[mine] = holds
        return known[mine]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRules:
    """Rules of one catalogue; `places` are those in the document."""

    rules: tuple[Rule, ...]
    effects: tuple[str, ...]
    """what each does to an item that it touches, for people"""
    hash: str
    names: Mapping[str, str]
    """names of the request that any rule reads -> type"""
    whens: "Gates"
    """what `when` says"""
    gates: "Gates"
    """the parts of conditions that read the request alone"""
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
    brought: np.ndarray
    """int64, catalogue rows of the items that pins name"""
    quotas: Quotas
    quota_places: np.ndarray
    """[Q] int64"""
    balances: tuple[tuple[int, Balance], ...]
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
        whens = tuple((place, _when(rule, of_requests)) for place, rule in enumerate(rules.rules) if rule.when)
        conditions = [
            Condition.compile(_condition(rule), catalogue, of_items, {**of_requests, **of_items}, _where(rule))
            for rule in rules.rules
        ]
        together = Conditions.of(conditions, catalogue, of_items)
        asked = [*(part for _, part in (*whens, *together.request)), *(part for part, _ in together.mixed)]
        read = {name for part in asked for name in part.names} - set(of_items)
        row_of = {item: row for row, item in enumerate(catalogue["item"].tolist())}
        scales = _places(rules, Boost, Bury)
        quotas = _places(rules, *QUOTAS)
        pins = tuple(_pin(place, rule, row_of) for place, rule in enumerate(rules.rules) if isinstance(rule, Pin))
        return CompiledRules(
            rules=rules.rules,
            effects=tuple(map(_effect, rules.rules)),
            hash=rules.hash,
            names={name: _type(name, of_requests) for name in sorted(read)},
            whens=Gates.of(whens, len(rules.rules)),
            gates=Gates.of(together.request, len(rules.rules)),
            starts=np.array([_seconds(rule.start, -math.inf) for rule in rules.rules]),
            ends=np.array([_seconds(rule.end, math.inf) for rule in rules.rules]),
            conditions=together,
            musts=_places(rules, Must),
            scales=scales,
            scale_factors=np.array([_factor(rules.rules[place]) for place in scales], dtype=np.float64),
            pins=pins,
            brought=np.array([pin.row for pin in pins if pin.row is not None], dtype=np.int64),
            quotas=Quotas.of_rules([rules.rules[place] for place in quotas], catalogue, of_items),
            quota_places=quotas,
            balances=tuple(
                (place, Balance.of_rule(rule, catalogue, of_items))
                for place, rule in enumerate(rules.rules)
                if isinstance(rule, Exposure)
            ),
            row_of=row_of,
        )

    def __call__(self, queries: Sequence[Query], rows: np.ndarray) -> Applied:
        """What they say of catalogue rows [B, C]."""
        values = [request_values(query, self.names) for query in queries]
        now = np.array([[query.now] for query in queries])
        active = self.whens(values, self.names) & (self.starts <= now) & (now < self.ends)
        holds = self.conditions(rows, request_columns(values, self.names) if self.conditions.mixed else {})
        if self.gates.groups:
            holds &= self.gates(values, self.names)[:, None, :]
        banned, factors = np.zeros(rows.shape, dtype=bool), np.ones(rows.shape)
        _apply(active, holds, self.musts, self.scales, self.scale_factors, banned, factors)
        for place, balance in self.balances:
            factors *= np.where(active[:, place, None], balance.factors(queries, rows), 1.0)
        return Applied(active=active, holds=holds, banned=banned, factors=factors)

    def burdens(self, queries: Sequence[Query], rows: np.ndarray, quotas: np.ndarray) -> np.ndarray:
        """[B, C] int64, bits of the frequencies that an item was shown too often for; quotas [B, C, Q], where they hold."""
        burdens = np.zeros(rows.shape, dtype=np.int64)
        for place in self.quotas.frequencies:
            limit = self.quotas.limits[place]
            often = [
                [self.row_of[key] for key, num in query.exposure.items() if num >= limit and key in self.row_of]
                for query in queries
            ]
            burdens |= self.quotas.bits[place] * (among(rows, often) & quotas[..., place])
        return burdens


@compiled()
def _apply(active, holds, musts, scales, scale_factors, banned, factors):
    """What musts ban and how much the scales make of it, into [B, C] each."""
    for b in range(holds.shape[0]):
        for c in range(holds.shape[1]):
            for must in musts:
                if active[b, must] and not holds[b, c, must]:
                    banned[b, c] = True
                    break
            for place in range(len(scales)):
                if active[b, scales[place]] and holds[b, c, scales[place]]:
                    factors[b, c] *= scale_factors[place]


def _places(rules: RuleSet, *kinds: type[Rule]) -> np.ndarray:
    return np.array([place for place, rule in enumerate(rules.rules) if isinstance(rule, kinds)], dtype=np.int64)


def _condition(rule: Rule) -> str | None:
    return rule.must if isinstance(rule, Must) else getattr(rule, "where", None)


def _where(rule: Rule) -> str:
    return f"rule {rule.name!r}, {'must' if isinstance(rule, Must) else 'where'}"


def _when(rule: Rule, types: Mapping[str, str]) -> Expression:
    assert rule.when is not None
    return compile_expression(rule.when, types, where=f"rule {rule.name!r}, when", wanted="boolean")


def _type(name: str, types: Mapping[str, str]) -> str:
    return types.get(name) or types[f"{name.partition('.')[0]}.*"]


def _factor(rule: Rule) -> float:
    return rule.boost if isinstance(rule, Boost) else 1 / rule.bury if isinstance(rule, Bury) else 1.0


def _pin(place: int, rule: Pin, row_of: Mapping[str, int]) -> CompiledPin:
    if rule.item is not None and rule.item not in row_of:
        raise ConfigError(
            f"rule {rule.name!r} pins the item {rule.item!r}, which is not in the catalogue; correct the id"
        )
    return CompiledPin(rule=place, row=None if rule.item is None else row_of[rule.item], position=rule.pin)


def _seconds(moment: str | None, otherwise: float) -> float:
    return otherwise if moment is None else datetime.strptime(moment, DATE).replace(tzinfo=UTC).timestamp()


def _effect(rule: Rule) -> str:
    if isinstance(rule, Boost | Bury):
        return f"utility x{_factor(rule):.3g}"
    if isinstance(rule, Pin):
        return f"place {rule.pin + 1}"
    return "held back" if isinstance(rule, QUOTAS) else "balanced"
