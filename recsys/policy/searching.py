"""A slate that keeps every quota, found by going back where a choice leaves none: for the few that greed misses.

First by utility, then, where that ends nowhere, by what caps have most room for. Diversity has no say in it.

Compiled by numba; pool and limits as in recsys.policy.keeping. Places between the same tops of quotas are alike, so a
column that was tried at one of them is not tried at a later one: sets are searched, not orders.

Shapes: B queries, C columns of the pool, K places, F floors.
"""

import numpy as np

from recsys.jit import compiled
from recsys.policy.keeping import best_column, breaks, frugal, taken

MOST = 30_000
"""columns looked at before either search gives up, about a millisecond for both"""


@compiled()
def searched(b, pool, limits, counts, owed, columns):
    """Fill columns [K], pins included, so that nothing yields; False where none was found, and columns are as they were."""
    return _filled(b, pool, limits, counts.copy(), owed.copy(), columns, True) or _filled(
        b, pool, limits, counts, owed, columns, False
    )


@compiled()
def _filled(b, pool, limits, counts, owed, columns, by_utility):
    eligible, pinned, sizes = pool
    tops = limits[2]
    free, num, size = eligible[b].copy(), eligible.shape[1], sizes[b]
    masks, excess, scores = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=np.int64), np.empty(num)
    full, capped = np.zeros(len(counts), dtype=np.int64), np.zeros(num, dtype=np.int64)
    tried, chosen = np.zeros((size + 1, num), dtype=np.bool_), np.full(size, -1, dtype=np.int64)
    place, left = 0, max(2 * size, MOST // max(num, 1))
    while place < size:
        left -= 1
        if pinned[b, place] >= 0:
            tried[place + 1] = tried[place]
            _open(tried, place + 1, tops)
            place += 1
            continue
        breaks(b, place, pool, limits, counts, owed, full, capped, masks, excess)
        if by_utility:
            scores[:] = -np.arange(num)
        else:
            frugal(b, place, limits, free, owed, scores)
        column = -1
        if _enough(place, pinned[b, :size], limits, free, capped):
            column = best_column(free & (masks == 0) & (excess == 0) & ~tried[place], masks, excess, scores)
        if column >= 0:
            chosen[place] = column
            taken(b, place, column, limits, free, counts, owed)
            tried[place, column] = True
            tried[place + 1] = tried[place]
            _open(tried, place + 1, tops)
            place += 1
            continue
        place -= 1
        while place >= 0 and pinned[b, place] >= 0:
            place -= 1
        if place < 0 or left < 0:
            return False
        _given_back(b, place, chosen[place], limits, free, counts, owed)
    for place in range(size):
        columns[place] = pinned[b, place] if pinned[b, place] >= 0 else chosen[place]
    return True


@compiled()
def _enough(place, pinned, limits, free, capped):
    """Whether, up to the top of every quota, columns are left that no cap excludes until there."""
    bits, tops, size = limits[0], limits[2], len(pinned)
    for quota in range(len(tops)):
        end, lasting = min(tops[quota], size), 0
        if end > place:
            for other in range(len(tops)):
                lasting |= bits[other] if tops[other] >= end else 0
            if (free & (capped & lasting == 0)).sum() < (pinned[place:end] < 0).sum():
                return False
    return True


@compiled()
def _open(tried, place, tops):
    """Where a quota's top begins anew, all columns may be tried."""
    for top in tops:
        if top == place:
            tried[place] = False


@compiled()
def _given_back(b, place, column, limits, free, counts, owed):
    """What recsys.policy.keeping.taken did, undone."""
    groups, floors, satisfies, tops = limits[5], limits[6], limits[7], limits[2]
    free[column] = True
    for slot in range(groups.shape[2]):
        group = groups[b, column, slot]
        if group >= 0:
            counts[group] -= 1
    for f in range(len(floors)):
        if satisfies[b, column, f] and place < tops[floors[f]]:
            owed[f] += 1
