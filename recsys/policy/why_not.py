"""Why an item was not shown: the first reason that would have kept it away.

Shapes: C candidates of the query.
"""

import numpy as np

from recsys.contracts import Candidates, Query
from recsys.policy.batch import Batch
from recsys.policy.compose import CompiledPolicy


def why_not(
    policy: CompiledPolicy,
    query: Query,
    candidates: Candidates,
    probabilities: np.ndarray | None,
    deviations: np.ndarray | None,
    item: str,
) -> str:
    """One sentence about an item and the slate of one query; candidates [1, C], the others [1, C, T] or None."""
    row = policy.rules.row_of.get(item)
    if row is None:
        return f"{item!r} is not in the catalogue"
    if policy.hidden is not None and policy.hidden[row]:
        return f"{item!r} was withdrawn"
    if any(event.item == item for event in query.history):
        return f"{item!r} was met by the user before"
    if item in query.exclude:
        return f"{item!r} is excluded by the request"
    if banned := _banned(policy, query, row):
        return f"the rule {banned!r} removes {item!r}"
    batch = policy.filled([query], candidates, probabilities, deviations)
    columns = batch.selection.columns[0, : batch.pool.sizes[0]]
    places = np.flatnonzero(batch.pool.rows[0, columns] == row)
    if len(places):
        return f"{item!r} is shown, on place {places[0] + 1}"
    found = np.flatnonzero((batch.pool.rows[0] == row) & batch.pool.eligible[0])
    if not len(found):
        return f"no source offered {item!r} among its {candidates.items.shape[1]:,} candidates"
    return _not_chosen(policy, batch, int(found[0]), item)


def _banned(policy: CompiledPolicy, query: Query, row: int) -> str | None:
    """The first must that the item does not satisfy."""
    applied = policy.rules([query], np.array([[row]]))
    for place in policy.rules.musts:
        if applied.active[0, place] and not applied.holds[0, 0, place]:
            return policy.rules.rules[place].name
    return None


def _not_chosen(policy: CompiledPolicy, batch: Batch, column: int, item: str) -> str:
    held = policy.rules.quotas.broken(int(batch.selection.passed_over[0, column]))
    if held:
        return f"the rule {held[0]!r} held {item!r} back"
    rank = int(batch.pool.eligible[0, :column].sum()) + 1
    told = f"{item!r} is number {rank} of {int(batch.pool.eligible[0].sum())} by utility"
    if rank > batch.pool.sizes[0]:
        return f"{told}, {int(batch.pool.sizes[0])} are shown"
    if batch.selection.explored[0].any():
        return f"{told}, chance preferred another one"
    return f"{told}, pins and diversity preferred others"
