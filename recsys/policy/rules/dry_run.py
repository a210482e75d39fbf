"""Dry run of a rule set: the same requests answered with the old and with the new rules.

Value is the utility before any rule, summed over the positions of a slate with the weights of DCG: 1 / log2(position + 2).
So a rule is charged for its cost, not credited for the factor that it multiplies by.

Shapes: B queries of a batch, C candidates, K positions, N items of the catalogue, V values of a column.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from recsys.contracts import PAD, CandidateBatch, Query
from recsys.policy.compose import CompiledPolicy
from recsys.policy.exploration import NoExploration
from recsys.policy.rules.rule_set import DryRunLimits

WORST = 10
"""number of slates in the report"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCost:
    """Cost of one rule: the new rules against the same rules without it."""

    name: str
    slates_changed: float
    """share of the slates"""
    items_removed: float
    """mean per slate"""
    value_lost: float
    """share of the value without the rule; negative where it gains"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposureShift:
    """Change of exposure between the values of a column."""

    column: str
    moved: float
    """total variation distance of the shares: the part of the exposure that moves"""
    largest: tuple[tuple[str, float, float], ...]
    """(value, share before, share after), the largest changes first"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedSlate:
    """One slate, before and after."""

    user: str
    value_before: float
    value_after: float
    items_before: tuple[str, ...]
    items_after: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """The report."""

    old: str
    new: str
    """hashes of the rule sets"""
    num_slates: int
    slates_changed: float
    items_changed: float
    """share of shown items that are not in the old slate"""
    value_lost: float
    rules: tuple[RuleCost, ...]
    shifts: tuple[ExposureShift, ...]
    worst: tuple[ChangedSlate, ...]
    exceeded: tuple[str, ...]
    """exceeded limits of the new rule set, one sentence each"""

    def to_document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class _PolicySlates:
    """Slates and values of one policy over all requests."""

    policy: CompiledPolicy
    rows: list[np.ndarray]
    values: list[np.ndarray]

    def add(self, queries: Sequence[Query], candidates: CandidateBatch, utility: np.ndarray) -> None:
        rows = self.policy.rows(queries, candidates)
        self.rows += list(rows)
        self.values += list(_values(rows, candidates.rows, utility))

    @property
    def value(self) -> float:
        return float(np.sum(self.values))


def dry_run(
    old: CompiledPolicy,
    new: CompiledPolicy,
    without: Mapping[str, CompiledPolicy],
    batches: Iterable[tuple[Sequence[Query], CandidateBatch]],
    groups: Mapping[str, Sequence[tuple[str, ...]]],
    limits: DryRunLimits,
) -> DryRun:
    """Answer every batch with the old rules, the new ones and the new ones without each rule; exploration is off.

    without: name of a rule -> the new policy without it. groups: column -> values of each item [N].
    """
    before, after, *others = every = [
        _PolicySlates(_without_exploration(policy), [], []) for policy in (old, new, *without.values())
    ]
    users: list[str] = []
    for queries, candidates in batches:
        users += [query.user for query in queries]
        utility = candidates.scores if candidates.probabilities is None else new.value(candidates.probabilities)
        for shown_slates in every:
            shown_slates.add(queries, candidates, _above_minimum(np.where(candidates.rows == PAD, np.nan, utility)))
    run = DryRun(
        old=old.rules.hash,
        new=new.rules.hash,
        num_slates=len(users),
        slates_changed=_share_changed(before, after),
        items_changed=_num_removed(after, before) / max(1, sum((rows != PAD).sum() for rows in after.rows)),
        value_lost=_value_lost(before, after),
        rules=tuple(_cost(name, other, after) for name, other in zip(without, others, strict=True)),
        shifts=tuple(_shift(column, values, before, after) for column, values in groups.items()),
        worst=_worst(users, before, after, new.items),
        exceeded=(),
    )
    return replace(run, exceeded=_exceeded(run, limits))


def _without_exploration(policy: CompiledPolicy) -> CompiledPolicy:
    return replace(policy, exploration=NoExploration())


def _above_minimum(utility: np.ndarray) -> np.ndarray:
    """Return [B, C] utility above the query's minimum where that is negative: an empty position must not be a gain."""
    known = np.isfinite(utility)
    least = np.where(known, utility, 0.0).min(axis=1, keepdims=True, initial=0.0)
    return np.where(known, utility - least, 0.0).astype(np.float64)


def _values(rows: np.ndarray, candidates: np.ndarray, utility: np.ndarray) -> np.ndarray:
    """Return [B] discounted utility of slates [B, K]; items outside of candidates [B, C] count 0."""
    at = (rows[:, :, None] == candidates[:, None, :]) & (rows != PAD)[:, :, None]
    own = np.where(at.any(-1), np.take_along_axis(utility, at.argmax(-1), axis=1), 0.0)
    return (own / np.log2(np.arange(rows.shape[1]) + 2)).sum(axis=1)


def _share_changed(before: _PolicySlates, after: _PolicySlates) -> float:
    pairs = zip(before.rows, after.rows, strict=True)
    return float(np.mean([not np.array_equal(_items(one), _items(other)) for one, other in pairs]))


def _items(rows: np.ndarray) -> np.ndarray:
    return rows[rows != PAD]


def _num_removed(one: _PolicySlates, other: _PolicySlates) -> int:
    """Return the number of items in the slates of `one` that the same slates of `other` lack."""
    pairs = zip(one.rows, other.rows, strict=True)
    return sum(int((~np.isin(_items(own_rows), other_rows)).sum()) for own_rows, other_rows in pairs)


def _value_lost(before: _PolicySlates, after: _PolicySlates) -> float:
    return (before.value - after.value) / max(abs(before.value), 1e-12)


def _cost(name: str, without: _PolicySlates, after: _PolicySlates) -> RuleCost:
    return RuleCost(
        name=name,
        slates_changed=_share_changed(without, after),
        items_removed=_num_removed(without, after) / max(1, len(after.rows)),
        value_lost=_value_lost(without, after),
    )


def _shift(
    column: str, values: Sequence[tuple[str, ...]], before: _PolicySlates, after: _PolicySlates
) -> ExposureShift:
    names = sorted({value for row in values for value in row})
    shares = [_shares(names, values, shown_slates) for shown_slates in (before, after)]
    change = shares[1] - shares[0]
    largest = np.argsort(-np.abs(change), kind="stable")[:5]
    shown = tuple(
        (names[index], float(shares[0][index]), float(shares[1][index])) for index in largest if change[index]
    )
    return ExposureShift(column=column, moved=float(np.abs(change).sum() / 2), largest=shown)


def _shares(names: Sequence[str], values: Sequence[tuple[str, ...]], shown_slates: _PolicySlates) -> np.ndarray:
    """Return [V] shares of the shown items; an item of several values counts in equal parts."""
    counts, index_of = np.zeros(len(names)), {name: index for index, name in enumerate(names)}
    rows, times = np.unique(np.concatenate([_items(rows) for rows in shown_slates.rows]), return_counts=True)
    for row, number in zip(rows.tolist(), times.tolist(), strict=True):
        for value in values[row]:
            counts[index_of[value]] += number / len(values[row])
    return counts / max(counts.sum(), 1e-12)


def _worst(
    users: Sequence[str], before: _PolicySlates, after: _PolicySlates, items: np.ndarray
) -> tuple[ChangedSlate, ...]:
    lost = np.array(before.values) - np.array(after.values)
    indices = [index for index in np.argsort(-lost, kind="stable")[:WORST] if lost[index] > 0]
    return tuple(
        ChangedSlate(
            user=users[index],
            value_before=float(before.values[index]),
            value_after=float(after.values[index]),
            items_before=tuple(items[_items(before.rows[index])].tolist()),
            items_after=tuple(items[_items(after.rows[index])].tolist()),
        )
        for index in indices
    )


def _exceeded(run: DryRun, limits: DryRunLimits) -> tuple[str, ...]:
    dearest = max(run.rules, key=lambda rule: rule.value_lost, default=None)
    most_moved = max(run.shifts, key=lambda shift: shift.moved, default=None)
    checks = [
        ("value_lost", run.value_lost, limits.value_lost, "the new rules cost {} of the value of what is shown"),
        ("slates_changed", run.slates_changed, limits.slates_changed, "{} of the slates change"),
    ]
    if dearest is not None:
        text = f"the rule {dearest.name!r} alone costs {{}} of the value of what is shown"
        checks.append(("value_lost_by_a_rule", dearest.value_lost, limits.value_lost_by_a_rule, text))
    if most_moved is not None:
        text = f"{{}} of the exposure moves between values of {most_moved.column}"
        checks.append(("exposure_shift", most_moved.moved, limits.exposure_shift, text))
    return tuple(
        f"{text.format(f'{value:.1%}')}, limits.{key} allows {limit:.1%}"
        for key, value, limit, text in checks
        if value > limit
    )
