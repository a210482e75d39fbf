"""Baseline protocol, and the simplest baselines: popularity.

Shapes: N items of the catalogue, B queried users.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from recsys.errors import DataError, check_ranges
from recsys.replay.interactions import Histories, Interactions, Scorer

SECONDS_PER_DAY = 86_400.0


class NotApplicableError(DataError):
    """Raised where a baseline cannot be fitted on data of this kind or size; the report has a note instead of a row."""


class Baseline(Protocol):
    """Reference model that is fitted in seconds."""

    def fit(self, interactions: Interactions) -> Scorer:
        """Fit; raises NotApplicableError where the data do not suit the baseline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerByHistory:
    """Scores of one baseline for users with a history, and of another one for users without.

    A baseline of histories has the same score for all items where there is none; nobody would serve that.
    """

    with_history: Scorer
    without_history: Scorer

    def scores(self, histories: Histories) -> np.ndarray:
        scores = self.with_history.scores(histories)
        if len(new := np.flatnonzero(histories.lengths == 0)):
            scores[new] = self.without_history.scores(histories.batch(new))
        return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class PopularityScorer:
    """Scores that do not depend on the history."""

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
        """Fit; NotApplicableError when the data have no clock."""
        if interactions.order != "time":
            raise NotApplicableError("the events have no timestamps")
        age = interactions.timestamps.max() - interactions.timestamps
        return PopularityScorer(counts=_counts(interactions, age <= self.days * SECONDS_PER_DAY))


def _counts(interactions: Interactions, chosen: np.ndarray) -> np.ndarray:
    return np.bincount(interactions.items[chosen], minlength=interactions.num_items).astype(np.float32)
