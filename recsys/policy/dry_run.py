"""What a new rule set would have changed: the same requests answered by the old and by the new one.

Value is the utility before any rule, summed over the places of a slate with the weights of DCG: 1 / log2(place + 2). So a
rule is charged for what it costs, not credited for the factor that it multiplies by.

Shapes: B queries of a batch, C candidates, K places, N items of the catalogue, V values of a column.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from recsys.contracts import PAD, Candidates, Query
from recsys.policy.compose import CompiledPolicy
from recsys.policy.explore import Exploration
from recsys.policy.rules import Limits

WORST = 10
"""slates that are shown"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A batch of requests as the rules meet them."""

    queries: Sequence[Query]
    candidates: Candidates
    probabilities: np.ndarray | None
    deviations: np.ndarray | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCost:
    """What one rule does: the new rules against the same without it."""

    name: str
    slates_changed: float
    """share of the slates"""
    items_removed: float
    """a slate, mean"""
    value_lost: float
    """share of the value without the rule; negative where it gains"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """How what is shown moves between the values of a column."""

    column: str
    moved: float
    """half the sum of all differences of shares: what part of the exposure changes hands"""
    largest: tuple[tuple[str, float, float], ...]
    """(value, share before, share after), the largest changes first"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
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
    """share of the places' items that are not in the old slate"""
    value_lost: float
    rules: tuple[RuleCost, ...]
    shifts: tuple[Shift, ...]
    worst: tuple[Changed, ...]
    exceeded: tuple[str, ...]
    """limits of the new rule set that it breaks, a sentence each"""

    def to_document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class _Slates:
    """What one policy showed to everybody."""

    policy: CompiledPolicy
    rows: list[np.ndarray]
    values: list[np.ndarray]

    def add(self, asked: Asked, utility: np.ndarray) -> None:
        rows = self.policy.rows(asked.queries, asked.candidates, asked.probabilities, asked.deviations)
        self.rows += list(rows)
        self.values += list(_values(rows, asked.candidates.items, utility))

    @property
    def value(self) -> float:
        return float(np.sum(self.values))


def dry_run(
    old: CompiledPolicy,
    new: CompiledPolicy,
    without: Mapping[str, CompiledPolicy],
    batches: Iterable[Asked],
    groups: Mapping[str, Sequence[tuple[str, ...]]],
    limits: Limits,
) -> DryRun:
    """Answer every batch by both and by the new rules without each of theirs; nothing is explored.

    without: name of a rule -> the new policy without it. groups: column -> values of each item [N].
    """
    before, after, *others = every = [_Slates(_still(policy), [], []) for policy in (old, new, *without.values())]
    users: list[str] = []
    for asked in batches:
        users += [query.user for query in asked.queries]
        utility = asked.candidates.scores if asked.probabilities is None else new.value(asked.probabilities)
        for slates in every:
            slates.add(asked, _above_the_least(np.where(asked.candidates.items == PAD, np.nan, utility)))
    run = DryRun(
        old=old.rules.hash,
        new=new.rules.hash,
        num_slates=len(users),
        slates_changed=_share_changed(before, after),
        items_changed=_removed(after, before) / max(1, sum((rows != PAD).sum() for rows in after.rows)),
        value_lost=_lost(before, after),
        rules=tuple(_cost(name, other, after) for name, other in zip(without, others, strict=True)),
        shifts=tuple(_shift(column, values, before, after) for column, values in groups.items()),
        worst=_worst(users, before, after, new.items),
        exceeded=(),
    )
    return replace(run, exceeded=_exceeded(run, limits))


def _still(policy: CompiledPolicy) -> CompiledPolicy:
    return replace(policy, exploration=Exploration(kind="none", rate=0.0, first=0))


def _above_the_least(utility: np.ndarray) -> np.ndarray:
    """[B, C] how far each utility lies above the least of its query where that is below 0: an empty place is no gain."""
    known = np.isfinite(utility)
    least = np.where(known, utility, 0.0).min(axis=1, keepdims=True, initial=0.0)
    return np.where(known, utility - least, 0.0).astype(np.float64)


def _values(rows: np.ndarray, candidates: np.ndarray, utility: np.ndarray) -> np.ndarray:
    """[B] discounted utility of slates [B, K] among candidates [B, C]; what no source offered counts for nothing."""
    at = (rows[:, :, None] == candidates[:, None, :]) & (rows != PAD)[:, :, None]
    own = np.where(at.any(-1), np.take_along_axis(utility, at.argmax(-1), axis=1), 0.0)
    return (own / np.log2(np.arange(rows.shape[1]) + 2)).sum(axis=1)


def _share_changed(before: _Slates, after: _Slates) -> float:
    pairs = zip(before.rows, after.rows, strict=True)
    return float(np.mean([not np.array_equal(_items(one), _items(other)) for one, other in pairs]))


def _items(rows: np.ndarray) -> np.ndarray:
    return rows[rows != PAD]


def _removed(one: _Slates, other: _Slates) -> int:
    """Items of the slates of one that the slates of the other do not have."""
    pairs = zip(one.rows, other.rows, strict=True)
    return sum(int((~np.isin(_items(mine), theirs)).sum()) for mine, theirs in pairs)


def _lost(before: _Slates, after: _Slates) -> float:
    return (before.value - after.value) / max(abs(before.value), 1e-12)


def _cost(name: str, without: _Slates, after: _Slates) -> RuleCost:
    return RuleCost(
        name=name,
        slates_changed=_share_changed(without, after),
        items_removed=_removed(without, after) / max(1, len(after.rows)),
        value_lost=_lost(without, after),
    )


def _shift(column: str, values: Sequence[tuple[str, ...]], before: _Slates, after: _Slates) -> Shift:
    names = sorted({value for row in values for value in row})
    shares = [_shares(names, values, slates) for slates in (before, after)]
    change = shares[1] - shares[0]
    largest = np.argsort(-np.abs(change), kind="stable")[:5]
    told = tuple((names[place], float(shares[0][place]), float(shares[1][place])) for place in largest if change[place])
    return Shift(column=column, moved=float(np.abs(change).sum() / 2), largest=told)


def _shares(names: Sequence[str], values: Sequence[tuple[str, ...]], slates: _Slates) -> np.ndarray:
    """[V] of what was shown; an item of several values counts in parts."""
    counts, place_of = np.zeros(len(names)), {name: place for place, name in enumerate(names)}
    rows, times = np.unique(np.concatenate([_items(rows) for rows in slates.rows]), return_counts=True)
    for row, number in zip(rows.tolist(), times.tolist(), strict=True):
        for value in values[row]:
            counts[place_of[value]] += number / len(values[row])
    return counts / max(counts.sum(), 1e-12)


def _worst(users: Sequence[str], before: _Slates, after: _Slates, items: np.ndarray) -> tuple[Changed, ...]:
    lost = np.array(before.values) - np.array(after.values)
    places = [place for place in np.argsort(-lost, kind="stable")[:WORST] if lost[place] > 0]
    return tuple(
        Changed(
            user=users[place],
            value_before=float(before.values[place]),
            value_after=float(after.values[place]),
            items_before=tuple(items[_items(before.rows[place])].tolist()),
            items_after=tuple(items[_items(after.rows[place])].tolist()),
        )
        for place in places
    )


def _exceeded(run: DryRun, limits: Limits) -> tuple[str, ...]:
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
