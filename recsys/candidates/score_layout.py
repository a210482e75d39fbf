"""Columns of the retrieval features of a candidate, which the ranker reads: names, places and values in one place.

Shapes: B queries, C candidates, S sources, E newest events.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.candidates.candidate_source import RECENT_EVENTS
from recsys.candidates.candidate_union import gains_within_source
from recsys.candidates.merge import MergedCandidates
from recsys.contracts import PAD

OF_MERGE = ("merged", "merged:place")
"""merged score, and 1 / log2(2 + position)"""
OF_SOURCE = ("", ":offered", ":place")
"""of each source: its score, also where it did not offer the item; whether it offered it; 1 / log2(2 + position) among its own
candidates, 0 where the item is none"""


@dataclass(frozen=True)
class ScoreLayout:
    """Columns in order: those of the merge, each of OF_SOURCE for all sources, the scores of the newest events by source.

    A sum over the history does not tell the last event's share from the tenth's, hence the events one by one.
    """

    sources: tuple[str, ...]

    @staticmethod
    def unnamed(num_sources: int) -> "ScoreLayout":
        return ScoreLayout(tuple(map(str, range(num_sources))))

    @property
    def names(self) -> tuple[str, ...]:
        events = range(1, RECENT_EVENTS + 1)
        return (
            *OF_MERGE,
            *(f"{source}{suffix}" for suffix in OF_SOURCE for source in self.sources),
            *(f"{source}:event_{number}" for source in self.sources for number in events),
        )

    @property
    def width(self) -> int:
        return len(OF_MERGE) + (len(OF_SOURCE) + RECENT_EVENTS) * len(self.sources)

    def columns_of(self, numbers: Sequence[int]) -> np.ndarray:
        """Return the columns of OF_SOURCE of some sources, by their numbers."""
        blocks = len(OF_MERGE) + np.arange(len(OF_SOURCE))[:, None] * len(self.sources)
        return (blocks + np.array(numbers, dtype=np.int64)).ravel()

    def features(self, merged: MergedCandidates) -> np.ndarray:
        """Return the features [B, C, width] float32, all zero for padding."""
        return np.concatenate(list(self._parts(merged)), axis=-1, dtype=np.float32)

    def _parts(self, merged: MergedCandidates) -> Iterator[np.ndarray]:
        present = merged.rows != PAD
        gains = (1 / np.log2(2 + np.arange(present.shape[1] + 1))).astype(np.float32)
        yield np.where(present, merged.scores, 0)[..., None]
        yield np.where(present, gains[:-1], 0)[..., None]
        yield merged.full_scores
        yield merged.offered
        by_source = (np.moveaxis(one, -1, 0) for one in (merged.full_scores, merged.offered))
        yield np.moveaxis(gains_within_source(*by_source), 0, -1)
        yield merged.event_scores.reshape(*present.shape, -1)
