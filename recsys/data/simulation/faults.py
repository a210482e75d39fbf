"""Faults of a simulated shop, each from a day on: what a monitor of drift has to find.

Shapes: R requests, S positions.
"""

from dataclasses import dataclass, replace

import numpy as np

from recsys.data.simulation.visits import Reactions, Visits
from recsys.data.sources.planted import DAY, START
from recsys.errors import check_ranges

Fault = tuple[float, float] | None
"""day since the start from which it holds, and its size; None for none"""


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Faults, none by default."""

    missing: Fault = None
    """share of requests without `context.device`"""
    renamed: Fault = None
    """share of the requests with device d1 that say d1-new"""
    shifted: Fault = None
    """added to `profile.age`, in its standard deviations"""
    favoured: Fault = None
    """share of slates whose last position one item takes"""
    lost: Fault = None
    """share of slates that nobody reacts to: the share that every figure of outcomes loses"""
    stale: Fault = None
    """share of requests whose history lacks the last two days"""

    def __post_init__(self) -> None:
        for name in ("missing", "renamed", "favoured", "lost", "stale"):
            if (fault := getattr(self, name)) is not None:
                check_ranges("faults", **{name: (fault[1], 0.0, 1.0)})

    def chosen(self, name: str, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return [R] bool, the requests at these times that a fault meets."""
        fault: Fault = getattr(self, name)
        drawn = rng.random(len(times))
        if fault is None:
            return np.zeros(len(times), dtype=bool)
        day, share = fault
        return ((times - START) / DAY >= day) & (drawn < share)

    def of_visits(self, shown: Visits, rng: np.random.Generator) -> Visits:
        """Return visits whose last position belongs to item 0 where it is favoured."""
        items = shown.items.copy()
        items[self.chosen("favoured", shown.now, rng), -1] = 0
        return replace(shown, items=items)

    def of_reactions(self, shown: Visits, done: Reactions, rng: np.random.Generator) -> Reactions:
        """Return reactions without those of the slates that nobody reacts to."""
        kept = ~self.chosen("lost", shown.now, rng)[:, None]
        return replace(done, clicked=done.clicked & kept, bought=done.bought & kept)

    def ages(self, ages: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Return the ages [R] that requests at these times say."""
        if self.shifted is None:
            return ages
        day, size = self.shifted
        return ages + size * np.std(ages) * ((times - START) / DAY >= day)
