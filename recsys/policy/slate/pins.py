"""Placement of pinned items before the free positions are filled.

Shapes: B queries, C columns of the pool in utility order, P pins, K positions, R rules.
"""

from collections.abc import Sequence

import numpy as np

from recsys.contracts import Query
from recsys.jit import compiled
from recsys.policy.pool import EligiblePool
from recsys.policy.rules.compiled_rules import CompiledRules
from recsys.policy.slate.slate_batch import ScoredCandidates

NO_ITEM = -1


def place_pins(queries: Sequence[Query], rules: CompiledRules, scored: ScoredCandidates) -> EligiblePool:
    """Return the pool with the active pins placed, in the order of the document.

    A pin of an item needs no source that offers it; a pin with a condition takes the best candidate that satisfies it. A
    pin whose position is occupied takes the next free one; where too few items are left above them, pins move up.
    """
    lengths = np.array([query.k for query in queries])
    eligible = scored.offered & scored.showable
    held = np.full((len(queries), int(lengths.max())), -1, dtype=np.int64)
    pin_rules = [rule for rule, _ in rules.holds]
    positions = np.array([hold.position for _, hold in rules.holds], dtype=np.int64)
    items = np.array([NO_ITEM if hold.row is None else hold.row for _, hold in rules.holds], dtype=np.int64)
    if len(items):
        active, holds = scored.applied.active[:, pin_rules], scored.holds[..., pin_rules]
        _hold(positions, items, active, holds, scored.rows, scored.offered, scored.showable, eligible, lengths, held)
    num_eligible = eligible.sum(axis=1)
    sizes = np.minimum(lengths, num_eligible + (held >= 0).sum(axis=1))
    pinned = np.full((len(queries), int(sizes.max())), -1, dtype=np.int64)
    _move_up(held, num_eligible, pinned)
    return EligiblePool(rows=scored.rows, utility=scored.utility, eligible=eligible, pinned=pinned, sizes=sizes)


@compiled()
def _hold(positions, items, active, holds, rows, offered, showable, eligible, lengths, held):
    """Place each active [B, P] pin whose condition holds [B, C, P]; its item is no longer eligible elsewhere."""
    for b in range(len(lengths)):
        for p in range(len(items)):
            position = positions[p]
            while position < lengths[b] and held[b, position] >= 0:
                position += 1
            if not active[b, p] or position >= lengths[b]:
                continue
            column = _column(items[p], holds[b, :, p], rows[b], offered[b], showable[b], eligible[b], held[b])
            if column >= 0:
                held[b, position] = column
                eligible[b, column] = False


@compiled()
def _column(item, holds, rows, offered, showable, eligible, held):
    """Return the column that a pin takes, -1 for none: its own item, or the best eligible column that satisfies it.

    An item may have two columns, one from a source and one appended for the pin; the first carries its scores. Two pins
    may name one item, and the second takes nothing.
    """
    found = -1
    for c in range(len(rows)):
        if item == NO_ITEM:
            if eligible[c] and holds[c]:
                return c
        elif rows[c] == item and showable[c] and (found < 0 or (offered[c] and not offered[found])):
            found = c
    if found >= 0:
        for column in held:
            if column >= 0 and rows[column] == item:
                return -1
    return found


@compiled()
def _move_up(held, num_eligible, pinned):
    """Move pins up where the eligible items above them are too few, so that a slate has no empty position inside."""
    for b in range(len(held)):
        num_pins = 0
        for position in range(held.shape[1]):
            if held[b, position] >= 0:
                pinned[b, min(position, num_eligible[b] + num_pins)] = held[b, position]
                num_pins += 1
