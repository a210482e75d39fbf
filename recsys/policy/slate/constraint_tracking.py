"""Constraint tracking of caps and floors while a slate is filled: violations of each column, deficits, feasibility.

Compiled by numba. pool is an EligiblePool and limits are QuotaLimits of recsys.policy.slate.selection. A set of quotas is an
int64 bit mask in which an earlier rule has a higher bit, so comparing two masks as integers compares them by the most
important rule that differs. That is why a rule set may have 60 quotas at most: bit 63 is the sign.

Shapes: B queries, C columns of the pool, K positions, Q quotas, G groups of an item, F floors.
"""

from typing import NamedTuple

import numpy as np

from recsys.jit import compiled


class SlateState(NamedTuple):
    """State of one slate that is being filled. Placing an item changes it in place."""

    free: np.ndarray
    """[C] bool, columns that may still take a position"""
    counts: np.ndarray
    """[number of groups] int64, placed items of each group"""
    floor_deficit: np.ndarray
    """[F] int64, items that each floor still lacks"""


class Violations(NamedTuple):
    """Costs of each column at the next position."""

    bits: np.ndarray
    """[C] int64, bits of the quotas that it would break"""
    infeasibility: np.ndarray
    """[C] int64, positions that floors would then lack together"""
    full: np.ndarray
    """[number of groups] int64, bit of the quota where the group was full at the position before"""
    capped: np.ndarray
    """[C] int64, bits of the full groups of each column at the position before"""


@compiled()
def first_state(b, pool, limits):
    """Return the state before any free position is filled, and the bits of the quotas that no slate keeps."""
    floor_deficit, unattainable = _initial_floor_deficit(b, pool, limits)
    counts, exceeded = _count_pinned(b, pool, limits)
    return SlateState(pool.eligible[b].copy(), counts, floor_deficit), unattainable | exceeded


@compiled()
def copied(state):
    """Return a state that placing an item does not change with this one."""
    return SlateState(state.free.copy(), state.counts.copy(), state.floor_deficit.copy())


@compiled()
def no_violations(state):
    """Return zeros, with which `find_violations` begins a slate."""
    num, num_groups = len(state.free), len(state.counts)
    return Violations(
        np.zeros(num, dtype=np.int64),
        np.zeros(num, dtype=np.int64),
        np.zeros(num_groups, dtype=np.int64),
        np.zeros(num, dtype=np.int64),
    )


@compiled()
def place_item(b, position, chosen, limits, state):
    """Count a column that takes a position: its groups, and the floors that it satisfies within their top."""
    state.free[chosen] = False
    for slot in range(limits.groups.shape[2]):
        group = limits.groups[b, chosen, slot]
        if group >= 0:
            state.counts[group] += 1
    for f in range(len(limits.floors)):
        if limits.satisfies[b, chosen, f] and position < limits.tops[limits.floors[f]]:
            state.floor_deficit[f] -= 1


@compiled()
def choose_feasible(b, position, pool, limits, state, violations, scores, attainable):
    """Return the best column after which the remaining positions can be filled without relaxing bits beyond `attainable`.

    The check completes the slate constraint-first, a heuristic: a column that it rejects may still have a completion,
    one that it accepts surely has. Without any such column the plain best is returned.
    """
    # the best column that works is taken: columns are tried in the order of the greedy choice
    remaining = state.free.copy()
    while remaining.any():
        column = best_column(remaining, violations, scores)
        remaining[column] = False
        if violations.bits[column] <= attainable:
            after = copied(state)
            place_item(b, position, column, limits, after)
            relaxed = complete_constraint_first(b, position + 1, pool, limits, after)
            if violations.bits[column] | relaxed <= attainable:
                return column
    return best_column(state.free, violations, scores)


@compiled()
def complete_constraint_first(b, start, pool, limits, state):
    """Fill the positions from `start` constraint-first, in place, and return the bits of the quotas that are relaxed."""
    violations, scores, relaxed = no_violations(state), np.empty(len(state.free)), 0
    for position in range(start, pool.sizes[b]):
        if pool.pinned[b, position] < 0:
            find_violations(b, position, pool, limits, state, violations)
            constraint_first(b, position, limits, state, scores)
            column = best_column(state.free, violations, scores)
            relaxed |= violations.bits[column]
            place_item(b, position, column, limits, state)
    return relaxed


@compiled()
def constraint_first(b, position, limits, state, scores):
    """Write scores [C] that ignore utility: items that a deficient floor needs, then items whose caps have most room.

    The weights separate the criteria: 1000 a floor outweighs any sum of group terms in practice, and the utility order
    (-c / C, in (-1, 0]) only breaks ties.
    """
    groups, floors, free = limits.groups, limits.floors, state.free
    demand = np.zeros(len(limits.group_quota))
    for c in range(len(scores)):
        for slot in range(groups.shape[2]):
            if free[c] and groups[b, c, slot] >= 0:
                demand[groups[b, c, slot]] += 1
    for c in range(len(scores)):
        scores[c] = -c / len(scores)
        for f in range(len(floors)):
            needed = state.floor_deficit[f] > 0 and position < limits.tops[floors[f]]
            scores[c] += 1_000 * (limits.satisfies[b, c, f] and needed)
        for slot in range(groups.shape[2]):
            group = groups[b, c, slot]
            if group >= 0:
                scores[c] -= 1 + demand[group] / (1 + limits.numbers[limits.group_quota[group]])


@compiled()
def _initial_floor_deficit(b, pool, limits):
    """Return the deficit [F] of each floor beside its pinned items, and the bits of the floors that cannot be reached.

    An unreachable floor is lowered to the attainable number, so that it does not block the quotas after it.
    """
    floor_deficit, unattainable = np.zeros(len(limits.floors), dtype=np.int64), 0
    for f in range(len(limits.floors)):
        quota = limits.floors[f]
        if limits.active[b, quota]:
            pinned_satisfying, open_positions = 0, 0
            for position in range(min(limits.tops[quota], pool.sizes[b])):
                column = pool.pinned[b, position]
                open_positions += column < 0
                pinned_satisfying += column >= 0 and limits.satisfies[b, column, f]
            attainable = min(open_positions, (pool.eligible[b] & limits.satisfies[b, :, f]).sum())
            floor_deficit[f] = limits.numbers[quota] - pinned_satisfying
            if floor_deficit[f] > attainable:
                floor_deficit[f] = attainable
                unattainable |= limits.bits[quota]
    return floor_deficit, unattainable


@compiled()
def _count_pinned(b, pool, limits):
    """Count pinned items in their groups from the start; return the counts and the bits of the caps that pins alone exceed."""
    counts, violated = np.zeros(len(limits.group_quota), dtype=np.int64), 0
    for position in range(pool.pinned.shape[1]):
        column = pool.pinned[b, position]
        if column >= 0:
            for slot in range(limits.groups.shape[2]):
                group = limits.groups[b, column, slot]
                if group >= 0 and position < limits.tops[limits.group_quota[group]]:
                    counts[group] += 1
    # pins come before caps: what they exceed alone counts as relaxed, whatever is chosen later
    for group in range(len(counts)):
        quota = limits.group_quota[group]
        if limits.active[b, quota] and counts[group] > limits.numbers[quota]:
            violated |= limits.bits[quota]
    return counts, violated


@compiled()
def find_violations(b, position, pool, limits, state, violations):
    """Write the violations at this position.

    Those of the position before are a cache of full groups: groups rarely fill up, and the pass over all columns and
    groups runs only when one does.
    """
    groups, full, capped, changed = limits.groups, violations.full, violations.capped, False
    for group in range(len(limits.group_quota)):
        quota = limits.group_quota[group]
        within = position < limits.tops[quota] and limits.active[b, quota]
        bit = limits.bits[quota] if within and state.counts[group] >= limits.numbers[quota] else 0
        if full[group] != bit:
            full[group], changed = bit, True
    # a slate position fills at most a few groups: the pass over all columns is the exception
    if changed:
        for c in range(len(capped)):
            capped[c] = 0
            for slot in range(groups.shape[2]):
                group = groups[b, c, slot]
                if group >= 0:
                    capped[c] |= full[group]
    bits, infeasibility = violations.bits, violations.infeasibility
    for c in range(len(capped)):
        # a frequency rule holds at every position, a full cap from the position where it filled
        bits[c], infeasibility[c] = limits.item_violations[b, c] | capped[c], 0
    for f in range(len(limits.floors)):
        if state.floor_deficit[f] > 0 and position < limits.tops[limits.floors[f]]:
            _floor_violations(b, f, position, pool, limits, state.floor_deficit, violations)


@compiled()
def _floor_violations(b, f, position, pool, limits, floor_deficit, violations):
    """Add one floor: its bit where a column leaves too few positions for it, and the joint lack of the floors inside its top.

    Floors with a smaller top share positions with this one. Their summed deficit can exceed the remaining positions while
    every floor alone still fits; an item that satisfies several of them reduces the lack by as much.
    """
    tops, floors = limits.tops, limits.floors
    remaining, joint_deficit = 0, 0
    # this position itself is not counted: whether the floor still fits is asked for the column that takes it
    for later in range(position + 1, min(tops[floors[f]], pool.sizes[b])):
        remaining += pool.pinned[b, later] < 0
    for g in range(len(floors)):
        if tops[floors[g]] <= tops[floors[f]] and floor_deficit[g] > 0:
            joint_deficit += floor_deficit[g]
    if floor_deficit[f] <= remaining and joint_deficit <= remaining:
        return
    bits, infeasibility = violations.bits, violations.infeasibility
    for c in range(len(bits)):
        if floor_deficit[f] - limits.satisfies[b, c, f] > remaining:
            bits[c] |= limits.bits[floors[f]]
        joint_lack = joint_deficit - remaining
        for g in range(len(floors)):
            if tops[floors[g]] <= tops[floors[f]] and floor_deficit[g] > 0:
                joint_lack -= limits.satisfies[b, c, g]
        infeasibility[c] = max(infeasibility[c], joint_lack)


@compiled()
def best_column(free, violations, scores):
    """Return the free column with the least violations, then infeasibility, then the highest score, then the lowest index."""
    best, bits, infeasibility = -1, violations.bits, violations.infeasibility
    for c in range(len(free)):
        if free[c] and (
            best < 0
            or bits[c] < bits[best]
            or (bits[c] == bits[best] and infeasibility[c] < infeasibility[best])
            or (bits[c] == bits[best] and infeasibility[c] == infeasibility[best] and scores[c] > scores[best])
        ):
            best = c
    return best


@compiled()
def mark_skipped(best, free, bits, scores, skipped):
    """Add to skipped [C] the violations of free columns that score higher than `best`: these quotas cost them the position."""
    for c in range(len(free)):
        if free[c] and bits[c] and (scores[c] > scores[best] or (scores[c] == scores[best] and c < best)):
            skipped[c] |= bits[c]
