"""What every model has to beat: what a baseline is, and the simplest ones, by popularity.

Shapes: N items of the catalogue, B users who ask.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recsys.errors import DataError, check_ranges
from recsys.evaluation.interactions import Histories, Interactions

SECONDS_PER_DAY = 86_400.0


class LeftOut(DataError):
    """The baseline cannot be fitted on data of this kind or size: the report says so instead of a row."""


class Scorer(Protocol):
    """A fitted baseline."""

    def scores(self, histories: Histories) -> np.ndarray:
        """[B, N] float32, larger is better."""


class Baseline(Protocol):
    """Something that can be fitted in seconds."""

    def fit(self, interactions: Interactions) -> Scorer:
        """Raises LeftOut when the data are not for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PopularityScorer:
    """The same scores for everybody, histories do not matter."""

    counts: np.ndarray
    """[N] float32, events of every item"""

    def scores(self, histories: Histories) -> np.ndarray:
        return np.tile(self.counts, (len(histories), 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Popularity:
    """Number of events of an item."""

    def fit(self, interactions: Interactions) -> PopularityScorer:
        return PopularityScorer(counts=_counts(interactions, np.ones(len(interactions.items), dtype=bool)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentPopularity:
    """Number of events of an item within the last days before the newest event (both ends included)."""

    days: float

    def __post_init__(self) -> None:
        check_ranges("recent popularity", days=(self.days, 1e-6, 1e6))

    def fit(self, interactions: Interactions) -> PopularityScorer:
        """LeftOut when the data have no clock."""
        if interactions.order != "time":
            raise LeftOut("the events have no timestamps")
        age = interactions.timestamps.max() - interactions.timestamps
        return PopularityScorer(counts=_counts(interactions, age <= self.days * SECONDS_PER_DAY))


def _counts(interactions: Interactions, chosen: np.ndarray) -> np.ndarray:
    return np.bincount(interactions.items[chosen], minlength=interactions.num_items).astype(np.float32)
