"""Placement of pinned items before the free positions are filled.

Shapes: B queries, C columns of the pool in utility order, P pins, K positions, R rules.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys.contracts import Query
from recsys.jit import compiled
from recsys.policy.pool import EligiblePool
from recsys.policy.rules.compiled_rules import CompiledRules
from recsys.policy.slate.slate_batch import ScoredCandidates

NO_ITEM = -1


class Pins(NamedTuple):
    """The pins of a rule set for a batch."""

    positions: np.ndarray
    """[P] int64"""
    items: np.ndarray
    """[P] int64, catalogue row, NO_ITEM for a pin with a condition"""
    active: np.ndarray
    """[B, P] bool"""
    holds: np.ndarray
    """[B, C, P] bool, where the condition holds"""


class PinColumns(NamedTuple):
    """Columns of a batch that pins may take, [B, C] each as in `ScoredCandidates`."""

    rows: np.ndarray
    offered: np.ndarray
    showable: np.ndarray
    eligible: np.ndarray
    """bool, False from then on where a pin took the column"""


def place_pins(queries: Sequence[Query], rules: CompiledRules, scored: ScoredCandidates) -> EligiblePool:
    """Return the pool with the active pins placed, in the order of the document.

    A pin of an item needs no source that offers it; a pin with a condition takes the best candidate that satisfies it. A
    pin whose position is occupied takes the next free one; where too few items are left above them, pins move up.
    """
    lengths = np.array([query.k for query in queries])
    eligible = scored.offered & scored.showable
    held = np.full((len(queries), int(lengths.max())), -1, dtype=np.int64)
    pin_rules = [rule for rule, _ in rules.holds]
    if pin_rules:
        pins = Pins(
            positions=np.array([hold.position for _, hold in rules.holds], dtype=np.int64),
            items=np.array([NO_ITEM if hold.row is None else hold.row for _, hold in rules.holds], dtype=np.int64),
            active=scored.applied.active[:, pin_rules],
            holds=scored.holds[..., pin_rules],
        )
        columns = PinColumns(rows=scored.rows, offered=scored.offered, showable=scored.showable, eligible=eligible)
        _hold(pins, columns, lengths, held)
    num_eligible = eligible.sum(axis=1)
    sizes = np.minimum(lengths, num_eligible + (held >= 0).sum(axis=1))
    pinned = np.full((len(queries), int(sizes.max())), -1, dtype=np.int64)
    _move_up(held, num_eligible, pinned)
    return EligiblePool(rows=scored.rows, utility=scored.utility, eligible=eligible, pinned=pinned, sizes=sizes)


@compiled()
def _hold(pins, columns, lengths, held):
    """Place each active pin whose condition holds; its item is no longer eligible elsewhere."""
    for b in range(len(lengths)):
        for p in range(len(pins.items)):
            position = pins.positions[p]
            while position < lengths[b] and held[b, position] >= 0:
                position += 1
            if not pins.active[b, p] or position >= lengths[b]:
                continue
            column = _column(b, p, pins, columns, held[b])
            if column >= 0:
                held[b, position] = column
                columns.eligible[b, column] = False


@compiled()
def _column(b, p, pins, columns, held):
    """Return the column that a pin takes, -1 for none: its own item, or the best eligible column that satisfies it.

    An item may have two columns, one from a source and one appended for the pin; the first carries its scores. Two pins
    may name one item, and the second takes nothing.
    """
    item, rows, offered, found = pins.items[p], columns.rows[b], columns.offered[b], -1
    for c in range(len(rows)):
        if item == NO_ITEM:
            if columns.eligible[b, c] and pins.holds[b, c, p]:
                return c
        elif rows[c] == item and columns.showable[b, c] and (found < 0 or (offered[c] and not offered[found])):
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
