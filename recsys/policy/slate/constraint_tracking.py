"""Constraint tracking of caps and floors while a slate is filled: violations of each column, deficits, feasibility.

Compiled by numba. pool is an EligiblePool and limits are QuotaLimits of recsys.policy.slate.selection. A set of quotas is an
int64 bit mask in which an earlier rule has a higher bit, so comparing two masks as integers compares them by the most
important rule that differs. That is why a rule set may have 60 quotas at most: bit 63 is the sign.

Shapes: B queries, C columns of the pool, K positions, Q quotas, G groups of an item, F floors.
"""

import numpy as np

from recsys.jit import compiled


@compiled()
def place_item(b, position, chosen, limits, free, counts, floor_deficit):
    """Count a column that takes a position: its groups in `counts`, and the floors that it satisfies within their top."""
    free[chosen] = False
    for slot in range(limits.groups.shape[2]):
        group = limits.groups[b, chosen, slot]
        if group >= 0:
            counts[group] += 1
    for f in range(len(limits.floors)):
        if limits.satisfies[b, chosen, f] and position < limits.tops[limits.floors[f]]:
            floor_deficit[f] -= 1


@compiled()
def choose_feasible(
    b, position, pool, limits, free, counts, floor_deficit, violations, infeasibility, scores, attainable
):
    """Return the best column after which the remaining positions can be filled without relaxing bits beyond `attainable`.

    The check completes the slate constraint-first, a heuristic: a column that it rejects may still have a completion,
    one that it accepts surely has. Without any such column the plain best is returned.
    """
    # the best column that works is taken: columns are tried in the order of the greedy choice
    remaining = free.copy()
    while remaining.any():
        column = best_column(remaining, violations, infeasibility, scores)
        remaining[column] = False
        if violations[column] <= attainable:
            free_after, counts_after, deficit_after = free.copy(), counts.copy(), floor_deficit.copy()
            place_item(b, position, column, limits, free_after, counts_after, deficit_after)
            if (
                violations[column]
                | complete_constraint_first(b, position + 1, pool, limits, free_after, counts_after, deficit_after)
                <= attainable
            ):
                return column
    return best_column(free, violations, infeasibility, scores)


@compiled()
def complete_constraint_first(b, start, pool, limits, free, counts, floor_deficit):
    """Fill the positions from `start` constraint-first, in place, and return the bits of the quotas that are relaxed."""
    num, relaxed = len(free), 0
    violations, infeasibility, scores = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=np.int64), np.empty(num)
    full, capped = np.zeros(len(counts), dtype=np.int64), np.zeros(num, dtype=np.int64)
    for position in range(start, pool.sizes[b]):
        if pool.pinned[b, position] < 0:
            find_violations(b, position, pool, limits, counts, floor_deficit, full, capped, violations, infeasibility)
            constraint_first(b, position, limits, free, floor_deficit, scores)
            column = best_column(free, violations, infeasibility, scores)
            relaxed |= violations[column]
            place_item(b, position, column, limits, free, counts, floor_deficit)
    return relaxed


@compiled()
def constraint_first(b, position, limits, free, floor_deficit, scores):
    """Write scores [C] that ignore utility: items that a deficient floor needs, then items whose caps have most room.

    The weights separate the criteria: 1000 a floor outweighs any sum of group terms in practice, and the utility order
    (-c / C, in (-1, 0]) only breaks ties.
    """
    groups, floors = limits.groups, limits.floors
    demand = np.zeros(len(limits.group_quota))
    for c in range(len(scores)):
        for slot in range(groups.shape[2]):
            if free[c] and groups[b, c, slot] >= 0:
                demand[groups[b, c, slot]] += 1
    for c in range(len(scores)):
        scores[c] = -c / len(scores)
        for f in range(len(floors)):
            needed = floor_deficit[f] > 0 and position < limits.tops[floors[f]]
            scores[c] += 1_000 * (limits.satisfies[b, c, f] and needed)
        for slot in range(groups.shape[2]):
            group = groups[b, c, slot]
            if group >= 0:
                scores[c] -= 1 + demand[group] / (1 + limits.numbers[limits.group_quota[group]])


@compiled()
def initial_floor_deficit(b, pool, limits):
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
def count_pinned(b, pool, limits):
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
def find_violations(b, position, pool, limits, counts, floor_deficit, full, capped, violations, infeasibility):
    """Write violations [C], bits of the quotas that each column would break at this position, and infeasibility [C],
    positions that floors would then lack together.

    full [groups] and capped [C] are caches of the position before and start as zeros: groups rarely fill up, and the
    pass over all columns and groups runs only when one does.
    """
    groups, changed = limits.groups, False
    for group in range(len(limits.group_quota)):
        quota = limits.group_quota[group]
        within = position < limits.tops[quota] and limits.active[b, quota]
        bit = limits.bits[quota] if within and counts[group] >= limits.numbers[quota] else 0
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
    for c in range(len(violations)):
        # a frequency rule holds at every position, a full cap from the position where it filled
        violations[c], infeasibility[c] = limits.item_violations[b, c] | capped[c], 0
    for f in range(len(limits.floors)):
        if floor_deficit[f] > 0 and position < limits.tops[limits.floors[f]]:
            _floor_violations(b, f, position, pool, limits, floor_deficit, violations, infeasibility)


@compiled()
def _floor_violations(b, f, position, pool, limits, floor_deficit, violations, infeasibility):
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
    for c in range(len(violations)):
        if floor_deficit[f] - limits.satisfies[b, c, f] > remaining:
            violations[c] |= limits.bits[floors[f]]
        joint_lack = joint_deficit - remaining
        for g in range(len(floors)):
            if tops[floors[g]] <= tops[floors[f]] and floor_deficit[g] > 0:
                joint_lack -= limits.satisfies[b, c, g]
        infeasibility[c] = max(infeasibility[c], joint_lack)


@compiled()
def best_column(free, violations, infeasibility, scores):
    """Return the free column with the least violations, then infeasibility, then the highest score, then the lowest index."""
    best = -1
    for c in range(len(free)):
        if free[c] and (
            best < 0
            or violations[c] < violations[best]
            or (violations[c] == violations[best] and infeasibility[c] < infeasibility[best])
            or (
                violations[c] == violations[best]
                and infeasibility[c] == infeasibility[best]
                and scores[c] > scores[best]
            )
        ):
            best = c
    return best


@compiled()
def mark_skipped(best, free, violations, scores, skipped):
    """Add to skipped [C] the violations of free columns that score higher than `best`: these quotas cost them the position."""
    for c in range(len(free)):
        if free[c] and violations[c] and (scores[c] > scores[best] or (scores[c] == scores[best] and c < best)):
            skipped[c] |= violations[c]
