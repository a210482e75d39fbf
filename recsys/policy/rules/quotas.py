"""Caps, floors and query bans as arrays for the selection of slates.

Each quota has a bit, the earlier in the document the higher, so masks of violations compare by importance.

Shapes: N items, B queries, C columns, Q quotas, G groups an item may be counted in, F floors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.contracts import Query
from recsys.jit import compiled
from recsys.policy.category_values import NO_GROUP
from recsys.policy.rules.effects import AtLeast, AtMost, QueryBan, Quota
from recsys.policy.slate.row_sets import rows_in_sets


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotas:
    """Quotas of a rule set."""

    names: tuple[str, ...]
    rules: np.ndarray
    """[Q] int64, index of the rule in its document"""
    bits: np.ndarray
    """[Q] int64, a power of two each"""
    limits: np.ndarray
    """[Q] int64, the number that a cap or a floor names"""
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
    bans: tuple[tuple[int, QueryBan], ...]
    """(quota, its effect)"""

    @staticmethod
    def of_effects(names: Sequence[str], rules: Sequence[int], quotas: Sequence[Quota], num_items: int) -> "Quotas":
        """Build the arrays; names, rules: of the rule of each quota."""
        groups: list[np.ndarray] = []
        owners: list[int] = []
        for quota, effect in enumerate(quotas):
            if isinstance(effect, AtMost) and effect.groups is not None:
                groups.append(np.where(effect.groups < 0, NO_GROUP, effect.groups + len(owners)))
                owners += [quota] * (int(effect.groups.max(initial=NO_GROUP)) + 1)
        caps = [quota for quota, effect in enumerate(quotas) if isinstance(effect, AtMost) and effect.groups is None]
        return Quotas(
            names=tuple(names),
            rules=np.array(rules, dtype=np.int64),
            bits=np.array([1 << (len(quotas) - 1 - quota) for quota in range(len(quotas))], dtype=np.int64),
            limits=np.array([0 if isinstance(one, QueryBan) else one.number for one in quotas], dtype=np.int64),
            tops=np.array([0 if isinstance(one, QueryBan) else one.top for one in quotas], dtype=np.int64),
            of=np.concatenate([np.empty((num_items, 0), dtype=np.int64), *groups], axis=1).astype(np.int32),
            group_quota=np.array([*owners, *caps], dtype=np.int32),
            caps=np.array(caps, dtype=np.int64),
            floors=np.array([quota for quota, one in enumerate(quotas) if isinstance(one, AtLeast)], dtype=np.int64),
            bans=tuple((quota, one) for quota, one in enumerate(quotas) if isinstance(one, QueryBan)),
        )

    def groups(self, rows: np.ndarray, holds: np.ndarray) -> np.ndarray:
        """Return groups [B, C, G + caps with a condition] int32 of catalogue rows [B, C]; holds: [B, C, Q] conditions."""
        grouped = np.empty((*rows.shape, self.of.shape[1] + len(self.caps)), dtype=np.int32)
        _group(self.of, rows, holds, self.caps, len(self.group_quota) - len(self.caps), grouped)
        return grouped

    def item_violations(self, queries: Sequence[Query], rows: np.ndarray, holds: np.ndarray) -> np.ndarray:
        """Return [B, C] int64 bits of the query bans; holds: [B, C, Q], where active rules apply."""
        violations = np.zeros(rows.shape, dtype=np.int64)
        for quota, ban in self.bans:
            banned = rows_in_sets(rows, [ban.rows(query) for query in queries])
            violations |= self.bits[quota] * (banned & holds[..., quota])
        return violations

    def broken(self, mask: int) -> tuple[str, ...]:
        """Return the names of the rules whose bits are set."""
        return tuple(name for name, bit in zip(self.names, self.bits.tolist(), strict=True) if mask & bit)


@compiled()
def _group(of, rows, holds, caps, first, grouped):
    """Write groups [B, C, G]. PAD is -1 and reads the last row: padded columns are never eligible."""
    num = of.shape[1]
    for b in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            grouped[b, c, :num] = of[rows[b, c]]
            for cap in range(len(caps)):
                grouped[b, c, num + cap] = first + cap if holds[b, c, caps[cap]] else NO_GROUP
