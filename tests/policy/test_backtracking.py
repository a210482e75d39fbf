"""Whatever slate keeps all quotas is found, as trying all of them shows.

Shapes: C columns, K places, Q quotas, F floors.
"""

from itertools import permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.policy.pool import EligiblePool
from recsys.policy.slate.backtracking import search_feasible_slate
from recsys.policy.slate.constraint_tracking import first_state
from recsys.policy.slate.selection import QuotaLimits

COLUMNS, PLACES, VALUES = 7, 4, 3


def instance(seed):
    """Two caps of a column, one floor, sometimes a pin: (pool, limits) as the selection has them."""
    rng = np.random.default_rng(seed)
    pinned = np.full((1, PLACES), -1)
    eligible = np.ones((1, COLUMNS), dtype=bool)
    if rng.random() < 0.5:
        column = rng.integers(COLUMNS)
        pinned[0, rng.integers(PLACES)], eligible[0, column] = column, False
    groups = np.stack([rng.integers(-1, VALUES, COLUMNS), rng.integers(0, VALUES, COLUMNS) + VALUES], axis=1)
    limits = QuotaLimits(
        bits=np.array([4, 2, 1]),
        numbers=rng.integers(1, 3, 3),
        tops=rng.integers(2, PLACES + 1, 3),
        active=np.ones((1, 3), dtype=bool),
        group_quota=np.repeat([0, 1], VALUES).astype(np.int32),
        groups=groups[None].astype(np.int32),
        floors=np.array([2]),
        satisfies=rng.random((1, COLUMNS, 1)) < 0.4,
        item_violations=np.zeros((1, COLUMNS), dtype=np.int64),
    )
    rows, utility = np.arange(COLUMNS)[None], -1.0 * np.arange(COLUMNS)[None]
    sizes = np.array([PLACES])
    return EligiblePool(rows=rows, utility=utility, eligible=eligible, pinned=pinned, sizes=sizes), limits


def keeps(slate, limits, owed, pinned):
    for group, quota in enumerate(limits.group_quota):
        if sum(group in limits.groups[0, column] for column in slate[: limits.tops[quota]]) > limits.numbers[quota]:
            return False
    drawn = [column for place, column in enumerate(slate[: limits.tops[2]]) if pinned[0, place] < 0]
    return sum(limits.satisfies[0, column, 0] for column in drawn) >= owed[0]


def slates(pool):
    eligible, pinned = pool.eligible, pool.pinned
    open_places = [place for place in range(PLACES) if pinned[0, place] < 0]
    for chosen in permutations(np.flatnonzero(eligible[0]), len(open_places)):
        slate = pinned[0].copy()
        slate[open_places] = chosen
        yield slate


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 100_000))
def test_a_slate_is_found_where_there_is_one_and_it_keeps_everything(seed):
    pool, limits = instance(seed)
    state, _ = first_state(0, pool, limits)
    before, columns = [part.copy() for part in state], np.full(PLACES, -7)
    found = search_feasible_slate(0, pool, limits, state, columns)
    assert all(map(np.array_equal, state, before)), "the search works on a copy"
    assert found == any(keeps(slate, limits, state.floor_deficit, pool.pinned) for slate in slates(pool))
    if found:
        assert len(set(columns)) == PLACES
        assert keeps(columns, limits, state.floor_deficit, pool.pinned)
    else:
        assert (columns == -7).all()
