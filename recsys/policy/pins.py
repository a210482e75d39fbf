"""Pins: which item holds which place before anything else is chosen.

Shapes: B queries, C columns of the pool in plain order, K places, R rules.
"""

from collections.abc import Sequence

import numpy as np

from recsys.contracts import Query
from recsys.policy.compiled import CompiledPin, CompiledRules
from recsys.policy.selection import Pool


def place_pins(
    queries: Sequence[Query],
    rules: CompiledRules,
    active: np.ndarray,
    holds: np.ndarray,
    rows: np.ndarray,
    utility: np.ndarray,
    offered: np.ndarray,
    showable: np.ndarray,
) -> Pool:
    """The pool with the pins that hold, in the order of the document.

    active [B, R], holds [B, C, R]; rows, utility, offered and showable [B, C]. A pin brings an item that no source
    offered; one with a condition takes the best candidate for which it holds. A pin whose place is taken stands on the
    next free one; where too little stands above them, pins move up.
    """
    lengths = np.array([query.k for query in queries])
    eligible, showable = offered & showable, showable.copy()
    held = np.full((len(queries), int(lengths.max())), -1, dtype=np.int64)
    for pin in rules.pins if rows.shape[1] else ():
        may_stand = _may_stand(pin, holds, rows, offered, showable, eligible)
        place = _free_place(held, lengths, pin.position)
        on = active[:, pin.rule] & may_stand.any(axis=1) & (place >= 0)
        which = np.flatnonzero(on)
        column = may_stand.argmax(axis=1)[which]
        held[which, place[which]] = column
        eligible[which, column] = False
        showable[which] &= rows[which] != rows[which, column][:, None]
    num_eligible, num_held = eligible.sum(axis=1), (held >= 0).sum(axis=1)
    sizes = np.minimum(lengths, num_eligible + num_held)
    return Pool(rows=rows, utility=utility, eligible=eligible, pinned=_moved_up(held, num_eligible, sizes), sizes=sizes)


def _may_stand(
    pin: CompiledPin,
    holds: np.ndarray,
    rows: np.ndarray,
    offered: np.ndarray,
    showable: np.ndarray,
    eligible: np.ndarray,
) -> np.ndarray:
    """[B, C] columns that the pin may take, the first of them it does."""
    if pin.row is None:
        return eligible & holds[..., pin.rule]
    same = (rows == pin.row) & showable
    return np.where((same & offered).any(axis=1, keepdims=True), same & offered, same)


def _free_place(held: np.ndarray, lengths: np.ndarray, position: int) -> np.ndarray:
    """[B] the first free place from a position on, -1 where the page has none."""
    places = np.arange(held.shape[1])
    free = (held < 0) & (places >= position) & (places < lengths[:, None])
    if position >= held.shape[1]:
        return np.full(len(held), -1)
    return np.where((lengths > position) & free.any(axis=1), free.argmax(axis=1), -1)


def _moved_up(held: np.ndarray, num_eligible: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[B, K of the longest]: no gap above a pin that nothing else can fill."""
    pinned = np.full((len(held), int(sizes.max())), -1, dtype=np.int64)
    which, place = np.nonzero(held >= 0)
    turn = (np.cumsum(held >= 0, axis=1) - 1)[which, place]
    pinned[which, np.minimum(place, num_eligible[which] + turn)] = held[which, place]
    return pinned
