"""Parts of the questions that a mean hides: new users, short histories, cold items, the tail.

Shapes: B questions, b of them in a slice, N items, M targets.
"""

from dataclasses import dataclass

import numpy as np

from recsys.evaluation.metrics import Targets, inverse_propensities
from recsys.evaluation.questions import Questions

SHORT = 5
"""most events of a short history"""
HEAD = 0.8
"""share of the known events that the popular items hold; all others are the tail"""
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
    """Some questions of a split with some of their targets, at least one each."""

    rows: np.ndarray
    """[b] places among the questions"""
    users: np.ndarray
    """[b] codes"""
    targets: Targets
    item_weights: np.ndarray
    """[N] inverse propensities"""


def slices(questions: Questions) -> dict[str, Slice]:
    """EVERYTHING, and those of DEFINITIONS that have a question."""
    popularity, lengths = questions.known.popularity, questions.histories.lengths
    of_user, of_item = lengths[questions.targets.users], questions.targets.items
    chosen = (
        of_user > 0,
        of_user == 0,
        (of_user > 0) & (of_user <= SHORT),
        popularity[of_item] == 0,
        ~popular(popularity, HEAD)[of_item],
    )
    kept = {EVERYTHING: np.ones(len(of_item), dtype=bool), **dict(zip(DEFINITIONS, chosen, strict=True))}
    parts = {name: questions.targets.only(targets) for name, targets in kept.items() if targets.any()}
    weights = inverse_propensities(popularity)
    return {
        name: Slice(rows=rows, users=questions.users[rows], targets=targets, item_weights=weights)
        for name, (rows, targets) in parts.items()
    }


def popular(popularity: np.ndarray, share: float) -> np.ndarray:
    """[N] bool: the fewest items that hold this share of all events, and those as popular as the last of them."""
    falling = np.sort(popularity)[::-1]
    last = np.searchsorted(np.cumsum(falling), share * falling.sum())
    return (popularity >= falling[last]) & (popularity > 0)
