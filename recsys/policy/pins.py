"""Pins: which item holds which place before anything else is chosen.

Shapes: B queries, C columns of the pool in plain order, P pins, K places, R rules.
"""

from collections.abc import Sequence

import numpy as np

from recsys.contracts import Query
from recsys.jit import compiled
from recsys.policy.batch import Offer
from recsys.policy.compiled import CompiledRules
from recsys.policy.selection import Pool

NO_ITEM = -1


def place_pins(queries: Sequence[Query], rules: CompiledRules, offer: Offer) -> Pool:
    """The pool with the pins that hold, in the order of the document.

    A pin brings an item that no source offered; one with a condition takes the best candidate for which it holds. A pin
    whose place is taken stands on the next free one; where too little stands above them, pins move up.
    """
    lengths = np.array([query.k for query in queries])
    eligible = offer.offered & offer.showable
    held = np.full((len(queries), int(lengths.max())), -1, dtype=np.int64)
    places = [pin.rule for pin in rules.pins]
    positions = np.array([pin.position for pin in rules.pins], dtype=np.int64)
    items = np.array([NO_ITEM if pin.row is None else pin.row for pin in rules.pins], dtype=np.int64)
    if len(items):
        active, holds = offer.applied.active[:, places], offer.holds[..., places]
        _hold(positions, items, active, holds, offer.rows, offer.offered, offer.showable, eligible, lengths, held)
    num_eligible = eligible.sum(axis=1)
    sizes = np.minimum(lengths, num_eligible + (held >= 0).sum(axis=1))
    pinned = np.full((len(queries), int(sizes.max())), -1, dtype=np.int64)
    _move_up(held, num_eligible, pinned)
    return Pool(rows=offer.rows, utility=offer.utility, eligible=eligible, pinned=pinned, sizes=sizes)


@compiled()
def _hold(positions, items, active, holds, rows, offered, showable, eligible, lengths, held):
    """Let each pin that is active [B, P] and whose condition holds [B, C, P] hold a place; its item is no longer free."""
    for b in range(len(lengths)):
        for p in range(len(items)):
            place = positions[p]
            while place < lengths[b] and held[b, place] >= 0:
                place += 1
            if not active[b, p] or place >= lengths[b]:
                continue
            column = _column(items[p], holds[b, :, p], rows[b], offered[b], showable[b], eligible[b], held[b])
            if column >= 0:
                held[b, place] = column
                eligible[b, column] = False


@compiled()
def _column(item, holds, rows, offered, showable, eligible, held):
    """The one that a pin takes, -1 for none: its own item, from a source if one offered it, or the best that fits."""
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
    """No gap above a pin that nothing else can fill."""
    for b in range(len(held)):
        turn = 0
        for place in range(held.shape[1]):
            if held[b, place] >= 0:
                pinned[b, min(place, num_eligible[b] + turn)] = held[b, place]
                turn += 1
