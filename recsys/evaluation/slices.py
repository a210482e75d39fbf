"""Slices of the evaluation queries: new users, short histories, cold items, the tail.

Shapes: B queries, b of them in a slice, N items, M targets.
"""

from dataclasses import dataclass

import numpy as np

from recsys.metrics import Targets, inverse_propensities
from recsys.replay.evaluation_queries import EvaluationQueries

SHORT = 5
"""maximum number of events of a short history"""
HEAD = 0.8
"""share of the known events on head items; all others are the tail"""
EVERYTHING = "everything"
DEFINITIONS = {
    "users with a history": "something is known of them",
    "new users": "nothing is known of them",
    "short histories": f"1 to {SHORT} events",
    "cold items": "targets of which nothing is known",
    "tail items": f"targets outside of the items that hold {HEAD:.0%} of the known events",
}


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Subset of queries with a subset of their targets, at least one each."""

    rows: np.ndarray
    """[b] indices of the queries"""
    users: np.ndarray
    """[b] codes"""
    targets: Targets
    item_weights: np.ndarray
    """[N] inverse propensities"""


def slices(queries: EvaluationQueries) -> dict[str, Slice]:
    """Return EVERYTHING, and the slices of DEFINITIONS that have a query."""
    popularity, lengths = queries.known.popularity, queries.histories.lengths
    of_user, of_item = lengths[queries.targets.users], queries.targets.items
    chosen = (
        of_user > 0,
        of_user == 0,
        (of_user > 0) & (of_user <= SHORT),
        popularity[of_item] == 0,
        ~head_items(popularity, HEAD)[of_item],
    )
    kept = {EVERYTHING: np.ones(len(of_item), dtype=bool), **dict(zip(DEFINITIONS, chosen, strict=True))}
    parts = {name: queries.targets.only(targets) for name, targets in kept.items() if targets.any()}
    weights = inverse_propensities(popularity)
    return {
        name: Slice(rows=rows, users=queries.users[rows], targets=targets, item_weights=weights)
        for name, (rows, targets) in parts.items()
    }


def head_items(popularity: np.ndarray, share: float) -> np.ndarray:
    """Return [N] bool: the fewest items with this share of all events, and those as popular as the last of them."""
    falling = np.sort(popularity)[::-1]
    last = np.searchsorted(np.cumsum(falling), share * falling.sum())
    return (popularity >= falling[last]) & (popularity > 0)
