"""What quotas make of every place: who would break one, what floors still lack, and what can be kept at all.

Compiled by numba. pool is (eligible [B, C], pinned [B, K], sizes [B]); limits is (bits, numbers, tops, active,
group_quota, groups, floors, satisfies, burdens) as in recsys.policy.selection.Limits.

Shapes: B queries, C columns of the pool, K places, Q quotas, G groups of an item, F floors.
"""

import numpy as np

from recsys.jit import compiled


@compiled()
def taken(b, place, chosen, limits, free, counts, owed):
    groups, floors, satisfies, tops = limits[5], limits[6], limits[7], limits[2]
    free[chosen] = False
    for slot in range(groups.shape[2]):
        group = groups[b, chosen, slot]
        if group >= 0:
            counts[group] += 1
    for f in range(len(floors)):
        if satisfies[b, chosen, f] and place < tops[floors[f]]:
            owed[f] -= 1


@compiled()
def guarded(b, place, pool, limits, free, counts, owed, masks, excess, scores, guard):
    """The best column after which a frugal choice of the rest yields no more than the guard."""
    left = free.copy()
    while left.any():
        column = best_column(left, masks, excess, scores)
        left[column] = False
        if masks[column] <= guard:
            own_free, own_counts, own_owed = free.copy(), counts.copy(), owed.copy()
            taken(b, place, column, limits, own_free, own_counts, own_owed)
            if masks[column] | completed(b, place + 1, pool, limits, own_free, own_counts, own_owed) <= guard:
                return column
    return best_column(free, masks, excess, scores)


@compiled()
def completed(b, start, pool, limits, free, counts, owed):
    """Bits that yield when the places from `start` are filled frugally: floors first, then what caps have room for."""
    _, pinned, sizes = pool
    num, yielded = len(free), 0
    masks, excess, scores = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=np.int64), np.empty(num)
    full, capped = np.zeros(len(counts), dtype=np.int64), np.zeros(num, dtype=np.int64)
    for place in range(start, sizes[b]):
        if pinned[b, place] < 0:
            breaks(b, place, pool, limits, counts, owed, full, capped, masks, excess)
            frugal(b, place, limits, free, owed, scores)
            column = best_column(free, masks, excess, scores)
            yielded |= masks[column]
            taken(b, place, column, limits, free, counts, owed)
    return yielded


@compiled()
def frugal(b, place, limits, free, owed, scores):
    """Scores [C]: what floors still lack first, then what caps have room for beside all that is left, then the plain order."""
    _, numbers, tops, _, group_quota, groups, floors, satisfies, _ = limits
    wanting = np.zeros(len(group_quota))
    for c in range(len(scores)):
        for slot in range(groups.shape[2]):
            if free[c] and groups[b, c, slot] >= 0:
                wanting[groups[b, c, slot]] += 1
    for c in range(len(scores)):
        scores[c] = -c / len(scores)
        for f in range(len(floors)):
            scores[c] += 1_000 * (satisfies[b, c, f] and owed[f] > 0 and place < tops[floors[f]])
        for slot in range(groups.shape[2]):
            group = groups[b, c, slot]
            if group >= 0:
                scores[c] -= 1 + wanting[group] / (1 + numbers[group_quota[group]])


@compiled()
def owed_by(b, pool, limits):
    """[F] items that each floor still lacks when its pins stand, and the bits of those that ask for more than there is."""
    eligible, pinned, sizes = pool
    bits, numbers, tops, active, _, _, floors, satisfies, _ = limits
    owed, given_up = np.zeros(len(floors), dtype=np.int64), 0
    for f in range(len(floors)):
        quota = floors[f]
        if active[b, quota]:
            there, open_places = 0, 0
            for place in range(min(tops[quota], sizes[b])):
                column = pinned[b, place]
                open_places += column < 0
                there += column >= 0 and satisfies[b, column, f]
            attainable = min(open_places, (eligible[b] & satisfies[b, :, f]).sum())
            owed[f] = numbers[quota] - there
            if owed[f] > attainable:
                owed[f] = attainable
                given_up |= bits[quota]
    return owed, given_up


@compiled()
def pinned_counts(b, pool, limits):
    """Pins count in their groups from the beginning; and the bits of the caps that they break by themselves."""
    pinned = pool[1]
    bits, numbers, tops, active, group_quota, groups, _, _, _ = limits
    counts, broken = np.zeros(len(group_quota), dtype=np.int64), 0
    for place in range(pinned.shape[1]):
        column = pinned[b, place]
        if column >= 0:
            for slot in range(groups.shape[2]):
                group = groups[b, column, slot]
                if group >= 0 and place < tops[group_quota[group]]:
                    counts[group] += 1
    for group in range(len(counts)):
        quota = group_quota[group]
        if active[b, quota] and counts[group] > numbers[quota]:
            broken |= bits[quota]
    return counts, broken


@compiled()
def breaks(b, place, pool, limits, counts, owed, full, capped, masks, excess):
    """What each column would break at this place: bits of quotas, and places that floors then lack together.

    full [groups] and capped [C] are what the place before found; they start as zeros.
    """
    bits, numbers, tops, active, group_quota, groups, floors, _, burdens = limits
    changed = False
    for group in range(len(group_quota)):
        quota = group_quota[group]
        holds = place < tops[quota] and active[b, quota] and counts[group] >= numbers[quota]
        bit = bits[quota] if holds else 0
        if full[group] != bit:
            full[group], changed = bit, True
    if changed:
        for c in range(len(capped)):
            capped[c] = 0
            for slot in range(groups.shape[2]):
                group = groups[b, c, slot]
                if group >= 0:
                    capped[c] |= full[group]
    for c in range(len(masks)):
        masks[c], excess[c] = burdens[b, c] | capped[c], 0
    for f in range(len(floors)):
        if owed[f] > 0 and place < tops[floors[f]]:
            _owe(b, f, place, pool, limits, owed, masks, excess)


@compiled()
def _owe(b, f, place, pool, limits, owed, masks, excess):
    """What a floor makes of each column: its bit, and how many places it lacks with the floors inside of its own."""
    _, pinned, sizes = pool
    bits, tops, floors, satisfies = limits[0], limits[2], limits[6], limits[7]
    left, together = 0, 0
    for later in range(place + 1, min(tops[floors[f]], sizes[b])):
        left += pinned[b, later] < 0
    for g in range(len(floors)):
        if tops[floors[g]] <= tops[floors[f]] and owed[g] > 0:
            together += owed[g]
    if owed[f] <= left and together <= left:
        return
    for c in range(len(masks)):
        if owed[f] - satisfies[b, c, f] > left:
            masks[c] |= bits[floors[f]]
        lacking = together - left
        for g in range(len(floors)):
            if tops[floors[g]] <= tops[floors[f]] and owed[g] > 0:
                lacking -= satisfies[b, c, g]
        excess[c] = max(excess[c], lacking)


@compiled()
def best_column(free, masks, excess, scores):
    """The column that breaks least, then scores most, then lies first."""
    best = -1
    for c in range(len(free)):
        if free[c] and (
            best < 0
            or masks[c] < masks[best]
            or (masks[c] == masks[best] and excess[c] < excess[best])
            or (masks[c] == masks[best] and excess[c] == excess[best] and scores[c] > scores[best])
        ):
            best = c
    return best


@compiled()
def noted(best, free, masks, scores, passed_over):
    for c in range(len(free)):
        if free[c] and masks[c] and (scores[c] > scores[best] or (scores[c] == scores[best] and c < best)):
            passed_over[c] |= masks[c]
