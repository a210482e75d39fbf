"""Caps, floors and frequencies as arrays for the selection of slates.

Each quota has a bit, the earlier in the document the higher, so masks of violations compare by importance.

Shapes: N items, B queries, C columns, Q quotas, G groups an item may be counted in, F floors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.contracts import Query
from recsys.errors import ConfigError
from recsys.expressions import Columns, suggestion
from recsys.jit import compiled
from recsys.policy.exposure_lookup import look_up_exposure
from recsys.policy.rules import BOUNDS, Cap, Exposure, Floor, Frequency

Quota = Cap | Floor | Frequency
NO_GROUP = -1
MAX_FACTOR = BOUNDS[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Quotas of a rule set."""

    names: tuple[str, ...]
    bits: np.ndarray
    """[Q] int64, a power of two each"""
    limits: np.ndarray
    """[Q] int64, the number that each rule names"""
    tops: np.ndarray
    """[Q] int64"""
    of: np.ndarray
    """[N, G] int32, groups of each item in caps of a column, NO_GROUP behind the last"""
    group_quota: np.ndarray
    """int32, quota of each group; caps with a condition, one group each, follow those of columns"""
    caps: np.ndarray
    """int64, quotas that are caps with a condition"""
    floors: np.ndarray
    """[F] int64"""
    frequencies: tuple[int, ...]

    @staticmethod
    def of_rules(quotas: Sequence[Quota], catalogue: Columns, item_types: Mapping[str, str]) -> "Quotas":
        """Build the arrays; ConfigError for a cap of a column that is no category."""
        num_items, groups = len(catalogue["item"]), []
        owners: list[int] = []
        for quota, rule in enumerate(quotas):
            if isinstance(rule, Cap) and rule.of is not None:
                values, num = number_values(category_values(rule.name, rule.of, catalogue, item_types))
                groups.append(np.where(values < 0, NO_GROUP, values + len(owners)))
                owners += [quota] * num
        caps = [quota for quota, rule in enumerate(quotas) if isinstance(rule, Cap) and rule.where is not None]
        floors = [quota for quota, rule in enumerate(quotas) if isinstance(rule, Floor)]
        return Quotas(
            names=tuple(rule.name for rule in quotas),
            bits=np.array([1 << (len(quotas) - 1 - quota) for quota in range(len(quotas))], dtype=np.int64),
            limits=np.array([_limit(rule) for rule in quotas], dtype=np.int64),
            tops=np.array([0 if isinstance(rule, Frequency) else rule.top for rule in quotas], dtype=np.int64),
            of=np.concatenate([np.empty((num_items, 0), dtype=np.int64), *groups], axis=1).astype(np.int32),
            group_quota=np.array([*owners, *caps], dtype=np.int32),
            caps=np.array(caps, dtype=np.int64),
            floors=np.array(floors, dtype=np.int64),
            frequencies=tuple(quota for quota, rule in enumerate(quotas) if isinstance(rule, Frequency)),
        )

    def groups(self, rows: np.ndarray, holds: np.ndarray) -> np.ndarray:
        """Return groups [B, C, G + caps with a condition] int32 of catalogue rows [B, C]; holds: [B, C, Q] conditions."""
        grouped = np.empty((*rows.shape, self.of.shape[1] + len(self.caps)), dtype=np.int32)
        _group(self.of, rows, holds, self.caps, len(self.group_quota) - len(self.caps), grouped)
        return grouped

    def broken(self, mask: int) -> tuple[str, ...]:
        """Return the names of the rules whose bits are set."""
        return tuple(name for name, bit in zip(self.names, self.bits.tolist(), strict=True) if mask & bit)


@compiled()
def _group(of, rows, holds, caps, first, grouped):
    """Write groups [B, C, G + caps]. PAD is -1 and reads the last row: padded columns are never eligible."""
    num = of.shape[1]
    for b in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            grouped[b, c, :num] = of[rows[b, c]]
            for cap in range(len(caps)):
                grouped[b, c, num + cap] = first + cap if holds[b, c, caps[cap]] else NO_GROUP


def _limit(rule: Quota) -> int:
    return rule.cap if isinstance(rule, Cap) else rule.floor if isinstance(rule, Floor) else rule.frequency


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposureBalance:
    """One exposure rule for one catalogue: raises values shown too little so far, lowers values shown too much."""

    rule: Exposure
    keys: tuple[str, ...]
    """[V] keys of Query.exposure"""
    groups: np.ndarray
    """[N, M] int64 numbers of each item's values, NO_GROUP behind the last"""

    @staticmethod
    def of_rule(rule: Exposure, catalogue: Columns, item_types: Mapping[str, str]) -> "ExposureBalance":
        rows = category_values(rule.name, rule.exposure, catalogue, item_types)
        keys = tuple(f"{rule.exposure}={value}" for value in _numbers(rows))
        return ExposureBalance(rule=rule, keys=keys, groups=number_values(rows)[0])

    def exposure_keys(self, rows: np.ndarray) -> list[str]:
        """Return the keys of Query.exposure that catalogue rows [C] read."""
        present = np.unique(self.groups[rows])
        return [self.keys[value] for value in present.tolist() if value != NO_GROUP]

    def factors(self, queries: Sequence[Query], rows: np.ndarray) -> np.ndarray:
        """Return utility factors [B, C] of catalogue rows [B, C].

        A quotient of bound and share lies within BOUNDS or its inverse and is raised to the rule's strength; an item of
        several values has the product of their quotients.
        """
        shares = look_up_exposure(queries, self.keys, self.groups[rows])
        low, high = self.rule.least, self.rule.most
        raised = low / np.maximum(shares, low / MAX_FACTOR or 1.0)
        lowered = high / np.maximum(shares, max(high, 1e-300))
        quotients = np.where(shares < low, raised, np.where(shares > high, lowered, 1.0)).clip(
            1 / MAX_FACTOR, MAX_FACTOR
        )
        strength = 1.0 if self.rule.strength is None else self.rule.strength
        return quotients.prod(axis=-1).clip(1 / MAX_FACTOR, MAX_FACTOR) ** strength


def category_values(name: str, column: str, catalogue: Columns, item_types: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Return the distinct values of each item in a category column, none where missing; ConfigError for another column."""
    if column not in item_types:
        raise ConfigError(f"rule {name!r} names the unknown column {column!r}; {suggestion(column, item_types)}")
    kind = item_types[column]
    if kind == "category":
        return [() if value is None else (value,) for value in catalogue[column]]
    if kind == "categories":
        return [tuple(dict.fromkeys(values or ())) for values in catalogue[column]]
    raise ConfigError(f"rule {name!r} names {column!r}, a {kind}; name a category or categories column")


def number_values(rows: Sequence[tuple[str, ...]]) -> tuple[np.ndarray, int]:
    """Return [N, M] int64 value numbers, NO_GROUP behind the last, and the number of distinct values."""
    numbers = _numbers(rows)
    groups = np.full((len(rows), max(map(len, rows), default=0)), NO_GROUP, dtype=np.int64)
    for item, row in enumerate(rows):
        groups[item, : len(row)] = [numbers[value] for value in row]
    return groups, len(numbers)


def _numbers(rows: Sequence[tuple[str, ...]]) -> dict[str, int]:
    return {value: number for number, value in enumerate(dict.fromkeys(value for row in rows for value in row))}
