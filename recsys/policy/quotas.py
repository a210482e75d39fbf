"""Caps, floors and frequencies as arrays: what the selection of a slate counts.

Each has a bit, the earlier in the document the higher: what would break the fewest of the highest bits comes first.

Shapes: N items, B queries, C columns, Q quotas, G groups an item may be counted in, F floors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.contracts import Query
from recsys.errors import ConfigError
from recsys.expressions import Columns, suggestion
from recsys.jit import compiled
from recsys.policy.counters import counted
from recsys.policy.rules import BOUNDS, Cap, Exposure, Floor, Frequency

Quota = Cap | Floor | Frequency
NOWHERE = -1
MOST = BOUNDS[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """All quotas of a rule set; `bits` are those of their rules."""

    names: tuple[str, ...]
    bits: np.ndarray
    """[Q] int64"""
    limits: np.ndarray
    """[Q] int64, the number in each"""
    tops: np.ndarray
    """[Q] int64"""
    of: np.ndarray
    """[N, G] int32, groups of each item in the caps of columns, NOWHERE behind the last"""
    group_quota: np.ndarray
    """int32, the quota of each group, those of the caps with conditions behind those of columns"""
    caps: np.ndarray
    """int64, quotas that are caps with a condition, and so are floors and frequencies"""
    floors: np.ndarray
    """[F] int64"""
    frequencies: tuple[int, ...]

    @staticmethod
    def of_rules(quotas: Sequence[Quota], catalogue: Columns, item_types: Mapping[str, str]) -> "Quotas":
        """ConfigError for a cap of what is no category."""
        num_items, groups = len(catalogue["item"]), []
        owners: list[int] = []
        for place, rule in enumerate(quotas):
            if isinstance(rule, Cap) and rule.of is not None:
                values, num = numbered(grouping(rule.name, rule.of, catalogue, item_types))
                groups.append(np.where(values < 0, NOWHERE, values + len(owners)))
                owners += [place] * num
        caps = [place for place, rule in enumerate(quotas) if isinstance(rule, Cap) and rule.where is not None]
        floors = [place for place, rule in enumerate(quotas) if isinstance(rule, Floor)]
        return Quotas(
            names=tuple(rule.name for rule in quotas),
            bits=np.array([1 << (len(quotas) - 1 - place) for place in range(len(quotas))], dtype=np.int64),
            limits=np.array([_limit(rule) for rule in quotas], dtype=np.int64),
            tops=np.array([0 if isinstance(rule, Frequency) else rule.top for rule in quotas], dtype=np.int64),
            of=np.concatenate([np.empty((num_items, 0), dtype=np.int64), *groups], axis=1).astype(np.int32),
            group_quota=np.array([*owners, *caps], dtype=np.int32),
            caps=np.array(caps, dtype=np.int64),
            floors=np.array(floors, dtype=np.int64),
            frequencies=tuple(place for place, rule in enumerate(quotas) if isinstance(rule, Frequency)),
        )

    def groups(self, rows: np.ndarray, holds: np.ndarray) -> np.ndarray:
        """[B, C, G + caps with conditions] int32 of catalogue rows [B, C]; holds [B, C, Q]."""
        grouped = np.empty((*rows.shape, self.of.shape[1] + len(self.caps)), dtype=np.int32)
        _group(self.of, rows, holds, self.caps, len(self.group_quota) - len(self.caps), grouped)
        return grouped

    def broken(self, mask: int) -> tuple[str, ...]:
        """Names of the rules whose bits are set."""
        return tuple(name for name, bit in zip(self.names, self.bits.tolist(), strict=True) if mask & bit)


@compiled()
def _group(of, rows, holds, caps, first, grouped):
    """Into [B, C, G + caps]; the row of PAD is the last one."""
    num = of.shape[1]
    for b in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            grouped[b, c, :num] = of[rows[b, c]]
            for place in range(len(caps)):
                grouped[b, c, num + place] = first + place if holds[b, c, caps[place]] else NOWHERE


def _limit(rule: Quota) -> int:
    return rule.cap if isinstance(rule, Cap) else rule.floor if isinstance(rule, Floor) else rule.frequency


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """One exposure rule: what has had too little or too much of what was shown so far moves against it."""

    rule: Exposure
    keys: tuple[str, ...]
    """[V], counters in Query.exposure"""
    groups: np.ndarray
    """[N, M] int64 of each item's values, NOWHERE behind the last"""

    @staticmethod
    def of_rule(rule: Exposure, catalogue: Columns, item_types: Mapping[str, str]) -> "Balance":
        rows = grouping(rule.name, rule.exposure, catalogue, item_types)
        keys = tuple(f"{rule.exposure}={value}" for value in _numbers(rows))
        return Balance(rule=rule, keys=keys, groups=numbered(rows)[0])

    def reads(self, rows: np.ndarray) -> list[str]:
        """The keys that count for catalogue rows [C]."""
        present = np.unique(self.groups[rows])
        return [self.keys[value] for value in present.tolist() if value != NOWHERE]

    def factors(self, queries: Sequence[Query], rows: np.ndarray) -> np.ndarray:
        """Of catalogue rows [B, C], quotients within BOUNDS or one over them to the power of the rule's strength; an item of
        several values has the product of their quotients.
        """
        shares = counted(queries, self.keys, self.groups[rows])
        low, high = self.rule.least, self.rule.most
        raised = low / np.maximum(shares, low / MOST or 1.0)
        lowered = high / np.maximum(shares, max(high, 1e-300))
        quotients = np.where(shares < low, raised, np.where(shares > high, lowered, 1.0)).clip(1 / MOST, MOST)
        strength = 1.0 if self.rule.strength is None else self.rule.strength
        return quotients.prod(axis=-1).clip(1 / MOST, MOST) ** strength


def grouping(name: str, column: str, catalogue: Columns, item_types: Mapping[str, str]) -> list[tuple[str, ...]]:
    """The distinct values of each item in a column of categories; none where they are missing."""
    if column not in item_types:
        raise ConfigError(f"rule {name!r} names the unknown column {column!r}; {suggestion(column, item_types)}")
    kind = item_types[column]
    if kind == "category":
        return [() if value is None else (value,) for value in catalogue[column]]
    if kind == "categories":
        return [tuple(dict.fromkeys(values or ())) for values in catalogue[column]]
    raise ConfigError(f"rule {name!r} names {column!r}, a {kind}; name a category or categories column")


def numbered(rows: Sequence[tuple[str, ...]]) -> tuple[np.ndarray, int]:
    """[N, M] int64 of numbered values, NOWHERE behind the last, and how many values there are."""
    numbers = _numbers(rows)
    groups = np.full((len(rows), max(map(len, rows), default=0)), NOWHERE, dtype=np.int64)
    for place, row in enumerate(rows):
        groups[place, : len(row)] = [numbers[value] for value in row]
    return groups, len(numbers)


def _numbers(rows: Sequence[tuple[str, ...]]) -> dict[str, int]:
    return {value: number for number, value in enumerate(dict.fromkeys(value for row in rows for value in row))}
