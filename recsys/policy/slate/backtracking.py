"""Backtracking search for a slate that keeps every quota, for the few requests on which the greedy choice fails.

Columns are tried by utility first; if the budget ends, again by the room that caps leave. Diversity is ignored.

Compiled by numba; pool, limits and state as in recsys.policy.slate.constraint_tracking. Positions between the same tops of
quotas are interchangeable, so a column that was tried at one of them is not tried at a later one: the search is over sets, not
orders.

Shapes: B queries, C columns of the pool, K positions, F floors.
"""

import numpy as np

from recsys.jit import compiled
from recsys.policy.slate.constraint_tracking import (
    best_column,
    constraint_first,
    copied,
    find_violations,
    no_violations,
    place_item,
)

MAX_COLUMNS_SCANNED = 30_000
"""columns scanned before either search gives up, about a millisecond for both: the search is exponential, a request is not"""


@compiled()
def search_feasible_slate(b, pool, limits, state, columns):
    """Fill columns [K], pins included, without relaxing a quota; False and columns unchanged where no such slate was found."""
    for by_utility in (True, False):  # a loop: numba would compile the search once for each literal
        begun = copied(state)
        if _backtrack(b, pool, limits, begun, columns, by_utility):
            return True
    return False


@compiled()
def _backtrack(b, pool, limits, state, columns, by_utility):
    """Run one depth-first search; return whether columns [K] were written."""
    pinned, tops = pool.pinned, limits.tops
    num, size = pool.eligible.shape[1], pool.sizes[b]
    violations, scores = no_violations(state), np.empty(num)
    tried, chosen = np.zeros((size + 1, num), dtype=np.bool_), np.full(size, -1, dtype=np.int64)
    # two visits a position at least, so that a slate without dead ends is always found
    position, budget = 0, max(2 * size, MAX_COLUMNS_SCANNED // max(num, 1))
    while position < size:
        budget -= 1
        if pinned[b, position] >= 0:
            # a pin leaves nothing to try; what was tried before it stays tried behind it
            tried[position + 1] = tried[position]
            _reset_tried(tried, position + 1, tops)
            position += 1
            continue
        find_violations(b, position, pool, limits, state, violations)
        if by_utility:
            scores[:] = -np.arange(num)
        else:
            constraint_first(b, position, limits, state, scores)
        column = -1
        if _enough_columns(position, pinned[b, :size], limits, state.free, violations.capped):
            harmless = state.free & (violations.bits == 0) & (violations.infeasibility == 0)
            column = best_column(harmless & ~tried[position], violations, scores)
        if column >= 0:
            chosen[position] = column
            place_item(b, position, column, limits, state)
            tried[position, column] = True
            tried[position + 1] = tried[position]
            _reset_tried(tried, position + 1, tops)
            position += 1
            continue
        position -= 1
        # a dead end is undone at the last position that had a choice
        while position >= 0 and pinned[b, position] >= 0:
            position -= 1
        if position < 0 or budget < 0:
            return False
        undo_place_item(b, position, chosen[position], limits, state)
    for position in range(size):
        columns[position] = pinned[b, position] if pinned[b, position] >= 0 else chosen[position]
    return True


@compiled()
def _enough_columns(position, pinned, limits, free, capped):
    """Return whether enough columns are left up to the top of every quota, a bound that prunes dead ends early.

    A cap excludes a column until a top only if the cap itself reaches as far: `lasting_bits` are the caps of that kind.
    """
    tops, size = limits.tops, len(pinned)
    for quota in range(len(tops)):
        end, lasting_bits = min(tops[quota], size), 0
        if end > position:
            for other in range(len(tops)):
                lasting_bits |= limits.bits[other] if tops[other] >= end else 0
            if (free & (capped & lasting_bits == 0)).sum() < (pinned[position:end] < 0).sum():
                return False
    return True


@compiled()
def _reset_tried(tried, position, tops):
    """Allow all columns again at a position where the top of a quota ends: from there on positions are no longer alike."""
    for top in tops:
        if top == position:
            tried[position] = False


@compiled()
def undo_place_item(b, position, column, limits, state):
    """Undo recsys.policy.slate.constraint_tracking.place_item."""
    state.free[column] = True
    for slot in range(limits.groups.shape[2]):
        group = limits.groups[b, column, slot]
        if group >= 0:
            state.counts[group] -= 1
    for f in range(len(limits.floors)):
        if limits.satisfies[b, column, f] and position < limits.tops[limits.floors[f]]:
            state.floor_deficit[f] += 1
