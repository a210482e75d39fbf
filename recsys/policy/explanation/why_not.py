"""Explanation of an item's absence from a slate: the first reason that applies.

Shapes: C candidates of the query.
"""

import numpy as np

from recsys.contracts import CandidateBatch, Query
from recsys.policy.compose import CompiledPolicy
from recsys.policy.interleaving import InterleavedPolicy
from recsys.policy.slate.slate_batch import SlateBatch


def why_not(policy: CompiledPolicy, query: Query, candidates: CandidateBatch, item: str) -> str:
    """Return one sentence about an item and the slate of one query, an interleaved one as its first arm has it.

    candidates: of this query alone
    """
    variant = policy.variant(query.policy) or policy
    policy = next(iter(variant.teams.values())) if isinstance(variant, InterleavedPolicy) else variant
    row = policy.rules.row_of.get(item)
    if row is None:
        return f"{item!r} is not in the catalogue"
    if policy.withdrawn is not None and policy.withdrawn[row]:
        return f"{item!r} was withdrawn"
    if any(event.item == item for event in query.history):
        return f"{item!r} is in the history of the user"
    if item in query.exclude:
        return f"{item!r} is excluded by the request"
    if banned := _banned(policy, query, row):
        return f"the rule {banned!r} removes {item!r}"
    batch = policy.fill([query], candidates)
    columns = batch.selection.columns[0, : batch.pool.sizes[0]]
    positions = np.flatnonzero(batch.pool.rows[0, columns] == row)
    if len(positions):
        return f"{item!r} is shown at position {positions[0] + 1}"
    found = np.flatnonzero((batch.pool.rows[0] == row) & batch.pool.eligible[0])
    if not len(found):
        return f"no source offered {item!r} among its {candidates.rows.shape[1]:,} candidates"
    return _not_chosen(policy, batch, int(found[0]), item)


def _banned(policy: CompiledPolicy, query: Query, row: int) -> str | None:
    """Return the first active must rule that the item violates, None if there is none."""
    applied = policy.rules([query], np.array([[row]]))
    for index in policy.rules.bans:
        if applied.active[0, index] and not applied.holds[0, 0, index]:
            return policy.rules.rules[index].name
    return None


def _not_chosen(policy: CompiledPolicy, batch: SlateBatch, column: int, item: str) -> str:
    held = policy.rules.quotas.broken(int(batch.selection.skipped[0, column]))
    if held:
        return f"the rule {held[0]!r} held {item!r} back"
    rank = int(batch.pool.eligible[0, :column].sum()) + 1
    ranked = f"{item!r} is number {rank} of {int(batch.pool.eligible[0].sum())} by utility"
    if rank > batch.pool.sizes[0]:
        return f"{ranked}, {int(batch.pool.sizes[0])} are shown"
    if batch.selection.explored[0].any():
        return f"{ranked}, chance preferred another one"
    return f"{ranked}, pins and diversity preferred others"
